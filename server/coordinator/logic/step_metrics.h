#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/allocated.h"
#include "common/base/ids.h"
#include "server/coordinator/logic/diagnostics.h"

namespace sdp {

// One finished step, as metrics.jsonl and the step line show it. Also the last object of a run:
// `step` = train.steps with full_loss and state_hash and no loss.
struct StepMetrics {
  Generation generation;
  Step step = 0;
  int64_t steps = 0;  // of the run
  std::optional<double>
      loss;  // nats per target: weighted mean of the workers' losses before the update
  std::optional<double>
      full_loss;  // of the full model on the validation samples, at version `step`
  std::optional<double> full_accuracy;  // of classes: the share that is found; with full_loss
  std::optional<uint64_t> state_hash;
  double gradient_norm = 0;
  double clip_scale = 1;
  std::string skipped;  // why the step changed nothing, and has no gradient norm; empty: it did not
  int workers = 0;
  int min_holders = 0, max_holders = 0;          // over the units that are not shared
  int64_t uncovered = 0;                         // fragments without samples
  int64_t samples = 0, tokens = 0;               // tokens: of text
  absl::Duration elapsed;                        // since the step before was committed
  absl::Duration pull, forward, backward, push;  // mean over workers
  absl::Duration run_time;                       // since step 0 was bound
  int64_t pulled_bytes = 0, pushed_bytes = 0;    // all workers
  // The worst member's peak since it started. memory: VmHWM of its process; allocated: tensors and
  // buffers (common/base/allocated.h), of a worker on a GPU those on it, of which the plan predicts
  // the worst worker's.
  int64_t max_worker_memory_bytes = 0;
  int64_t max_worker_allocated_bytes = 0;
  int64_t predicted_worker_allocated_bytes = 0;  // 0: nothing predicted
  // Of the worker with the largest of those peaks, as of its newest report.
  std::string largest_worker;
  MemoryLedger largest_worker_ledger;
  int64_t max_shard_memory_bytes = 0;
  int64_t max_shard_allocated_bytes = 0;
  uint64_t plan_hash = 0;
  // Of its members: excluded, and never reported this step.
  std::vector<Incarnation> lost;
  std::vector<BlockDiagnostics> blocks;  // of all units, if asked for

  // Not the closing step, nor one of which nobody has reported.
  bool trains() const { return loss.has_value() || !skipped.empty(); }
};

}  // namespace sdp
