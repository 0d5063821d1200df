#include "deploy/command/status_text.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "common/base/allocated.h"
#include "common/base/hash.h"
#include "common/control/convert.h"
#include "deploy/command/event_line.h"
#include "deploy/command/text_table.h"

namespace sdp {
namespace {

std::string Header(const proto::RunStatus& run) {
  std::string text = absl::StrFormat("run %s: %s, %d/%d steps complete, generation %d, plan %s\n",
                                     run.run_dir(), run.phase(), run.committed() + 1, run.steps(),
                                     run.generation(), HashText(run.plan_hash()));
  if (!run.waiting_for().empty()) {
    const bool timed = run.waits_size() > 0 && run.waits(0).since_sec() >= 1;
    absl::StrAppend(&text, run.waiting_for(),
                    timed ? absl::StrCat(", since ", SecondsText(run.waits(0).since_sec())) : "",
                    "\n");
  }
  std::string numbers;
  if (run.has_loss()) absl::StrAppendFormat(&numbers, "loss %.4f  ", run.loss());
  if (run.has_full_loss()) {
    absl::StrAppendFormat(&numbers, "full loss %.4f (step %d)  ", run.full_loss(),
                          run.full_loss_step());
  }
  if (run.tokens_per_sec() > 0)
    absl::StrAppendFormat(&numbers, "%.0f tok/s  ", run.tokens_per_sec());
  if (run.has_eta_sec()) {
    absl::StrAppend(&numbers, "eta ",
                    absl::FormatDuration(absl::Seconds(std::round(run.eta_sec()))));
  }
  numbers.erase(numbers.find_last_not_of(' ') + 1);
  if (!numbers.empty()) absl::StrAppend(&text, numbers, "\n");
  if (run.train_samples() > 0) {
    absl::StrAppendFormat(
        &text, "%d samples dealt, epoch %.2f", run.samples_dealt(),
        static_cast<double>(run.samples_dealt()) / static_cast<double>(run.train_samples()));
    if (run.samples_returned() > 0)
      absl::StrAppendFormat(&text, "; %d of lost workers to be dealt again",
                            run.samples_returned());
    absl::StrAppend(&text, "\n");
  }
  if (run.view() > 0) {
    absl::StrAppend(&text, "view ", run.view(),
                    run.view_reason().empty()
                        ? ""
                        : absl::StrCat(" from step ", run.view_step(), ": ", run.view_reason()),
                    "\n");
  }
  if (run.step_times().elapsed_sec() > 0) {
    const proto::RunStatus::StepTimes& times = run.step_times();
    absl::StrAppendFormat(
        &text, "newest step %.3f s: pull-wait %.3f, forward %.3f, backward %.3f, push %.3f\n",
        times.elapsed_sec(), times.pull_sec(), times.forward_sec(), times.backward_sec(),
        times.push_sec());
  }
  if (run.has_checkpoint()) {
    absl::StrAppend(&text, "checkpoint ", run.checkpoint(), ", complete for ",
                    absl::FormatDuration(absl::Seconds(std::round(run.checkpoint_age_sec()))),
                    "\n");
  }
  if (!run.checkpoint_error().empty()) {
    absl::StrAppend(&text, "ERROR: ", run.checkpoint_error(), "\n");
  }
  if (!run.page_address().empty())
    absl::StrAppend(&text, "status page http://", run.page_address(), "/\n");
  return text;
}

std::string Members(const proto::RunStatus& run) {
  std::vector<Row> rows = {{"role", "name", "state", "step", "units", "samples", "samples/s",
                            "silent", "process", "allocated", "peak", "predicted", "address",
                            "doing"}};
  for (const proto::RunStatus::Member& member : run.members()) {
    const bool worker = member.role() == "worker";
    const bool long_ago = member.phase_sec() >= 5;
    rows.push_back(
        {member.role(), member.name(), OrDash(member.state()), StepText(member.step()),
         worker ? absl::StrCat(member.units()) : "-", worker ? absl::StrCat(member.samples()) : "-",
         member.samples_per_sec() > 0 ? absl::StrFormat("%.1f", member.samples_per_sec()) : "-",
         absl::StrFormat("%.1f s", member.silence_sec()), MemoryText(member.peak_memory_bytes()),
         MemoryText(member.allocated_bytes()), MemoryText(member.allocated_peak_bytes()),
         MemoryText(member.predicted_bytes()), OrDash(member.address()),
         absl::StrCat(OrDash(member.phase()),
                      long_ago ? absl::StrCat(", for ", SecondsText(member.phase_sec())) : "")});
  }
  if (rows.size() == 1) return "no members yet\n";
  return absl::StrCat(TableText(rows),
                      run.members_left_out() == 0
                          ? ""
                          : absl::StrCat("and ", run.members_left_out(), " more workers\n"));
}

// Who holds each unit, and how far it is on its shards.
std::string Units(const proto::RunStatus& run, const std::vector<ShardAnswer>& shards) {
  if (run.units_size() == 0) return "";
  std::map<std::string, std::vector<std::string>> state;  // of a unit, by shard
  std::map<int64_t, std::string> names;
  for (const proto::RunStatus::Member& member : run.members()) {
    if (member.role() == "worker") names[member.number()] = member.name();
  }
  for (const ShardAnswer& shard : shards) {
    if (!shard.status.ok()) continue;
    for (const proto::ShardStatus::Block& block : shard.status->blocks()) {
      std::string text = absl::StrCat(shard.name, " v", block.oldest_version());
      if (block.newest_version() > block.oldest_version())
        absl::StrAppend(&text, "-", block.newest_version());
      if (block.open_rounds() > 0) {
        std::vector<std::string> missing;
        for (const int64_t worker : block.missing()) {
          const auto name = names.find(worker);
          missing.push_back(name == names.end() ? absl::StrCat("incarnation ", worker)
                                                : name->second);
        }
        absl::StrAppend(&text, " ", block.contributions(), "/", block.holders(), " (waits for ",
                        absl::StrJoin(missing, ", "), ")");
      }
      state[block.name()].push_back(std::move(text));
    }
  }
  std::vector<Row> rows = {{"unit", "values", "holders", "who", "versions and contributions"}};
  for (const proto::RunStatus::Unit& unit : run.units()) {
    std::string who = unit.shared() ? "all" : absl::StrJoin(unit.holder_names(), " ");
    const int64_t more = unit.holders() - unit.holder_names_size();
    if (!unit.shared() && more > 0) absl::StrAppend(&who, " and ", more, " more");
    rows.push_back({unit.name(), MemoryText(unit.value_bytes()), absl::StrCat(unit.holders()),
                    OrDash(who), OrDash(absl::StrJoin(state[unit.name()], "; "))});
  }
  const int64_t left_out = run.units_in_all() - run.units_size();
  return absl::StrCat("\n", TableText(rows),
                      left_out > 0 ? absl::StrCat("and ", left_out, " more units\n") : "");
}

// Who waits for what, but for the run itself, which the header has.
std::string Waits(const proto::RunStatus& run, const std::vector<ShardAnswer>& shards) {
  std::vector<Row> rows = {{"waiting", "since", "for", "of"}};
  const auto add = [&rows](const proto::Wait& wait) {
    if (wait.who() == "the run") return;
    rows.push_back({wait.who(), SecondsText(wait.since_sec()), wait.for_what(),
                    absl::StrCat(OrDash(absl::StrJoin(wait.whom(), ", ")),
                                 wait.more() > 0 ? " and more" : "")});
  };
  for (const proto::Wait& wait : run.waits()) add(wait);
  for (const ShardAnswer& shard : shards) {
    if (!shard.status.ok()) continue;
    for (const proto::Wait& wait : shard.status->waits()) add(wait);
  }
  if (rows.size() == 1) return "";
  return absl::StrCat(
      "\n", TableText(rows),
      run.waits_left_out() > 0 ? absl::StrCat("and ", run.waits_left_out(), " more wait\n") : "");
}

// What the workers' tensors and buffers are for: when they last reported a step, and at their peak.
std::string Ledgers(const proto::RunStatus& run) {
  std::vector<Row> rows = {{"worker"}};
  for (const char* const kind : kMemoryKindNames) rows.front().push_back(kind);
  rows.front().insert(rows.front().end(), {"peak", "predicted"});
  for (const proto::RunStatus::Member& member : run.members()) {
    if (member.role() != "worker" || member.step() < 0) continue;
    const MemoryLedger ledger = FromProto(member.ledger());
    Row row = {member.name()};
    for (size_t kind = 0; kind < kMemoryKinds; ++kind) {
      row.push_back(
          absl::StrCat(MemoryText(ledger.now[kind]), " / ", MemoryText(ledger.peak[kind])));
    }
    row.push_back(MemoryText(member.allocated_peak_bytes()));
    row.push_back(MemoryText(member.predicted_bytes()));
    rows.push_back(std::move(row));
  }
  if (rows.size() == 1) return "";
  return absl::StrCat("\nmemory now / at the peak\n", TableText(rows));
}

std::string Shards(const std::vector<ShardAnswer>& shards) {
  std::vector<Row> rows = {{"shard", "versions", "fragments", "parameters", "values", "optimizer",
                            "open rounds", "pending pulls"}};
  std::string silent;
  for (const ShardAnswer& shard : shards) {
    if (!shard.status.ok()) {
      absl::StrAppend(&silent, shard.name, " did not say more: ", shard.status.status().message(),
                      "\n");
      continue;
    }
    const proto::ShardStatus& status = *shard.status;
    rows.push_back(
        {shard.name, absl::StrCat(status.oldest_version(), "-", status.newest_version()),
         absl::StrCat(status.fragments()), absl::StrCat(status.parameters()),
         MemoryText(status.value_bytes()), MemoryText(status.optimizer_bytes()),
         absl::StrFormat("%d (%s)", status.open_rounds(), MemoryText(status.round_bytes())),
         absl::StrCat(status.pending_pulls())});
  }
  return absl::StrCat(rows.size() == 1 ? "" : TableText(rows), silent);
}

// The newest ones; --json has more of them.
std::string Events(const proto::RunStatus& run) {
  constexpr int kShown = 10;
  std::vector<Row> rows;
  for (int i = std::max(0, run.events_size() - kShown); i < run.events_size(); ++i) {
    const EventLine event = ReadEventLine(run.events(i));
    rows.push_back({event.time, event.text});
  }
  return absl::StrCat(rows.empty() ? "" : "\nnewest events\n", TableText(rows),
                      run.events_error().empty() ? "" : "ERROR: ", run.events_error(),
                      run.events_error().empty() ? "" : "\n",
                      run.curves_error().empty() ? "" : "ERROR: ", run.curves_error(),
                      run.curves_error().empty() ? "" : "\n");
}

}  // namespace

std::string RunningText(const proto::RunStatus& run, const std::vector<ShardAnswer>& shards) {
  return absl::StrCat(Header(run), Members(run), Ledgers(run), Shards(shards), Units(run, shards),
                      Waits(run, shards), Events(run));
}

std::string EndedText(const std::string& run_dir, RunEnd end, const RunMetrics& metrics) {
  std::string how;
  switch (end) {
    case RunEnd::kFinished:
      how = "finished";
      break;
    case RunEnd::kStopped:
      how = absl::StrCat("stopped on request at step ", metrics.last_step);
      break;
    case RunEnd::kBrokenOff:
      how =
          absl::StrCat("not running, and it did not end in order (", run_dir, "/logs may say why)");
      break;
  }
  if (metrics.last_line.empty()) {
    return absl::StrCat("run ", run_dir,
                        ": not running; it ended before its first step was complete\n");
  }
  return absl::StrCat("run ", run_dir, ": ", how, "; last line of metrics.jsonl:\n",
                      metrics.last_line, "\n");
}

}  // namespace sdp
