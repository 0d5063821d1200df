// Coordinator: members that come and go while the run trains. Views change where a step is bound;
// exclusion alone acts on steps that are.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/coordinator/logic/coordinator.h"

namespace sdp {
CoordinatorActions Coordinator::Leave(Incarnation incarnation, absl::Time now) {
  CoordinatorActions actions;
  WorkerState* const worker = workers_.Find(incarnation);
  if (worker == nullptr || worker->leaving || phase_ >= Phase::kEnding) return actions;
  worker->heard = now;
  if (phase_ != Phase::kTraining) {
    Exclude(worker->registration.name, "it left before training began", &actions);
    return actions;
  }
  workers_.SetLeaving(*worker, true);
  Tell({.kind = RunEvent::Kind::kLeave,
        .worker = worker->registration.name,
        .incarnation = incarnation},
       &actions);
  MembersChanged(now, &actions);
  return actions;
}

CoordinatorActions Coordinator::ProcessEnded(const std::string& name, absl::Time now,
                                             absl::Status* error) {
  CoordinatorActions actions;
  *error = absl::OkStatus();
  const bool is_shard = std::any_of(shards_.begin(), shards_.end(), [&](const ShardState& shard) {
    return shard.registration.name == name;
  });
  if (is_shard) {
    if (phase_ < Phase::kEnding)
      GoBack(absl::StrCat(name, ": its process has ended"), now, &actions);
    return actions;
  }
  if (registered_shards_.erase(name) > 0) return actions;
  const WorkerState* const worker = workers_.Find(name);
  if (phase_ == Phase::kOver) {
    if (worker == nullptr) return actions;
    workers_.Erase(name);
    ++gone_;
    return actions;
  }
  if (phase_ == Phase::kShards && worker == nullptr) {
    ended_early_.insert(name);
  } else if (phase_ < Phase::kTraining) {
    AwaitOneLess();
  }
  if (worker == nullptr) {
    *error = absl::NotFoundError(absl::StrCat("no member of the name ", name, " is in the run"));
    MakeView(now, &actions);
    return actions;
  }
  if (phase_ >= Phase::kEnding) return actions;
  Exclude(name, "its process has ended", &actions);
  Progress(now);
  MakeView(now, &actions);
  MembersChanged(now, &actions);
  return actions;
}

void Coordinator::AwaitOneLess() {
  awaited_ = std::max(LeastWorkers(options_.start.state.step), awaited_ - 1);
}

std::vector<Incarnation> Coordinator::NextView(Joiners joiners) const {
  absl::flat_hash_set<Incarnation> leaving(view_->members().begin(), view_->members().end());
  std::vector<Incarnation> joining;
  for (const auto& [name, worker] : workers_) {
    if (!worker.ready || worker.leaving) continue;
    if (leaving.erase(worker.incarnation) == 0 && joiners == Joiners::kIn)
      joining.push_back(worker.incarnation);
  }
  std::sort(joining.begin(), joining.end());
  return NextMembers(view_->members(), leaving, joining);
}

std::string Coordinator::PausedBy() const {
  if (std::string few = TooFew(); !few.empty()) return few;
  if (no_plan_.empty()) return "";
  return absl::StrCat("paused before step ", next_step_, ": no plan for the workers: ", no_plan_);
}

std::string Coordinator::TooFew() const {
  if (phase_ != Phase::kTraining || closing_.has_value()) return "";
  if (next_step_ >= options_.steps || stop_requested_ || Draining()) return "";  // it closes
  const int needed = LeastWorkers(next_step_);
  if (workers_.staying() >= needed) return "";
  return absl::StrCat("paused before step ", next_step_, ": ", workers_.staying(),
                      " workers, at least ", needed, " are needed (", WhyLeast(next_step_), ")");
}

int Coordinator::LeastWorkers(Step step) const {
  const double least = least_coverage_[static_cast<size_t>(PhaseAt(options_.phases, step))];
  return std::max(options_.min_workers, static_cast<int>(std::ceil(1 / least - kShareRounding)));
}

std::string Coordinator::WhyLeast(Step step) const {
  if (LeastWorkers(step) == options_.min_workers) return "cluster.min_workers";
  const double least = least_coverage_[static_cast<size_t>(PhaseAt(options_.phases, step))];
  return absl::StrCat("a unit of coverage ", least, " must be on one of them");
}

void Coordinator::TellPlan(Step from, const std::string& reason,
                           CoordinatorActions* actions) const {
  Tell({.kind = RunEvent::Kind::kReplan,
        .step = from,
        .view = view_->id(),
        .workers = view_->size(),
        .plan_hash = plan_->hash,
        .reason = reason},
       actions);
}

void Coordinator::TellNoPlan(size_t workers, Step step, CoordinatorActions* actions) const {
  Tell({.kind = RunEvent::Kind::kNoPlan,
        .step = step,
        .workers = static_cast<int>(workers),
        .reason = no_plan_},
       actions);
}

std::shared_ptr<const View> Coordinator::ViewOf(std::vector<Incarnation> members) const {
  std::vector<Rank> ranks;
  std::vector<double> paces;
  for (const Incarnation member : members) {
    const WorkerState& worker = *workers_.Find(member);
    ranks.push_back({worker.registration.name, worker.registration.memory_bytes});
    paces.push_back(worker.pace.seconds_per_sample());
  }
  std::vector<int64_t> portions(members.size(), options_.worker_batch);
  if (options_.portions == Options::Portions::kMeasured) {
    portions = sdp::LevelPortions(options_.global_batch, paces);
  } else if (options_.worker_batch == 0) {
    portions = EqualPortions(options_.global_batch, members.size());
  }
  return std::make_shared<const View>(ViewId(last_view_.value() + 1), std::move(members),
                                      std::move(ranks), std::move(portions));
}

// Where no plan has room for those who want to join, they wait. FailedPrecondition, and no_plan_
// says why - there is none for those who stay either: others may come.
absl::Status Coordinator::ChangeView(Step step, CoordinatorActions* actions) {
  const std::shared_ptr<const View> before = view_;
  no_plan_.clear();
  for (const Joiners joiners : {Joiners::kIn, Joiners::kWait}) {
    view_ = before;
    std::vector<Incarnation> members = NextView(joiners);
    if (members == before->members()) {
      no_plan_.clear();
      LevelPortions(step, actions);
      return absl::OkStatus();
    }
    const int phase = PhaseAt(options_.phases, step);
    const auto known = std::find_if(unfit_.begin(), unfit_.end(), [&](const Unfit& unfit) {
      return members == unfit.members && phase == unfit.phase;
    });
    if (known != unfit_.end()) {
      no_plan_ = known->why;
      continue;
    }
    view_ = ViewOf(std::move(members));
    const absl::Status status = MakePlanAt(step);
    if (status.ok()) {
      no_plan_.clear();
      AdoptView(step, "", actions);
      return absl::OkStatus();
    }
    no_plan_ = std::string(status.message());
    unfit_[static_cast<size_t>(joiners)] = {view_->members(), phase, no_plan_};
    TellNoPlan(view_->members().size(), step, actions);
  }
  view_ = before;
  return absl::FailedPreconditionError(no_plan_);
}

// The same members with other portions, where their paces differ.
void Coordinator::LevelPortions(Step step, CoordinatorActions* actions) {
  if (options_.portions != Options::Portions::kMeasured ||
      step < levelled_at_ + static_cast<Step>(Pace::kSteps)) {
    return;
  }
  levelled_at_ = step;
  std::vector<double> paces;
  std::vector<std::string> names;
  for (const Incarnation member : view_->members()) {
    paces.push_back(workers_.Find(member)->pace.seconds_per_sample());
    names.push_back(NameOf(member));
  }
  std::optional<NewPortions> level = Level(view_->portions(), paces, names);
  if (!level.has_value()) return;
  const auto before = std::exchange(
      view_, std::make_shared<const View>(ViewId(last_view_.value() + 1), view_->members(),
                                          view_->ranks(), std::move(level->portions)));
  if (MakePlanAt(step).ok()) {
    AdoptView(step, level->reason, actions);
  } else {
    view_ = before;
  }
}

void Coordinator::AdoptView(Step step, const std::string& reason, CoordinatorActions* actions) {
  last_view_ = view_->id();
  Persist(ViewRecord{view_->id(), view_->members(), view_->portions()}, {}, actions);
  TellPlan(step, reason.empty() ? absl::StrJoin(plan_->warnings, "; ") : reason, actions);
  EnterView(step);
}

// Members of the view that were in none before: their first step is `step`, which they may have
// asked for already.
void Coordinator::EnterView(Step step) {
  for (auto& [name, worker] : workers_) {
    if (worker.first_step.has_value() || !view_->RankOf(worker.incarnation).has_value()) continue;
    worker.first_step = step;
    const auto waiting = asked_.find(kFirstOfMine);
    if (waiting == asked_.end()) continue;
    if (auto question = waiting->second.extract(worker.incarnation); !question.empty())
      asked_[step].insert(std::move(question));
    if (waiting->second.empty()) asked_.erase(waiting);
  }
}

void Coordinator::ForgetQuestions(Incarnation worker) {
  for (auto asked = asked_.begin(); asked != asked_.end();) {
    asked->second.erase(worker);
    asked = asked->second.empty() ? asked_.erase(asked) : std::next(asked);
  }
}

void Coordinator::Exclude(const std::string& name, const std::string& reason,
                          CoordinatorActions* actions) {
  const WorkerState lost = workers_.Erase(name);  // `name` may have been its own
  const Incarnation worker = lost.incarnation;
  ForgetQuestions(worker);
  if (!lost.first_step.has_value()) {  // no step and no shard knows it
    Tell({.kind = RunEvent::Kind::kLetGo,
          .worker = lost.registration.name,
          .incarnation = worker,
          .reason = reason},
         actions);
    if (view_ == nullptr && workers_.ready() == 0) data_ = options_.start.data;
    return;
  }
  Tell({.kind = RunEvent::Kind::kExclude,
        .worker = lost.registration.name,
        .incarnation = worker,
        .reason = reason},
       actions);
  std::vector<Step> returned;
  for (auto& [number, step] : steps_) {
    if (step.expect_reports.erase(worker) > 0 && TakeBack(step, worker)) returned.push_back(number);
    GiveEvaluationsAway(step, worker, actions);
  }
  ++exclusions_;
  CoordinatorActions then;
  SendExclusion(worker, &then);
  Persist(ExclusionRecord{generation_, exclusions_, worker, reason, committed_, returned},
          std::move(then), actions);
}

// The newest one.
void Coordinator::SendExclusion(Incarnation worker, CoordinatorActions* actions) const {
  for (const ShardId shard : Owners())
    actions->exclude.push_back({shard, {generation_, exclusions_, worker}});
}

// After members were excluded, or have said that they leave.
void Coordinator::MembersChanged(absl::Time now, CoordinatorActions* actions) {
  TryBind(now, actions);
  AnswerAll(actions);
  ReportSteps(now, actions);
  ForgetLeft();
  TryFinish(now, actions);
}

// The samples of a step that it has not reported. Once a step is committed all that counts of it
// has arrived: only the report is missing.
bool Coordinator::TakeBack(StepState& step, Incarnation worker) {
  const Step number = step.binding.step;
  if (number <= committed_) return false;
  const auto [first, samples] = step.view->PortionOf(*step.view->RankOf(worker));
  ReturnPortion(number, PartOf(step.positions, first, samples));
  return true;
}

void Coordinator::ReturnPortion(Step step, const std::vector<PositionRange>& portion) {
  cursor_.Return(portion);
  for (auto& [version, checkpoint] : checkpoints_) {
    if (version > step) checkpoint.manifest.cursor.Return(portion);
  }
}

// A worker that leaves is gone when it was told so and all that it was bound to is reported.
void Coordinator::ForgetLeft() {
  for (const Incarnation incarnation : std::exchange(perhaps_left_, {})) {
    const WorkerState* const worker = workers_.Find(incarnation);
    if (worker == nullptr || !worker->leaving || !worker->told_finished || Busy(incarnation))
      continue;
    workers_.Erase(std::string(worker->registration.name));
  }
}

bool Coordinator::Busy(Incarnation worker) const {
  return std::any_of(steps_.begin(), steps_.end(), [&](const auto& step) {
    const StepState& state = step.second;
    const auto undone = state.UndoneBy(worker);
    return state.expect_reports.contains(worker) ||
           (undone != state.undone.end() && undone->first == worker);
  });
}

}  // namespace sdp
