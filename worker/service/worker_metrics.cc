#include "worker/service/worker_metrics.h"

#include <utility>

#include "common/metrics/families.h"

namespace sdp {

std::vector<prometheus::MetricFamily> FamiliesOf(const proto::WorkerStatus& status) {
  Families families;
  families.Gauge("sdp_worker_ready", "Whether it has said that it can train.", status.ready());
  families.Gauge("sdp_worker_step", "The newest step that it knows of; -1: none.",
                 static_cast<double>(status.step()));
  families.Gauge("sdp_worker_units", "Units of its subnetwork.",
                 static_cast<double>(status.units()));
  families.Gauge("sdp_worker_waiting", "Whether it can do nothing until others have done theirs.",
                 status.waits_size() > 0);
  families.Gauge("sdp_worker_phase_seconds", "How long it has done, or waited for, the same.",
                 status.phase_sec());
  families.Gauge("sdp_worker_status_age_seconds", "Since its loop last said what it does.",
                 status.snapshot_age_sec());
  int connected = 0;
  for (const auto& shard : status.shards()) connected += shard.connected() ? 1 : 0;
  families.Gauge("sdp_worker_shards_connected", "Shards to which both streams are open.",
                 connected);
  families.Gauge("sdp_worker_memory_budget_bytes", "What it may use to train; 0: not limited.",
                 static_cast<double>(status.memory_budget_bytes()));
  const proto::WorkerStatus::Totals& totals = status.totals();
  families.Counter("sdp_worker_steps_total", "Steps that it has reported.",
                   static_cast<double>(totals.steps()));
  families.Counter("sdp_worker_loss_terms_total", "Targets that it has trained on.",
                   static_cast<double>(totals.loss_terms()));
  families.Counter("sdp_worker_pulled_bytes_total", "Bytes of values that it has read to train.",
                   static_cast<double>(totals.pulled_bytes()));
  families.Counter("sdp_worker_pushed_bytes_total", "Bytes of gradients that it has sent.",
                   static_cast<double>(totals.pushed_bytes()));
  families.Counter("sdp_worker_memberships_total",
                   "How often it has registered, and been let in or not.",
                   static_cast<double>(totals.lives()));
  const std::pair<const char*, double> parts[] = {{"pull", totals.pull_sec()},
                                                  {"forward", totals.forward_sec()},
                                                  {"backward", totals.backward_sec()},
                                                  {"push", totals.push_sec()}};
  for (const auto& [part, seconds] : parts) {
    families.Counter("sdp_worker_step_part_seconds_total",
                     "Where its steps' time went; pull: waiting for weights.", seconds,
                     {{"part", part}});
  }
  AddLedger(status.ledger(), &families);
  AddProcess(status.memory(), &families);
  return std::move(families).Take();
}

}  // namespace sdp
