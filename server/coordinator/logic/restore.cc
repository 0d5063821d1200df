// Coordinator: takes up a generation that a process before this one has left, from what that one
// stored. Members meanwhile finish what they are bound to, come back under the same incarnations,
// and repeat what they reported last. What they reported before that and had acknowledged is
// written, or concerns steps whose line is written.
#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "server/coordinator/logic/coordinator.h"
#include "server/coordinator/logic/portion.h"

namespace sdp {
namespace {

// A shard takes calls in order: of steps before these it has had all.
constexpr Step kReleasedAgain = 4;
// One is being written, and another waits for it.
constexpr size_t kCheckpointsAtOnce = 2;

// Returned portions are of steps that were in flight.
constexpr size_t kStepsRemembered = 8;

}  // namespace

// What is known on the way through the records.
struct Coordinator::Restoring {
  struct Bound {
    std::vector<PositionRange> positions;
    std::shared_ptr<const View> view;
    bool evaluate = false;
  };
  const Written& written;
  absl::Time now;
  std::map<ViewId, std::shared_ptr<const View>> views = {};
  std::map<Step, Bound> steps = {};  // the newest
  Step planned_at = 0;               // a step that has the plan of plan_key_
};

CoordinatorActions Coordinator::Restore(const std::vector<Record>& records, const Written& written,
                                        absl::Time now) {
  CoordinatorActions actions;
  Restoring restoring{written, now};
  last_arrival_ = last_commit_ = checkpoint_bound_at_ = now;
  Progress(now);
  for (const Record& record : records) {
    if (const auto* begun = std::get_if<GenerationRecord>(&record)) {
      if (begun->generation == generation_) phase_ = Phase::kStarting;
    } else if (const auto* data = std::get_if<DataRecord>(&record)) {
      data_ = data->data;
    } else if (phase_ == Phase::kShards) {
      continue;  // of earlier generations
    } else if (const auto* shard = std::get_if<ShardRecord>(&record)) {
      RestoreShard(*shard, now);
    } else if (const auto* member = std::get_if<MemberRecord>(&record)) {
      RestoreWorker(*member, now);
    } else if (const auto* view = std::get_if<ViewRecord>(&record)) {
      RestoreView(*view, restoring);
    } else if (const auto* binding = std::get_if<BindingRecord>(&record)) {
      if (const absl::Status status = RestoreBinding(*binding, restoring); !status.ok()) {
        End(status, &actions);
        return actions;
      }
    } else if (const auto* scale = std::get_if<ScaleRecord>(&record)) {
      if (const auto step = steps_.find(scale->step); step != steps_.end()) {
        step->second.scale = scale->scale;
        step->second.scaled = true;
      }
    } else if (const auto* exclusion = std::get_if<ExclusionRecord>(&record)) {
      RestoreExclusion(*exclusion, restoring, &actions);
    }
  }
  while (checkpoints_.size() > kCheckpointsAtOnce) checkpoints_.erase(checkpoints_.begin());
  if (!written.checkpoints.empty()) {
    last_checkpoint_ = *written.checkpoints.rbegin();
    last_checkpoint_at_ = now;
  }
  if (view_ != nullptr) {
    phase_ = Phase::kTraining;
    if (first_bound_ == absl::InfinitePast()) first_bound_ = now;
    if (const absl::Status status = MakeRestoredPlan(restoring); !status.ok())
      End(status, &actions);
    // Who is in no view any more has asked to leave.
    for (auto& [name, worker] : workers_) {
      worker.leaving =
          worker.first_step.has_value() && !view_->RankOf(worker.incarnation).has_value();
    }
  }
  TellRestored(restoring, &actions);
  Tell({.kind = RunEvent::Kind::kTakeUp, .workers = static_cast<int>(workers_.size())}, &actions);
  return actions;
}

void Coordinator::RestoreShard(const ShardRecord& record, absl::Time now) {
  shards_.resize(static_cast<size_t>(options_.shards));
  ShardState& shard = shards_[static_cast<size_t>(record.shard.value())];
  shard.registration = {record.name, record.address, options_.config_hash, record.instance};
  shard.fragments = static_cast<size_t>(std::count(place_.begin(), place_.end(), record.shard));
  shard.heard = now;
}

void Coordinator::RestoreWorker(const MemberRecord& record, absl::Time now) {
  WorkerState& worker = workers_[record.name];
  if (worker.incarnation == record.incarnation) return;  // it asked again to be let in
  worker = WorkerState();
  worker.registration = {record.name, options_.config_hash, record.instance, false};
  worker.incarnation = record.incarnation;
  worker.heard = now;
}

void Coordinator::RestoreView(const ViewRecord& record, Restoring& restoring) {
  restoring.views[record.view] = std::make_shared<const View>(record.view, record.members);
  if (view_ != nullptr) return;  // it counts once a step is bound to it
  view_ = restoring.views.at(record.view);
  restoring.planned_at = std::max<Step>(options_.start.state.step - 1, 0);
  plan_key_ = PlanKeyAt(restoring.planned_at);
  plan_number_ = 0;
  committed_ = options_.start.state.step - 1;  // all shards have the start state
  EnterRestoredView(options_.start.state.step);
}

void Coordinator::EnterRestoredView(Step step) {
  for (auto& [name, worker] : workers_) {
    if (!view_->RankOf(worker.incarnation).has_value()) continue;
    worker.ready = true;
    if (!worker.first_step.has_value()) worker.first_step = step;
  }
}

// Of the number that it had: only plans of steps that are not over are made again.
absl::Status Coordinator::MakeRestoredPlan(const Restoring& restoring) {
  if (plan_ != nullptr) return absl::OkStatus();
  --plan_number_;
  return MakePlanAt(restoring.planned_at);
}

absl::Status Coordinator::RestoreBinding(const BindingRecord& record, Restoring& restoring) {
  const Written& written = restoring.written;
  const Step t = record.step;
  next_step_ = t + 1;
  // It was bound when the last step but one was committed; shards will say what came after.
  committed_ = std::max(committed_, t - 2);
  if (view_->id() != record.view) {
    view_ = restoring.views.at(record.view);
    EnterRestoredView(t);
  }
  if (PlanKeyAt(t) != plan_key_ && !record.closing) {
    plan_key_ = PlanKeyAt(t);
    restoring.planned_at = t;
    plan_ = nullptr;
    ++plan_number_;
  }
  cursor_ = record.cursor;
  std::vector<PositionRange> positions = cursor_.Take(record.samples);
  for (auto& [name, worker] : workers_) {
    if (view_->RankOf(worker.incarnation).has_value()) worker.answered = t;  // perhaps
  }
  // Older ones than the newest complete one are complete, given up, or removed.
  const bool checkpoint =
      record.checkpoint && (written.checkpoints.empty() || t > *written.checkpoints.rbegin());
  restoring.steps[t] = {positions, view_, record.evaluate};
  if (restoring.steps.size() > kStepsRemembered) restoring.steps.erase(restoring.steps.begin());
  if (t <= written.line && !checkpoint && !record.closing) return absl::OkStatus();
  if (const absl::Status status = MakeRestoredPlan(restoring); !status.ok()) return status;
  StepState& step = steps_[t];
  step.binding = record;
  step.positions = std::move(positions);
  step.view = view_;
  step.plan = plan_;
  step.plan_number = plan_number_;
  step.holders = holders_;
  step.durable = true;
  step.diagnose = DiagnoseAt(t) && !record.closing;
  if (t <= committed_) step.committed_at = restoring.now;
  if (record.closing) {
    closing_ = t;
  } else {
    step.expect_reports.insert(view_->members().begin(), view_->members().end());
    step.squares.resize(place_.size());
    if (step.diagnose) step.holder_squares.resize(place_.size());
  }
  if (record.evaluate) Evaluate(step);
  if (checkpoint) ExpectCheckpoint(step);
  // Only its checkpoint is not there yet.
  if (t <= written.line && !record.closing) steps_.erase(t);
  return absl::OkStatus();
}

void Coordinator::RestoreExclusion(const ExclusionRecord& record, const Restoring& restoring,
                                   CoordinatorActions* actions) {
  exclusions_ = record.number;
  std::erase_if(workers_,
                [&](const auto& worker) { return worker.second.incarnation == record.worker; });
  for (const Step returned : record.returned) {
    const Restoring::Bound& step = restoring.steps.at(returned);
    const auto [first, samples] =
        Portion(CountOf(step.positions), *step.view->RankOf(record.worker), step.view->size());
    ReturnPortion(returned, PartOf(step.positions, first, samples));
  }
  for (auto& [number, step] : steps_) {
    step.expect_reports.erase(record.worker);
    GiveEvaluationsAway(step, record.worker, actions);
  }
  for (size_t s = 0; s < shards_.size(); ++s) {
    actions->exclude.push_back(
        {ShardId(static_cast<int32_t>(s)), {generation_, record.number, record.worker}});
  }
}

// All that members may not have been told, or have forgotten who told them.
void Coordinator::TellRestored(const Restoring& restoring, CoordinatorActions* actions) {
  for (size_t s = 0; s < shards_.size(); ++s) {
    const ShardId shard(static_cast<int32_t>(s));
    actions->admit_shards.push_back({shards_[s].registration.name, shards_[s].registration.instance,
                                     shards_[s].registration.address, AdmissionOf(shard)});
    for (const auto& [number, step] : restoring.steps) {
      if (step.evaluate && !steps_.contains(number) && number > next_step_ - kReleasedAgain)
        actions->releases.push_back({shard, number});
    }
  }
  for (const auto& [name, worker] : workers_) {
    actions->admit_workers.push_back({name, worker.registration.instance, AdmissionOf(worker)});
  }
  for (const auto& [number, step] : steps_) {
    BindShards(step, actions);
    if (!step.scaled) continue;
    for (size_t s = 0; s < shards_.size(); ++s) {
      if (shards_[s].fragments > 0)
        actions->scales.push_back(
            {ShardId(static_cast<int32_t>(s)), {generation_, number, step.scale}});
    }
  }
}

}  // namespace sdp
