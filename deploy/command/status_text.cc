#include "deploy/command/status_text.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "common/base/allocated.h"
#include "common/base/hash.h"
#include "common/control/convert.h"

namespace sdp {
namespace {

using Json = nlohmann::ordered_json;
using Row = std::vector<std::string>;

// Columns as wide as their widest cell, two spaces between them.
std::string Table(const std::vector<Row>& rows) {
  std::vector<size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      absl::StrAppendFormat(&line, "%-*s  ", static_cast<int>(widths[i]), row[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

std::string BytesText(int64_t bytes) {
  if (bytes <= 0) return "-";
  if (bytes >= int64_t{1} << 30) return absl::StrFormat("%.2f GiB", std::ldexp(bytes, -30));
  return absl::StrFormat("%.1f MiB", std::ldexp(bytes, -20));
}

std::string OrDash(const std::string& text) { return text.empty() ? "-" : text; }
std::string StepText(int64_t step) { return step < 0 ? "-" : absl::StrCat(step); }

std::string Header(const proto::RunStatus& run) {
  std::string text = absl::StrFormat("run %s: %s, %d/%d steps complete, generation %d, plan %s\n",
                                     run.run_dir(), run.phase(), run.committed() + 1, run.steps(),
                                     run.generation(), HashText(run.plan_hash()));
  if (!run.waiting_for().empty()) absl::StrAppend(&text, run.waiting_for(), "\n");
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
  if (run.has_checkpoint()) {
    absl::StrAppend(&text, "checkpoint ", run.checkpoint(), ", complete for ",
                    absl::FormatDuration(absl::Seconds(std::round(run.checkpoint_age_sec()))),
                    "\n");
  }
  if (!run.checkpoint_error().empty()) {
    absl::StrAppend(&text, "ERROR: ", run.checkpoint_error(), "\n");
  }
  return text;
}

std::string Members(const proto::RunStatus& run) {
  std::vector<Row> rows = {{"role", "name", "step", "samples", "silent", "process", "allocated",
                            "predicted", "address", "doing"}};
  for (const proto::RunStatus::Member& member : run.members()) {
    rows.push_back({member.role(), member.name(), StepText(member.step()),
                    member.role() == "worker" ? absl::StrCat(member.samples()) : "-",
                    absl::StrFormat("%.1f s", member.silence_sec()),
                    BytesText(member.peak_memory_bytes()), BytesText(member.allocated_peak_bytes()),
                    BytesText(member.predicted_bytes()), OrDash(member.address()),
                    OrDash(member.phase())});
  }
  return rows.size() == 1 ? "no members yet\n" : Table(rows);
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
      row.push_back(absl::StrCat(BytesText(ledger.now[kind]), " / ", BytesText(ledger.peak[kind])));
    }
    row.push_back(BytesText(member.allocated_peak_bytes()));
    row.push_back(BytesText(member.predicted_bytes()));
    rows.push_back(std::move(row));
  }
  if (rows.size() == 1) return "";
  return absl::StrCat("\nmemory now / at the peak\n", Table(rows));
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
         BytesText(status.value_bytes()), BytesText(status.optimizer_bytes()),
         absl::StrFormat("%d (%s)", status.open_rounds(), BytesText(status.round_bytes())),
         absl::StrCat(status.pending_pulls())});
  }
  return absl::StrCat(rows.size() == 1 ? "" : Table(rows), silent);
}

