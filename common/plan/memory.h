#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "common/base/allocated.h"
#include "common/base/ids.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "common/model/masking.h"
#include "common/model/stage_memory.h"

// How much memory a plan takes: the peak of Allocated() (common/base/allocated.h) that a worker or
// a shard will reach. Pure functions. They add up what the code allocates, walking the stages as
// worker/model does; no constant is fitted to a measurement. Not in it, as not in the measurement:
// code, stacks, scratch of BLAS, gRPC's slices.
namespace sdp {

// How evaluation cuts its samples: `micro` are computed at once, and a `chunk` of them walks the
// model together, so the model is pulled once per chunk and the boundary activations of a chunk are
// in memory.
struct EvaluationSizes {
  int64_t micro = 1;
  int64_t chunk = 1;
};
// `worker.memory` given: half of it may be boundary activations. Else: without a micro-batch in the
// configuration 2,048 loss terms are computed at once, and 16,384 make a chunk; of images, which
// are one term each, 256 and 2,048, or as many as have a boundary activation of 2^20 and 2^23
// elements, if these are fewer; with one, that is both.
EvaluationSizes EvaluationSizesFor(const Catalog& catalog, int64_t terms_per_sample,
                                   int64_t micro_batch, int64_t worker_memory_bytes,
                                   int64_t activation_bytes);

struct MemoryModel {
  StageMemories stages;  // null: nothing is known of this architecture, or of it on such a worker
  // On a GPU only its memory counts: fragments are in it while they come and go.
  MemoryPlace worker_place = MemoryPlace::kHost;
  Masking masking = Masking::kForward;
  ElementSizes sizes;
  int64_t table_bytes = 0;   // resident on a worker
  int64_t input_bytes = 0;   // of a sample
  int64_t target_bytes = 0;  // likewise
  int64_t global_batch = 1;
  int64_t worker_batch = 0;  // samples of every worker; 0: global_batch is divided
  int64_t micro_batch = 0;  // 0: the whole portion
  EvaluationSizes evaluation;
  bool evaluates = false;
  // Shards.
  const Layout* layout = nullptr;  // outlives the model
  int shards = 1;
  int64_t optimizer_moments = 2;  // f32 vectors per parameter: AdamW 2, SGD with momentum 1
  bool diagnoses = false;         // some steps are compared with the dense gradient
};

// Fragments of gradients on their way from a GPU, beside the one that is being filled.
inline constexpr size_t kMostPassing = 4;

struct MemoryPeak {
  int64_t bytes = 0;
  std::string when;  // "backward of layers.3.mlp": the moment that needs it
};

// Of a worker that holds `units` (ascending, shared ones included) and trains `samples` per step.
// With backward masking it has the weights of all units, and stores what all of them store.
// Assumes the worst of the network: all its weights are there when the forward pass begins, and no
// gradient of the step is acknowledged before its end (or its place taken by the next step's
// weight, which is asked for then: a parameter has one place; that of a weight without gradient is
// taken again as soon as it is released). On a GPU, that gradients leave it as late as may be.
MemoryPeak TrainingMemory(const Catalog& catalog, absl::Span<const UnitId> units,
                          const MemoryModel& model, int64_t samples);

// Of a worker that evaluates its part of the validation samples, at least a chunk of them. The
// gradients of the step before are out by then: the first unit's new version needs them.
MemoryPeak EvaluationMemory(const Catalog& catalog, const MemoryModel& model);

// Rank i's samples of a step, of N: equal portions.
int64_t PortionOf(const MemoryModel& model, int rank, int ranks);

// The larger of both, with that portion.
MemoryPeak WorkerMemory(const Catalog& catalog, absl::Span<const UnitId> units,
                        const MemoryModel& model, int rank, int ranks);

// Of each shard: values and optimizer state of its fragments, and beside them one more vector: the
// sum of a round that is open, or (while an evaluation reads it) the version before. Where steps
// are diagnosed the dense gradient is another one, until the round is over. Rounds of many holders
// that arrive in the worst order, and snapshots, take more.
struct ShardLoad {
  int64_t params = 0;
  int64_t memory_bytes = 0;
};
std::vector<ShardLoad> ShardMemory(const MemoryModel& model);

}  // namespace sdp
