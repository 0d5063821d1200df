#include "common/control/status_json.h"

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "common/base/allocated.h"
#include "common/base/hash.h"
#include "common/control/convert.h"

namespace sdp {
namespace {

using Json = nlohmann::ordered_json;

// An event as it stands in events.jsonl. A line of another version may lack a key.
Json EventOf(const std::string& line) {
  Json json = Json::parse(line, /*cb=*/nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json : Json::object();
}

Json KindsJson(const BytesByKind& bytes) {
  Json json;
  for (size_t kind = 0; kind < kMemoryKinds; ++kind) json[kMemoryKindNames[kind]] = bytes[kind];
  return json;
}

Json TimesJson(const proto::RunStatus::StepTimes& times) {
  Json json;
  if (times.elapsed_sec() > 0) json["elapsed_sec"] = times.elapsed_sec();
  json["pull_sec"] = times.pull_sec();
  json["forward_sec"] = times.forward_sec();
  json["backward_sec"] = times.backward_sec();
  json["push_sec"] = times.push_sec();
  return json;
}

Json TotalsJson(const proto::RunStatus::Totals& totals) {
  Json json = {{"steps", totals.steps()},
               {"skipped_steps", totals.skipped_steps()},
               {"samples", totals.samples()},
               {"tokens", totals.tokens()},
               {"pulled_bytes", totals.pulled_bytes()},
               {"pushed_bytes", totals.pushed_bytes()},
               {"times", TimesJson(totals.times())}};
  const std::map<std::string, int64_t> events(totals.events().begin(), totals.events().end());
  json["events"] = events;
  return json;
}

Json CountJson(const proto::RunStatus::RoleCount& count) {
  const std::map<std::string, int64_t> states(count.states().begin(), count.states().end());
  return {{"states", states}, {"longest_silence_sec", count.longest_silence_sec()}};
}

Json UnitJson(const proto::RunStatus::Unit& unit) {
  Json json = {{"name", unit.name()},
               {"shared", unit.shared()},
               {"parameters", unit.parameters()},
               {"value_bytes", unit.value_bytes()},
               {"holders", unit.holders()},
               {"holder_names", Json::array()},
               {"shards", Json::array()}};
  for (const std::string& name : unit.holder_names()) json["holder_names"].push_back(name);
  for (const int shard : unit.shards()) json["shards"].push_back(shard);
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
               {"step", member.step()},
               {"state", member.state()},
               {"phase_sec", member.phase_sec()},
               {"waits", member.waits()},
               {"memory_bytes", member.memory_bytes()},
               {"allocated_bytes", member.allocated_bytes()}};
  if (member.predicted_bytes() > 0) json["predicted_bytes"] = member.predicted_bytes();
  if (member.role() == "worker") {
    json["samples"] = member.samples();
    json["units"] = member.units();
  }
  if (member.role() == "worker" && member.step() >= 0) {
    const MemoryLedger ledger = FromProto(member.ledger());
    json["now_bytes"] = KindsJson(ledger.now);
    json["peak_bytes"] = KindsJson(ledger.peak);
    json["samples_per_sec"] = member.samples_per_sec();
    json["times"] = TimesJson(member.times());
    json["pulled_bytes"] = member.pulled_bytes();
    json["pushed_bytes"] = member.pushed_bytes();
  }
  if (!member.held().empty()) json["held"] = member.held();
  if (!member.address().empty()) json["address"] = member.address();
  if (!member.metrics_address().empty()) json["metrics_address"] = member.metrics_address();
  return json;
}

}  // namespace

Json WaitJson(const proto::Wait& wait) {
  Json json = {{"who", wait.who()}, {"for_what", wait.for_what()}, {"since_sec", wait.since_sec()}};
  for (const std::string& whom : wait.whom()) json["whom"].push_back(whom);
  if (wait.more() > 0) json["more"] = wait.more();
  return json;
}

Json RunStatusJson(const proto::RunStatus& run) {
  Json json = {{"run_dir", run.run_dir()},
               {"time_sec", run.time_sec()},
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
  json["view"] = run.view();
  json["view_step"] = run.view_step();
  if (!run.view_reason().empty()) json["view_reason"] = run.view_reason();
  json["step_times"] = TimesJson(run.step_times());
  json["totals"] = TotalsJson(run.totals());
  json["workers_wanted"] = run.workers_wanted();
  json["all_workers"] = CountJson(run.all_workers());
  json["all_shards"] = CountJson(run.all_shards());
  json["waits"] = Json::array();
  for (const proto::Wait& wait : run.waits()) json["waits"].push_back(WaitJson(wait));
  json["waits_left_out"] = run.waits_left_out();
  if (run.worst_memory_ratio() > 0) json["worst_memory_ratio"] = run.worst_memory_ratio();
  if (!run.metrics_address().empty()) json["metrics_address"] = run.metrics_address();
  if (!run.page_address().empty()) json["page_address"] = run.page_address();
  json["members_left_out"] = run.members_left_out();
  json["units_in_all"] = run.units_in_all();
  for (const auto& unit : run.units()) json["units"].push_back(UnitJson(unit));
  json["members"] = Json::array();
  for (const proto::RunStatus::Member& member : run.members()) {
    json["members"].push_back(MemberJson(member));
  }
  json["events"] = Json::array();
  for (const std::string& event : run.events()) json["events"].push_back(EventOf(event));
  if (!run.events_error().empty()) json["events_error"] = run.events_error();
  if (!run.curves_error().empty()) json["curves_error"] = run.curves_error();
  return json;
}

}  // namespace sdp
