#include "deploy/command/kube_sizes.h"

#include <algorithm>
#include <cmath>

#include "common/config/config.h"

namespace sdp {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
// LibTorch's libraries and heaps, gRPC's buffers: VmHWM less the ledger's peak is 210 MiB in the
// smallest models and 370 MiB in larger ones (README.md, Measured).
constexpr int64_t kBesideWorker = 512 * kMiB;
// CUDA's libraries and context, too. An estimate: not measured yet.
constexpr int64_t kBesideGpuWorker = 4096 * kMiB;
// 32 MiB in small runs; contributions on their way and records of many fragments come on top.
constexpr int64_t kBesideShard = 256 * kMiB;
constexpr int64_t kDefaultCpus = 2;

int64_t RoundUp(int64_t bytes) { return (bytes + 64 * kMiB - 1) / (64 * kMiB) * (64 * kMiB); }

int64_t WithMargin(int64_t predicted, int64_t beside) {
  return predicted == 0 ? 0 : RoundUp(predicted + predicted / 10 + beside);
}

}  // namespace

int64_t ShardsForLinks(const PlanReport& report, double worker_bandwidth, double shard_bandwidth,
                       int64_t fragments) {
  int64_t busiest = 0, pulled = 0, pushed = 0;
  for (const PlanReport::Worker& worker : report.workers) {
    busiest = std::max({busiest, worker.pull_bytes, worker.push_bytes});
    pulled += worker.pull_bytes;
    pushed += worker.push_bytes;
  }
  if (busiest == 0) return 1;
  const double worker_seconds = static_cast<double>(busiest) / worker_bandwidth;
  const double one_shard_seconds = static_cast<double>(std::max(pulled, pushed)) / shard_bandwidth;
  const auto shards = static_cast<int64_t>(std::ceil(one_shard_seconds / worker_seconds));
  return std::clamp<int64_t>(shards, 1, std::max<int64_t>(fragments, 1));
}

KubeSizes SizesOf(const RunSetup& setup, const PlanReport& report) {
  const RunConfig& config = setup.config;
  KubeSizes sizes;
  sizes.workers = config.cluster().workers();
  sizes.worker_cpus = config.worker().threads() > 0 ? config.worker().threads() : kDefaultCpus;
  sizes.worker_gpus = config.worker().device() == "cuda" ? 1 : 0;
  int64_t worker = 0, carried = 0;
  for (const auto& each : report.workers) {
    worker = std::max(worker, each.memory_bytes);
    carried = std::max(carried, each.pull_bytes + each.push_bytes);
  }
  sizes.worker_memory_bytes = sizes.worker_gpus > 0 ? WithMargin(carried, kBesideGpuWorker)
                                                    : WithMargin(worker, kBesideWorker);
  sizes.shards = config.cluster().shards();
  int64_t shard = 0;
  for (const auto& each : report.shards) shard = std::max(shard, each.memory_bytes);
  // While it writes a checkpoint: older values and states, at most all of them once more.
  const absl::StatusOr<int64_t> buffer = ParseBytes(config.checkpoint().buffer());
  const int64_t kept = std::min(shard, buffer.value_or(0));
  sizes.shard_memory_bytes = WithMargin(shard == 0 ? 0 : shard + kept, kBesideShard);
  return sizes;
}

}  // namespace sdp
