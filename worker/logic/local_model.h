#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/base/wire_buffer.h"

namespace sdp {

// A unit of this worker's subnetwork and the scale of its output (1 for shared units).
struct HeldUnit {
  UnitId unit;
  double factor = 1;
};

// One training step of one worker. Units that are not listed are absent: their part of a stage is
// not computed, and a stage of which no part is left is the identity.
struct TrainTask {
  Step step = 0;
  std::vector<HeldUnit> units;  // ascending
  // Backward masking: the units that are not held, ascending. They are computed with, at factor 1,
  // but get no gradient.
  std::vector<UnitId> read_only;
  std::vector<int64_t> samples;  // indices in the training set, in order; not empty
  std::vector<int64_t> epochs;   // [samples] that each is drawn in; empty: 0
  int64_t micro_batch = 0;       // samples computed at once; 0: all
  // Where the loss is not finite: go on, and hand out gradients that are not either.
  bool hand_out_not_finite = false;
};

// This worker's part of the full model's validation at version `step`.
struct EvaluateTask {
  Step step = 0;
  std::vector<HeldUnit> units;  // all units, with their evaluation factors
  int64_t first_sample = 0;     // validation samples [first_sample, first_sample + samples)
  int64_t samples = 0;
  int64_t micro_batch = 0;  // samples computed at once; 0: all
};

// The gradient of the full model over this worker's portion of training step `step`.
struct DenseTask {
  Step step = 0;
  std::vector<HeldUnit> units;   // all units, with their evaluation factors
  std::vector<int64_t> samples;  // as TrainTask's
  std::vector<int64_t> epochs;
  int64_t micro_batch = 0;  // samples computed at once; 0: all
};

// Sums over loss terms (targets), in nats. The mean loss is loss_sum / terms.
struct LossSum {
  double loss_sum = 0;
  int64_t terms = 0;
  std::optional<int64_t> correct = std::nullopt;  // of classes: targets that were likeliest
};

struct TrainResult {
  LossSum loss;                            // Before the update. No terms: it is not finite.
  absl::Duration wait, forward, backward;  // wait: for weights, inside forward
};

// What a computation asks of the rest of the worker. Threads: called from the compute thread only.
class Exchange {
 public:
  virtual ~Exchange() = default;
  // Says that `unit` will be taken soon (walks of the full model; a training step's units are on
  // their way from its start).
  virtual void Want(UnitId unit) = 0;
  // Blocks until the task's version of the unit's block is here; its fragments in order, each [n]
  // in the wire's type, which the caller owns. Cancelled: the run ends. DeadlineExceeded: named,
  // after a wait without progress.
  virtual absl::StatusOr<std::vector<WireBuffer>> Take(UnitId unit) = 0;
  // The last micro-batch's backward pass begins: from here on gradients become final.
  virtual void BackwardBegins() = 0;
  // Nothing reads the weights of a unit that is not held any more: there is room for the next
  // version's. Once per read-only unit, while the last micro-batch's backward pass goes down.
  virtual void Released(UnitId unit) = 0;
  // A fragment's final mean gradient over the task's loss terms, [n] in the wire's type. Once per
  // held fragment (of a DenseTask: per fragment), any order.
  virtual void Gradient(FragmentId fragment, WireBuffer gradient) = 0;
};

// The computation of one worker: a seam between the step's logic and torch (tests use a fake).
// Blocking; confined to the compute thread. Same task, same weights, same thread count: same bits.
class LocalModel {
 public:
  virtual ~LocalModel() = default;
  // Forward, loss and backward of the subnetwork. OutOfRange - the loss is not finite, and the task
  // does not want to hear of it in its gradients: none was handed out.
  virtual absl::StatusOr<TrainResult> Train(const TrainTask& task, Exchange& exchange) = 0;
  // Forward of the full model, stage by stage, holding the weights of one stage (and the next one's
  // on their way).
  virtual absl::StatusOr<LossSum> Evaluate(const EvaluateTask& task, Exchange& exchange) = 0;
  // Forward and backward of the full model, stage by stage, holding the weights and gradients of
  // one stage (and the next one's weights on their way), and the boundary activations of all
  // samples. Every unit is taken twice, or once where the walk turns. Numbers that are not finite
  // are handed out as they are.
  virtual absl::Status DenseGradient(const DenseTask& task, Exchange& exchange) = 0;
};

}  // namespace sdp