// An event as it stands in events.jsonl. A line of another version may lack a key.
Json EventOf(const std::string& line) {
  Json json = Json::parse(line, /*cb=*/nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json : Json::object();
}

std::string TextOf(const Json& event, const char* key) {
  const auto value = event.find(key);
  return value != event.end() && value->is_string() ? value->get<std::string>() : "-";
}

// The newest ones; --json has more of them.
std::string Events(const proto::RunStatus& run) {
  constexpr int kShown = 10;
  std::vector<Row> rows;
  for (int i = std::max(0, run.events_size() - kShown); i < run.events_size(); ++i) {
    const Json event = EventOf(run.events(i));
    rows.push_back({TextOf(event, "time"), TextOf(event, "text")});
  }
  return absl::StrCat(rows.empty() ? "" : "\nnewest events\n", Table(rows),
                      run.events_error().empty() ? "" : "ERROR: ", run.events_error(),
                      run.events_error().empty() ? "" : "\n");
}

Json KindsJson(const BytesByKind& bytes) {
  Json json;
  for (size_t kind = 0; kind < kMemoryKinds; ++kind) json[kMemoryKindNames[kind]] = bytes[kind];
  return json;
}

Json MemberJson(const proto::RunStatus::Member& member) {
  Json json = {{"role", member.role()},
               {"name", member.name()},
               {"number", member.number()},
               {"phase", member.phase()},
               {"silence_sec", member.silence_sec()},
               {"peak_memory_bytes", member.peak_memory_bytes()},
               {"allocated_peak_bytes", member.allocated_peak_bytes()},
               {"step", member.step()}};
  if (member.predicted_bytes() > 0) json["predicted_bytes"] = member.predicted_bytes();
  if (member.role() == "worker") json["samples"] = member.samples();
  if (member.role() == "worker" && member.step() >= 0) {
    const MemoryLedger ledger = FromProto(member.ledger());
    json["now_bytes"] = KindsJson(ledger.now);
    json["peak_bytes"] = KindsJson(ledger.peak);
  }
  if (!member.address().empty()) json["address"] = member.address();
  return json;
}

Json ShardJson(const ShardAnswer& shard) {
  if (!shard.status.ok()) {
    return {{"name", shard.name}, {"error", std::string(shard.status.status().message())}};
  }
  const proto::ShardStatus& status = *shard.status;
  return {{"name", shard.name},
          {"address", status.address()},
          {"shard", status.shard()},
          {"generation", status.generation()},
          {"term", status.term()},
          {"fragments", status.fragments()},
          {"parameters", status.parameters()},
          {"oldest_version", status.oldest_version()},
          {"newest_version", status.newest_version()},
          {"value_bytes", status.value_bytes()},
          {"optimizer_bytes", status.optimizer_bytes()},
          {"retained_bytes", status.retained_bytes()},
          {"round_bytes", status.round_bytes()},
          {"open_rounds", status.open_rounds()},
          {"pending_pulls", status.pending_pulls()},
          {"uncovered_fragment_steps", status.uncovered_fragment_steps()},
          {"peak_memory_bytes", status.peak_memory_bytes()},
          {"allocated_peak_bytes", status.allocated_peak_bytes()},
          {"push_streams", status.push_streams()},
          {"pull_streams", status.pull_streams()}};
}

}  // namespace

std::string RunningText(const proto::RunStatus& run, const std::vector<ShardAnswer>& shards) {
  return absl::StrCat(Header(run), Members(run), Ledgers(run), Shards(shards), Events(run));
}

std::string RunningJson(const proto::RunStatus& run, const std::vector<ShardAnswer>& shards) {
  Json json = {{"running", true},
               {"run_dir", run.run_dir()},
               {"phase", run.phase()},
               {"waiting_for", run.waiting_for()},
               {"generation", run.generation()},
               {"step", run.step()},
               {"committed", run.committed()},
               {"steps", run.steps()},
               {"plan_hash", HashText(run.plan_hash())},
               {"samples_dealt", run.samples_dealt()},
               {"samples_returned", run.samples_returned()},
               {"train_samples", run.train_samples()},
               {"tokens_per_sec", run.tokens_per_sec()}};
  if (run.has_loss()) json["loss"] = run.loss();
  if (run.has_full_loss()) {
    json["full_loss"] = run.full_loss();
    json["full_loss_step"] = run.full_loss_step();
  }
  if (run.has_eta_sec()) json["eta_sec"] = run.eta_sec();
  if (run.has_checkpoint()) {
    json["checkpoint"] = run.checkpoint();
    json["checkpoint_age_sec"] = run.checkpoint_age_sec();
  }
  if (!run.checkpoint_error().empty()) json["checkpoint_error"] = run.checkpoint_error();
  json["members"] = Json::array();
  for (const proto::RunStatus::Member& member : run.members()) {
    json["members"].push_back(MemberJson(member));
  }
  json["shards"] = Json::array();
  for (const ShardAnswer& shard : shards) json["shards"].push_back(ShardJson(shard));
  json["events"] = Json::array();
  for (const std::string& event : run.events()) json["events"].push_back(EventOf(event));
  if (!run.events_error().empty()) json["events_error"] = run.events_error();
  return json.dump(2) + "\n";
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

std::string EndedJson(const std::string& run_dir, RunEnd end, const RunMetrics& metrics) {
  const char* how = end == RunEnd::kFinished  ? "finished"
                    : end == RunEnd::kStopped ? "stopped"
                                              : "broken off";
  Json json = {{"running", false}, {"run_dir", run_dir}, {"end", how}};
  if (!metrics.last_line.empty()) json["last"] = Json::parse(metrics.last_line);
  return json.dump(2) + "\n";
}

}  // namespace sdp
