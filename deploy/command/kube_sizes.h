#pragma once

#include <cstdint>

#include "common/plan/report.h"
#include "common/run/run_setup.h"

// What the processes of a run ask of a Kubernetes. Pure functions of its plan.
namespace sdp {

struct KubeSizes {
  int64_t workers = 0;
  int64_t worker_cpus = 0;
  int64_t worker_gpus = 0;          // 1 with worker.device = "cuda"
  int64_t worker_memory_bytes = 0;  // of the host; 0: the plan predicts none
  int64_t shards = 0;
  int64_t shard_memory_bytes = 0;  // likewise
};

// As few as are no slower than the workers: a worker's link is busy for the larger of what it pulls
// and pushes, and all of that of all workers goes over the shards' links together, the same way.
// Bandwidths in bytes per second of a link, each way. At least 1, at most `fragments`.
int64_t ShardsForLinks(const PlanReport& report, double worker_bandwidth, double shard_bandwidth,
                       int64_t fragments);

// Memory is the predicted peak, a tenth more for what only a run shows, and what a process takes
// beside its tensors and buffers; of a shard also what `checkpoint.buffer` lets it keep. Rounded up
// to 64 MiB. The predicted peak of a worker on a GPU is the GPU's; of the host it takes what a step
// brings and sends.
KubeSizes SizesOf(const RunSetup& setup, const PlanReport& report);

}  // namespace sdp
