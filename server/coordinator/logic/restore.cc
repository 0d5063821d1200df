// Coordinator: takes up a generation that a process before this one has left, from what that one
// stored. Members meanwhile finish what they are bound to, come back under the same incarnations,
// and repeat what they reported last. What they reported before that and had acknowledged is
// written, or concerns steps whose line is written.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "server/coordinator/logic/coordinator.h"

namespace sdp {
namespace {

// A shard takes calls in order: of steps before these it has had all.
constexpr Step kReleasedAgain = 4;
// One is being written, and another waits for it.
constexpr size_t kCheckpointsAtOnce = 2;

// Returned portions are of steps that were in flight.
constexpr size_t kStepsRemembered = 8;

// The store gives back what was written: this is another run's, or another version's.
absl::Status Damaged(const std::string& what) {
  return absl::DataLossError(absl::StrCat(what, ", which does not fit what is written before it"));
}

}  // namespace

// What is known on the way through the records.
struct Coordinator::Restoring {
  struct Bound {
    std::vector<PositionRange> positions;
    std::shared_ptr<const View> view;
    bool read = false;  // by evaluation or for the dense gradient: shards keep its version
  };
  const Written& written;
  absl::Time now;
  std::map<ViewId, std::shared_ptr<const View>> views = {};
  std::map<Step, Bound> steps = {};     // the newest
  Step planned_at = 0;                  // a step that has the plan of plan_key_
  Step in_phase_since = 0;              // the first step of its view and phase
  std::optional<std::string> end = {};  // of the generation, and why
};

CoordinatorActions Coordinator::Restore(const std::vector<Record>& records, const Written& written,
                                        absl::Time now) {
  CoordinatorActions actions;
  Restoring restoring{written, now};
  last_arrival_ = last_commit_ = checkpoint_bound_at_ = now;
  Progress(now);
  for (const Record& record : records) {
    if (const absl::Status status = RestoreRecord(record, restoring, &actions); !status.ok()) {
      End(Context(status, "the records of the process before this one"), &actions);
      return actions;
    }
  }
  if (phase_ == Phase::kStarting && !HasShards() && !restoring.end.has_value()) {
    GoBack("the coordinator was lost while it admitted shards", now, &actions);
    return actions;
  }
  while (checkpoints_.size() > kCheckpointsAtOnce) checkpoints_.erase(checkpoints_.begin());
  if (!written.checkpoints.empty()) {
    last_checkpoint_ = *written.checkpoints.rbegin();
    last_checkpoint_at_ = now;
  }
  if (view_ != nullptr) {
    phase_ = Phase::kTraining;
    if (first_bound_ == absl::InfinitePast()) first_bound_ = now;
    // Of a complete checkpoint every step before it is committed, whether or not all shards are
    // there to say so again.
    if (last_checkpoint_.has_value())
      committed_ = std::max(committed_, std::min(*last_checkpoint_, next_step_) - 1);
    for (auto& [number, step] : steps_) {
      if (number <= committed_) step.committed_at = now;
    }
    if (const absl::Status status = MakeRestoredPlan(restoring); !status.ok())
      End(status, &actions);
    // Who is in no view any more has asked to leave.
    for (auto& [name, worker] : workers_) {
      workers_.SetLeaving(
          worker, worker.first_step.has_value() && !view_->RankOf(worker.incarnation).has_value());
    }
  }
  if (restoring.end.has_value()) return RestoreEnd(*restoring.end, now);
  TellRestored(restoring, &actions);
  // Nothing was bound, and the start state is in a checkpoint.
  if (Draining() && next_step_ == options_.start.state.step) LetShardsGo(now, &actions);
  Tell({.kind = RunEvent::Kind::kTakeUp, .workers = static_cast<int>(workers_.size())}, &actions);
  return actions;
}

// Members may have heard of it. What they would repeat nobody waits for.
CoordinatorActions Coordinator::RestoreEnd(const std::string& why, absl::Time now) {
  CoordinatorActions actions;
  EndGeneration(why, now, &actions);
  return actions;
}

absl::Status Coordinator::RestoreRecord(const Record& record, Restoring& restoring,
                                        CoordinatorActions* actions) {
  if (const auto* begun = std::get_if<GenerationRecord>(&record)) {
    if (begun->generation == generation_) phase_ = Phase::kStarting;
  } else if (const auto* data = std::get_if<DataRecord>(&record)) {
    data_ = data->data;
  } else if (phase_ == Phase::kShards) {
    return absl::OkStatus();  // of earlier generations
  } else if (const auto* shard = std::get_if<ShardRecord>(&record)) {
    return RestoreShard(*shard, restoring.now);
  } else if (const auto* member = std::get_if<MemberRecord>(&record)) {
    RestoreWorker(*member, restoring.now, actions);
  } else if (const auto* view = std::get_if<ViewRecord>(&record)) {
    return RestoreView(*view, restoring);
  } else if (const auto* binding = std::get_if<BindingRecord>(&record)) {
    return RestoreBinding(*binding, restoring);
  } else if (const auto* scale = std::get_if<ScaleRecord>(&record)) {
    CountSkipped(*scale);
    if (const auto step = steps_.find(scale->step); step != steps_.end()) {
      step->second.scale = scale->scale;
      step->second.scaled = true;
    }
  } else if (const auto* exclusion = std::get_if<ExclusionRecord>(&record)) {
    return RestoreExclusion(*exclusion, restoring, actions);
  } else if (const auto* leave = std::get_if<ShardLeaveRecord>(&record)) {
    return RestoreLeave(*leave, restoring.now);
  } else if (const auto* end = std::get_if<GenerationEndRecord>(&record)) {
    restoring.end = end->reason;
    spiked_ = end->reshuffle;
  }
  return absl::OkStatus();
}

absl::Status Coordinator::RestoreShard(const ShardRecord& record, absl::Time now) {
  shards_.resize(static_cast<size_t>(options_.shards));
  const auto number = static_cast<size_t>(record.shard.value());
  if (number >= shards_.size())
    return Damaged(absl::StrCat(record.name, " is number ", number, " of ", shards_.size()));
  ShardState& shard = shards_[number];
  shard.registration = {record.name, record.address, options_.config_hash, record.instance};
  shard.fragments = owned_[number].size();
  shard.heard = now;
  return absl::OkStatus();
}

absl::Status Coordinator::RestoreLeave(const ShardLeaveRecord& record, absl::Time now) {
  const auto number = static_cast<size_t>(record.shard.value());
  if (number >= shards_.size())
    return Damaged(absl::StrCat("shard ", number, " of ", shards_.size(), " leaves"));
  shards_[number].leaving = true;
  drain_by_ = now + StopTime();
  return absl::OkStatus();
}

// The records of all are there: which process has which number.
bool Coordinator::HasShards() const {
  return shards_.size() == static_cast<size_t>(options_.shards) &&
         std::none_of(shards_.begin(), shards_.end(),
                      [](const ShardState& shard) { return shard.registration.name.empty(); });
}

// It has left, else it would have been excluded: all it was bound to it had done, and reported.
void Coordinator::RestoreLeft(Incarnation worker, CoordinatorActions* actions) {
  workers_.Erase(NameOf(worker));
  for (auto& [number, step] : steps_) {
    if (step.expect_reports.erase(worker) > 0) step.reports_gone.insert(worker);
    GiveEvaluationsAway(step, worker, actions);
  }
}

void Coordinator::RestoreWorker(const MemberRecord& record, absl::Time now,
                                CoordinatorActions* actions) {
  if (const WorkerState* const before = workers_.Find(record.name); before != nullptr) {
    if (before->incarnation == record.incarnation) return;  // it asked again to be let in
    RestoreLeft(before->incarnation, actions);
  }
  workers_.Add({record.name, options_.config_hash, record.instance, 0, record.memory_bytes},
               record.incarnation, now);
}

absl::Status Coordinator::RestoreView(const ViewRecord& record, Restoring& restoring) {
  if (record.portions.size() != record.members.size())
    return Damaged(absl::StrCat("view ", record.view.value(), " of ", record.members.size(),
                                " members with ", record.portions.size(), " portions"));
  std::vector<Rank> ranks;
  for (const Incarnation member : record.members) {
    const WorkerState* const worker = workers_.Find(member);
    if (worker == nullptr)
      return Damaged(
          absl::StrCat("view ", record.view.value(), " with worker incarnation ", member.value()));
    ranks.push_back({worker->registration.name, worker->registration.memory_bytes});
  }
  restoring.views[record.view] =
      std::make_shared<const View>(record.view, record.members, std::move(ranks), record.portions);
  if (view_ != nullptr) return absl::OkStatus();  // it counts once a step is bound to it
  view_ = restoring.views.at(record.view);
  restoring.planned_at = FirstPlanned();
  restoring.in_phase_since = restoring.planned_at;
  plan_key_ = PlanKeyAt(restoring.planned_at);
  plan_number_ = 0;
  committed_ = options_.start.state.step - 1;  // all shards have the start state
  EnterRestoredView(options_.start.state.step);
  return absl::OkStatus();
}

void Coordinator::EnterRestoredView(Step step) {
  for (auto& [name, worker] : workers_) {
    if (!view_->RankOf(worker.incarnation).has_value()) continue;
    workers_.SetReady(worker);
    if (!worker.first_step.has_value()) worker.first_step = step;
  }
}

// Of the number that it had: only plans of steps that are not over are made again. That of the
// newest rotation of which there is one, as ChangePlan has left the others out.
absl::Status Coordinator::MakeRestoredPlan(const Restoring& restoring) {
  if (plan_ != nullptr) return absl::OkStatus();
  --plan_number_;
  const PlanKey key = plan_key_;
  absl::Status status;
  for (Step at = restoring.planned_at; at >= restoring.in_phase_since;
       at = at / options_.rotate_every * options_.rotate_every - 1) {
    status = MakePlanAt(at);
    if (status.ok() || options_.rotate_every == 0) break;
  }
  plan_key_ = key;
  return status;
}

absl::Status Coordinator::RestoreBinding(const BindingRecord& record, Restoring& restoring) {
  const Written& written = restoring.written;
  const Step t = record.step;
  const auto view = restoring.views.find(record.view);
  if (view == restoring.views.end())
    return Damaged(absl::StrCat("step ", t, " is bound in view ", record.view.value()));
  if (!data_.has_value()) return Damaged(absl::StrCat("step ", t, " is bound without data"));
  restoring.views.erase(restoring.views.begin(), view);  // no later step is bound in these
  next_step_ = t + 1;
  // It was bound when the last step but one was committed; shards will say what came after.
  committed_ = std::max(committed_, t - 2);
  if (view_->id() != record.view) {
    view_ = view->second;
    EnterRestoredView(t);
  }
  if (PlanKeyAt(t) != plan_key_ && !record.closing) {
    const PlanKey before = std::exchange(plan_key_, PlanKeyAt(t));
    restoring.planned_at = t;
    if (before.view != plan_key_.view || before.phase != plan_key_.phase)
      restoring.in_phase_since = t;
    plan_ = nullptr;
    ++plan_number_;
  }
  cursor_ = record.cursor;
  std::vector<PositionRange> positions = cursor_.Take(record.samples);
  // Older ones than the newest complete one are complete, given up, or removed.
  const bool checkpoint =
      record.checkpoint && (written.checkpoints.empty() || t > *written.checkpoints.rbegin());
  restoring.steps[t] = {positions, view_, record.evaluate || (DiagnoseAt(t) && !record.closing)};
  if (restoring.steps.size() > kStepsRemembered) restoring.steps.erase(restoring.steps.begin());
  if (t <= written.line && !checkpoint && !record.closing) return absl::OkStatus();
  if (const absl::Status status = MakeRestoredPlan(restoring); !status.ok()) return status;
  for (auto& [name, worker] : workers_) {
    if (view_->RankOf(worker.incarnation).has_value()) worker.answered = t;  // perhaps
  }
  StepState& step = OpenStep(record, std::move(positions));
  step.durable = true;
  if (t <= committed_) step.committed_at = restoring.now;
  if (checkpoint) ExpectCheckpoint(step);
  // Only its checkpoint is not there yet.
  if (t <= written.line && !record.closing) steps_.erase(t);
  return absl::OkStatus();
}

absl::Status Coordinator::RestoreExclusion(const ExclusionRecord& record,
                                           const Restoring& restoring,
                                           CoordinatorActions* actions) {
  exclusions_ = record.number;
  committed_ = std::max(committed_, record.committed);
  if (const WorkerState* const worker = workers_.Find(record.worker); worker != nullptr)
    workers_.Erase(std::string(worker->registration.name));
  for (const Step returned : record.returned) {
    const auto step = restoring.steps.find(returned);
    // The closing step has none.
    const bool has_samples = step != restoring.steps.end() && !step->second.positions.empty();
    const std::optional<int> rank =
        has_samples ? step->second.view->RankOf(record.worker) : std::nullopt;
    if (!rank.has_value()) {
      return Damaged(absl::StrCat("worker incarnation ", record.worker.value(),
                                  " gives back samples of step ", returned));
    }
    const auto& [positions, view, read] = step->second;
    const auto [first, samples] = view->PortionOf(*rank);
    ReturnPortion(returned, PartOf(positions, first, samples));
  }
  for (auto& [number, step] : steps_) {
    // Its samples would have come back, had it not reported the step.
    const bool had_reported =
        step.expect_reports.erase(record.worker) > 0 && number > record.committed &&
        std::find(record.returned.begin(), record.returned.end(), number) == record.returned.end();
    if (had_reported) step.reports_gone.insert(record.worker);
    GiveEvaluationsAway(step, record.worker, actions);
  }
  SendExclusion(record.worker, actions);
  return absl::OkStatus();
}

// All that members may not have been told, or have forgotten who told them.
void Coordinator::TellRestored(const Restoring& restoring, CoordinatorActions* actions) {
  for (size_t s = 0; s < shards_.size(); ++s) {
    const ShardId shard(static_cast<int32_t>(s));
    actions->admit_shards.push_back({shards_[s].registration.name, shards_[s].registration.instance,
                                     shards_[s].registration.address, AdmissionOf(shard)});
    for (const auto& [number, step] : restoring.steps) {
      if (step.read && !steps_.contains(number) && number > next_step_ - kReleasedAgain)
        actions->releases.push_back({shard, number});
    }
  }
  for (const auto& [name, worker] : workers_) {
    WorkerAdmission admission{worker.incarnation, generation_, term_, {}, {}, {}};
    FillAdmission(admission);
    actions->admit_workers.push_back({name, worker.registration.instance, std::move(admission)});
  }
  for (const auto& [number, step] : steps_) {
    BindShards(step, actions);
    if (step.scaled) SendScale(step, actions);
  }
}

}  // namespace sdp
