#include "server/shard/service/shard_metrics.h"

#include <utility>

#include "common/metrics/families.h"

namespace sdp {

std::vector<prometheus::MetricFamily> FamiliesOf(const proto::ShardStatus& status) {
  Families families;
  families.Gauge("sdp_shard_ready", "Whether it serves its parameters.", status.shards() > 0);
  families.Gauge("sdp_shard_oldest_version",
                 "All its fragments have this version: the step it is at.",
                 static_cast<double>(status.oldest_version()));
  families.Gauge("sdp_shard_fragments", "Fragments that it owns.",
                 static_cast<double>(status.fragments()));
  families.Gauge("sdp_shard_parameters", "Parameters in them.",
                 static_cast<double>(status.parameters()));
  const std::pair<const char*, int64_t> kinds[] = {
      {"values", status.value_bytes()},      {"optimizer", status.optimizer_bytes()},
      {"retained", status.retained_bytes()}, {"rounds", status.round_bytes()},
      {"snapshot", status.snapshot_bytes()}, {"incoming", status.incoming_bytes()}};
  for (const auto& [kind, bytes] : kinds) {
    families.Gauge(
        "sdp_shard_held_bytes",
        "What its memory is for; rounds: sums of open ones, retained: older versions that "
        "are still read.",
        static_cast<double>(bytes), {{"kind", kind}});
  }
  families.Gauge("sdp_shard_open_rounds", "Rounds that have begun and wait for holders.",
                 static_cast<double>(status.open_rounds()));
  families.Gauge("sdp_shard_pending_pulls", "Pulls of versions that do not exist yet.",
                 static_cast<double>(status.pending_pulls()));
  families.Gauge("sdp_shard_streams", "Open streams of workers.", status.push_streams(),
                 {{"kind", "push"}});
  families.Gauge("sdp_shard_streams", "Open streams of workers.", status.pull_streams(),
                 {{"kind", "pull"}});
  families.Gauge("sdp_shard_since_step_seconds", "Since it finished a step.", status.step_sec());
  families.Counter("sdp_shard_uncovered_fragment_steps_total",
                   "Fragments that had no samples in a step, over all steps.",
                   static_cast<double>(status.uncovered_fragment_steps()));
  families.Counter("sdp_shard_logic_cpu_seconds_total",
                   "Processor time of the thread that sums gradients and updates values.",
                   status.logic_cpu_sec());
  AddProcess(status.memory(), &families);
  return std::move(families).Take();
}

}  // namespace sdp
