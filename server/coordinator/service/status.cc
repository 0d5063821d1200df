// CoordinatorService: its status, as people and metrics see it. On the loop; what it costs is
// bounded.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/control/convert.h"
#include "server/coordinator/service/service.h"

namespace sdp {
namespace {

constexpr int kMostWorkers = 4096;  // that one answer lists
constexpr int kMostUnits = 1024;
constexpr int kMostWaits = 16;  // of members

double Seconds(absl::Duration duration) {
  return duration < absl::InfiniteDuration() && duration > absl::ZeroDuration()
             ? absl::ToDoubleSeconds(duration)
             : 0;
}

proto::RunStatus::StepTimes TimesOf(const StepMetrics& metrics) {
  proto::RunStatus::StepTimes times;
  times.set_elapsed_sec(Seconds(metrics.elapsed));
  times.set_pull_sec(Seconds(metrics.pull));
  times.set_forward_sec(Seconds(metrics.forward));
  times.set_backward_sec(Seconds(metrics.backward));
  times.set_push_sec(Seconds(metrics.push));
  return times;
}

void AddTimes(const proto::RunStatus::StepTimes& more, proto::RunStatus::StepTimes* times) {
  times->set_elapsed_sec(times->elapsed_sec() + more.elapsed_sec());
  times->set_pull_sec(times->pull_sec() + more.pull_sec());
  times->set_forward_sec(times->forward_sec() + more.forward_sec());
  times->set_backward_sec(times->backward_sec() + more.backward_sec());
  times->set_push_sec(times->push_sec() + more.push_sec());
}

void FillCount(const RunStatus::Count& count, proto::RunStatus::RoleCount* message) {
  for (const auto& [state, members] : count.states) (*message->mutable_states())[state] = members;
  message->set_longest_silence_sec(Seconds(count.longest_silence));
}

}  // namespace

void CoordinatorService::SetHttpAddresses(const std::string& metrics, const std::string& page) {
  loop_->Post([this, metrics, page] {
    metrics_address_ = metrics;
    page_address_ = page;
  });
}

absl::Status CoordinatorService::Ready() const {
  if (!over_.has_value()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the run is over: ", over_->ok() ? "finished" : over_->message()));
}

void CoordinatorService::CountStep(const StepMetrics& metrics) {
  if (!metrics.trains()) return;
  step_times_ = TimesOf(metrics);
  totals_.set_steps(totals_.steps() + 1);
  if (!metrics.skipped.empty()) totals_.set_skipped_steps(totals_.skipped_steps() + 1);
  totals_.set_samples(totals_.samples() + metrics.samples);
  totals_.set_tokens(totals_.tokens() + metrics.tokens);
  totals_.set_pulled_bytes(totals_.pulled_bytes() + metrics.pulled_bytes);
  totals_.set_pushed_bytes(totals_.pushed_bytes() + metrics.pushed_bytes);
  AddTimes(step_times_, totals_.mutable_times());
}

void CoordinatorService::CountEvent(const RunEvent& event) {
  ++(*totals_.mutable_events())[std::string(EventName(event.kind))];
  const bool out = event.kind == RunEvent::Kind::kExclude || event.kind == RunEvent::Kind::kLetGo;
  if (const auto member = members_.find({Role::kWorker, event.incarnation.value()});
      out && member != members_.end())
    member->second.waits = false;  // whatever it said last
  switch (event.kind) {
    case RunEvent::Kind::kReady:
    case RunEvent::Kind::kLeave:
    case RunEvent::Kind::kExclude:
      member_change_ = EventText(event);
      break;
    case RunEvent::Kind::kReplan:
      view_step_ = event.step;
      view_reason_ = member_change_.empty() ? event.reason : std::exchange(member_change_, "");
      break;
    default:
      break;
  }
}

// So a wait that lasts is seen within a second, and one that does not is nobody's trouble.
void CoordinatorService::WatchWaiting(absl::Time now) {
  std::string waiting = over_.has_value() ? "" : WaitingFor();
  if (waiting == waiting_) return;
  waiting_ = std::move(waiting);
  waiting_since_ = now;
}

const CoordinatorService::Member* CoordinatorService::FindMember(
    const RunStatus::Member& member) const {
  const auto found =
      members_.find({member.role == "shard" ? Role::kShard : Role::kWorker, member.number});
  return found == members_.end() ? nullptr : &found->second;
}

void CoordinatorService::FillMember(const RunStatus::Member& member, absl::Time now,
                                    proto::RunStatus::Member* message) const {
  message->set_role(member.role);
  message->set_name(member.name);
  message->set_number(member.number);
  message->set_address(member.address);
  message->set_phase(member.phase);
  message->set_silence_sec(absl::ToDoubleSeconds(member.silence));
  message->set_step(member.step);
  message->set_samples(member.samples);
  message->set_state(member.state);
  message->set_units(member.units);
  if (member.role == "worker") *message->mutable_ledger() = ToProto(member.ledger);
  // What a member says of itself is better than what the coordinator thinks.
  const Member* const own = FindMember(member);
  if (own == nullptr) return;
  if (!own->phase.empty()) message->set_phase(own->phase);
  message->set_phase_sec(Seconds(now - own->phase_since));
  message->set_waits(own->waits);
  message->set_peak_memory_bytes(std::max(member.peak_memory_bytes, own->peak_memory_bytes));
  message->set_allocated_peak_bytes(own->allocated_peak_bytes);
  message->set_memory_bytes(own->memory_bytes);
  message->set_allocated_bytes(own->allocated_bytes);
  message->set_predicted_bytes(Predicted(member.name));
  if (message->address().empty()) message->set_address(own->address);
  message->set_metrics_address(own->metrics_address);
  if (member.role != "worker" || member.step < 0) return;
  const StepReport& report = own->report;
  proto::RunStatus::StepTimes* const times = message->mutable_times();
  times->set_pull_sec(Seconds(report.pull));
  times->set_forward_sec(Seconds(report.forward));
  times->set_backward_sec(Seconds(report.backward));
  times->set_push_sec(Seconds(report.push));
  message->set_pulled_bytes(report.pulled_bytes);
  message->set_pushed_bytes(report.pushed_bytes);
  const double computed = Seconds(report.forward + report.backward);
  if (computed > 0) message->set_samples_per_sec(static_cast<double>(member.samples) / computed);
}

void CoordinatorService::FillUnits(int first, proto::RunStatus* message) const {
  const Catalog& catalog = *options_.logic.catalog;
  const int all = static_cast<int>(catalog.units.size());
  const int begin = std::clamp(first, 0, all);
  for (int number = begin; number < std::min(all, begin + kMostUnits); ++number) {
    const UnitId id(number);
    const UnitSpec& spec = catalog.unit(id);
    const UnitStatus status = logic_->unit_status(id);
    proto::RunStatus::Unit* const unit = message->add_units();
    unit->set_name(spec.name);
    unit->set_shared(spec.shared);
    unit->set_parameters(spec.params);
    unit->set_value_bytes(spec.params * static_cast<int64_t>(sizeof(float)));
    unit->set_holders(status.holders);
    for (const std::string& name : status.names) unit->add_holder_names(name);
    for (const ShardId shard : status.shards) unit->add_shards(shard.value());
  }
}

// Of the units that FillUnits tells.
void CoordinatorService::FillHeld(int first, proto::RunStatus* message) const {
  const size_t units = static_cast<size_t>(message->units_size());
  for (proto::RunStatus::Member& member : *message->mutable_members()) {
    if (member.role() != "worker") continue;
    std::string held(units, '0');
    for (const UnitId unit : logic_->UnitsOf(Incarnation(member.number()))) {
      const int64_t place = unit.value() - first;
      if (place >= 0 && place < message->units_size()) held[static_cast<size_t>(place)] = '1';
    }
    member.set_held(std::move(held));
  }
}

void CoordinatorService::FillWaits(absl::Time now, proto::RunStatus* message) const {
  if (over_.has_value()) return;
  const std::string waiting = WaitingFor();
  if (!waiting.empty()) {
    proto::Wait* const run = message->add_waits();
    run->set_who("the run");
    run->set_for_what(waiting);
    run->set_since_sec(waiting == waiting_ ? Seconds(now - waiting_since_) : 0);
  }
  int64_t more = 0;
  int named = 0;
  for (const auto& [key, member] : members_) {
    if (!member.waits || member.told) continue;
    if (named == kMostWaits) {
      ++more;
      continue;
    }
    ++named;
    proto::Wait* const wait = message->add_waits();
    wait->set_who(member.name);
    wait->set_for_what(member.phase);
    wait->set_since_sec(Seconds(now - member.phase_since));
  }
  message->set_waits_left_out(more);
}

void CoordinatorService::FillProgress(const RunStatus& status, proto::RunStatus* message) const {
  message->set_generation(status.generation.value());
  message->set_step(status.step);
  message->set_committed(std::max<Step>(status.committed, -1));
  message->set_steps(status.steps);
  if (status.loss.has_value()) message->set_loss(*status.loss);
  if (progress_.full_loss().has_value()) {
    message->set_full_loss(*progress_.full_loss());
    message->set_full_loss_step(progress_.full_loss_step());
  }
  if (status.checkpoint.has_value()) {
    message->set_checkpoint(*status.checkpoint);
    message->set_checkpoint_age_sec(absl::ToDoubleSeconds(status.checkpoint_age));
  }
  message->set_checkpoint_error(status.checkpoint_error);
  message->set_samples_dealt(status.samples_dealt);
  message->set_samples_returned(status.samples_returned);
  message->set_train_samples(status.train_samples);
  message->set_tokens_per_sec(progress_.tokens_per_sec());
  if (const auto eta = progress_.Eta()) message->set_eta_sec(absl::ToDoubleSeconds(*eta));
  message->set_plan_hash(status.plan_hash);
  message->set_view(status.view.value());
  message->set_view_step(view_step_);
  message->set_view_reason(view_reason_);
  *message->mutable_step_times() = step_times_;
  *message->mutable_totals() = totals_;
}

proto::RunStatus CoordinatorService::Status(const proto::GetStatusRequest& request) const {
  const absl::Time now = absl::Now();
  const size_t most = request.max_workers() > 0
                          ? static_cast<size_t>(std::min(request.max_workers(), kMostWorkers))
                          : Coordinator::kMostWorkersShown;
  const RunStatus status = logic_->status(now, most);
  proto::RunStatus message;
  message.set_time_sec(absl::ToDoubleSeconds(now - absl::UnixEpoch()));
  // The generation may be over, and its end not stored yet.
  const bool going_back = going_back_ || status.phase == "over";
  message.set_phase(over_.has_value() ? "over" : going_back ? "going back" : status.phase);
  message.set_waiting_for(WaitingFor());
  if (over_.has_value())
    message.set_waiting_for(over_->ok() ? "finished" : std::string(over_->message()));
  message.set_run_dir(folder_->path());
  FillProgress(status, &message);
  for (const RunStatus::Member& member : status.members)
    FillMember(member, now, message.add_members());
  message.set_worst_memory_ratio(worst_memory_ratio_);
  message.set_members_left_out(status.shards.all() + status.workers.all() - message.members_size());
  FillCount(status.workers, message.mutable_all_workers());
  FillCount(status.shards, message.mutable_all_shards());
  FillWaits(now, &message);
  message.set_units_in_all(static_cast<int64_t>(options_.logic.catalog->units.size()));
  if (request.units()) {
    FillUnits(request.first_unit(), &message);
    FillHeld(std::max(0, request.first_unit()), &message);
  }
  for (const std::string& event : events_) message.add_events(event);
  message.set_events_error(events_error_);
  message.set_curves_error(curves_error_);
  message.set_metrics_address(metrics_address_);
  message.set_page_address(page_address_);
  message.set_workers_wanted(options_.logic.workers);
  return message;
}

}  // namespace sdp
