#include "server/coordinator/service/run_metrics.h"

#include <string>
#include <utility>

#include "common/metrics/families.h"

namespace sdp {
namespace {

// Each phase is a series, 0 or 1, so that an alert can ask for one that is not now.
constexpr const char* kPhases[] = {"waiting for shards",
                                   "starting shards",
                                   "waiting for workers",
                                   "training",
                                   "paused",
                                   "going back",
                                   "ending",
                                   "over"};

void AddProgress(const proto::RunStatus& status, Families* families) {
  for (const char* const phase : kPhases) {
    families->Gauge("sdp_run_phase", "Whether the run is in this phase.", status.phase() == phase,
                    {{"phase", phase}});
  }
  families->Gauge("sdp_run_planned_steps", "Steps that the run is to take.",
                  static_cast<double>(status.steps()));
  families->Gauge("sdp_run_committed_step", "The newest step that all shards have; -1: none.",
                  static_cast<double>(status.committed()));
  families->Gauge("sdp_run_generation", "Goes up each time the run goes back to a checkpoint.",
                  static_cast<double>(status.generation()));
  families->Gauge("sdp_run_view", "Number of the newest view; goes up when members change.",
                  static_cast<double>(status.view()));
  if (status.has_loss()) {
    families->Gauge("sdp_run_loss_nats",
                    "Mean loss per target of the newest step, before its update.", status.loss());
  }
  if (status.has_full_loss()) {
    families->Gauge("sdp_run_full_loss_nats",
                    "Loss per target of the full model on validation data.", status.full_loss());
  }
  if (status.has_eta_sec())
    families->Gauge("sdp_run_eta_seconds", "Time to the end at the newest pace.", status.eta_sec());
  double waited = 0;
  if (status.waits_size() > 0 && status.waits(0).who() == "the run")
    waited = status.waits(0).since_sec();
  families->Gauge("sdp_run_waiting_seconds", "How long the run has waited for the same members.",
                  waited);
  families->Gauge("sdp_run_samples_to_deal_again",
                  "Samples of lost workers that no step has had since.",
                  static_cast<double>(status.samples_returned()));
}

void AddTotals(const proto::RunStatus::Totals& totals, Families* families) {
  families->Counter("sdp_run_steps_total", "Steps that were finished.",
                    static_cast<double>(totals.steps()));
  families->Counter("sdp_run_skipped_steps_total", "Of these, steps that changed nothing.",
                    static_cast<double>(totals.skipped_steps()));
  families->Counter("sdp_run_samples_total", "Samples trained on.",
                    static_cast<double>(totals.samples()));
  families->Counter("sdp_run_tokens_total", "Tokens trained on, of text.",
                    static_cast<double>(totals.tokens()));
  families->Counter("sdp_run_pulled_bytes_total", "Bytes of values to all workers.",
                    static_cast<double>(totals.pulled_bytes()));
  families->Counter("sdp_run_pushed_bytes_total", "Bytes of gradients from all workers.",
                    static_cast<double>(totals.pushed_bytes()));
  families->Counter("sdp_run_step_seconds_total", "Time from commit to commit.",
                    totals.times().elapsed_sec());
  const std::pair<const char*, double> parts[] = {{"pull", totals.times().pull_sec()},
                                                  {"forward", totals.times().forward_sec()},
                                                  {"backward", totals.times().backward_sec()},
                                                  {"push", totals.times().push_sec()}};
  for (const auto& [part, seconds] : parts) {
    families->Counter("sdp_run_step_part_seconds_total",
                      "Where the steps' time went, mean over workers; pull: waiting for weights.",
                      seconds, {{"part", part}});
  }
  for (const char* const name :
       {"exclude", "go_back", "checkpoint", "checkpoint_failed", "pause"}) {
    if (!totals.events().contains(std::string(name)))
      families->Counter("sdp_run_events_total", "Events, as in events.jsonl.", 0,
                        {{"event", name}});
  }
  for (const auto& [name, count] : totals.events()) {
    families->Counter("sdp_run_events_total", "Events, as in events.jsonl.",
                      static_cast<double>(count), {{"event", name}});
  }
}

void AddMembers(const std::string& role, const proto::RunStatus::RoleCount& count,
                Families* families) {
  for (const auto& [state, members] : count.states()) {
    families->Gauge("sdp_run_members", "Members by role and state.", static_cast<double>(members),
                    {{"role", role}, {"state", state}});
  }
  families->Gauge("sdp_run_longest_silence_seconds",
                  "How long the coordinator has not heard of the most silent member.",
                  count.longest_silence_sec(), {{"role", role}});
}

}  // namespace

std::vector<prometheus::MetricFamily> FamiliesOf(const proto::RunStatus& status,
                                                 const proto::ProcessMemory& memory) {
  Families families;
  AddProgress(status, &families);
  AddTotals(status.totals(), &families);
  AddMembers("worker", status.all_workers(), &families);
  AddMembers("shard", status.all_shards(), &families);
  families.Gauge(
      "sdp_run_worst_memory_ratio",
      "Peak of tensors and buffers / prediction, of the worst worker; 0: nothing predicted.",
      status.worst_memory_ratio());
  if (status.has_checkpoint()) {
    families.Gauge("sdp_checkpoint_step", "Step of the newest complete checkpoint.",
                   static_cast<double>(status.checkpoint()));
    families.Gauge("sdp_checkpoint_age_seconds", "Since it was complete.",
                   status.checkpoint_age_sec());
  }
  families.Gauge("sdp_checkpoint_failed", "Whether a checkpoint of this run has failed.",
                 !status.checkpoint_error().empty());
  families.Gauge("sdp_run_records_failed",
                 "Whether a file of the run folder cannot be written any more.",
                 !status.events_error().empty() || !status.curves_error().empty());
  AddProcess(memory, &families);
  return std::move(families).Take();
}

}  // namespace sdp
