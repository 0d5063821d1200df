// Coordinator: what a step is bound to, and who is told.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/coordinator/logic/coordinator.h"

namespace sdp {
namespace {

HolderSets Intern(const Plan& plan, const std::vector<Incarnation>& members) {
  HolderSets sets;
  sets.members = members;
  std::map<std::vector<int>, int32_t> known;
  for (const std::vector<int>& ranks : plan.holders) {
    const auto [it, is_new] = known.emplace(ranks, static_cast<int32_t>(sets.sets.size()));
    if (is_new) {
      auto& set = sets.sets.emplace_back();
      for (const int rank : ranks) set.push_back(members[static_cast<size_t>(rank)]);
    }
    sets.set_of_unit.push_back(it->second);
  }
  return sets;
}

}  // namespace

PlanInput Coordinator::PlanInputAt(Step step) const {
  PlanInput input;
  input.catalog = options_.catalog;
  input.coverage = CoverageAt(step);
  if (PhaseAt(options_.phases, step) > 0) input.reference = options_.coverage;
  input.ranks = view_->ranks();
  input.assignment = options_.assignment;
  input.seed = options_.seed;
  input.rotation = PlanKeyAt(step).rotation;
  input.memory = options_.memory;
  return input;
}

const std::vector<double>& Coordinator::CoverageAt(Step step) const {
  const int phase = PhaseAt(options_.phases, step);
  return phase > 0 ? options_.phases[static_cast<size_t>(phase) - 1].coverage : options_.coverage;
}

PlanKey Coordinator::PlanKeyAt(Step step) const {
  return {view_->id(), PhaseAt(options_.phases, step),
          options_.rotate_every > 0 ? step / options_.rotate_every : 0};
}

absl::Status Coordinator::MakePlanAt(Step step) {
  absl::StatusOr<Plan> plan = MakePlan(PlanInputAt(step));
  if (!plan.ok()) return plan.status();
  plan_ = std::make_shared<const Plan>(*std::move(plan));
  plan_key_ = PlanKeyAt(step);
  ++plan_number_;
  HolderSets holders = Intern(*plan_, view_->members());
  for (const Incarnation member : view_->members()) {
    const WorkerState* const worker = workers_.Find(member);
    holders.instances.push_back(worker == nullptr ? 0 : worker->registration.instance);
  }
  holders_ = std::make_shared<const HolderSets>(std::move(holders));
  return absl::OkStatus();
}

// Another phase or rotation, in the same view. A rotation of which there is no plan is left out:
// the subnetworks of the one before stay. Of a phase: FailedPrecondition, and no_plan_ says why -
// others may come.
absl::Status Coordinator::ChangePlan(Step step, CoordinatorActions* actions) {
  const PlanKey key = PlanKeyAt(step), before = plan_key_;
  if (key == before) return absl::OkStatus();
  if (key.phase == before.phase) {
    const absl::Status status = MakePlanAt(step);
    if (status.ok()) return status;
    plan_key_ = key;
    ++plan_number_;
    if (std::exchange(left_out_in_, key.view) != key.view)
      actions->log.push_back(absl::StrCat("from step ", step,
                                          " on rotations are left out, as long ",
                                          "as they have no plan: ", status.message()));
    return absl::OkStatus();
  }
  Unfit& unfit = unfit_[static_cast<size_t>(Joiners::kWait)];
  const bool known = key.phase == unfit.phase && view_->members() == unfit.members;
  const absl::Status status = known ? absl::FailedPreconditionError(unfit.why) : MakePlanAt(step);
  if (status.ok()) {
    TellPlan(step, absl::StrCat("sdp.phases: number ", key.phase), actions);
    for (auto& [name, worker] : workers_) worker.pace = Pace();  // there is more or less to do
    return status;
  }
  no_plan_ = std::string(status.message());
  unfit = {view_->members(), key.phase, no_plan_};
  if (!known) TellNoPlan(view_->members().size(), step, actions);
  return absl::FailedPreconditionError(no_plan_);
}

CoordinatorActions Coordinator::BeginStep(Incarnation incarnation, Step step, int64_t known_plan,
                                          absl::Time now, absl::Status* error) {
  CoordinatorActions actions;
  *error = absl::OkStatus();
  WorkerState* const worker = workers_.Find(incarnation);
  if (worker == nullptr) {
    *error = NotInTheRun(incarnation);
    return actions;
  }
  worker->heard = now;
  if (!worker->ready) {  // the coordinator was gone meanwhile, and does not know it yet
    *error = absl::UnavailableError(
        absl::StrCat(worker->registration.name, " has not said that it is ready"));
    return actions;
  }
  if (step == kFirstOfMine) step = worker->first_step.value_or(kFirstOfMine);
  if (step < kFirstOfMine || (step > next_step_ && !closing_.has_value())) {
    *error = absl::InvalidArgumentError(absl::StrCat(worker->registration.name, " asks for step ",
                                                     step, ", allowed are 0..", next_step_));
    return actions;
  }
  asked_[step][incarnation] = known_plan;
  TryBind(now, &actions);
  if (!Unbound(step)) {
    AnswerAsked(step, &actions);
  } else if (AnswerUnbound(incarnation, step, &actions)) {  // nothing is new for the others
    const auto asked = asked_.find(step);
    asked->second.erase(incarnation);
    if (asked->second.empty()) asked_.erase(asked);
  }
  TryFinish(now, &actions);
  return actions;
}

void Coordinator::TryBind(absl::Time now, CoordinatorActions* actions) {
  if (phase_ != Phase::kTraining || closing_.has_value() || let_go_) return;
  // If nobody is left to ask, the closing binding is due all the same.
  const bool wanted = asked_.contains(next_step_) || asked_.contains(kFirstOfMine) ||
                      workers_.empty() || Draining();
  // At most two steps in flight.
  const bool may = wanted && committed_ >= next_step_ - 2;
  if (may && TooFew().empty()) BindStep(now, actions);
  std::string paused = PausedBy();
  if (paused == paused_ || closing_.has_value()) return;
  Tell(
      {.kind = paused.empty() ? RunEvent::Kind::kResume : RunEvent::Kind::kPause, .reason = paused},
      actions);
  paused_ = std::move(paused);
}

void Coordinator::BindStep(absl::Time now, CoordinatorActions* actions) {
  const Step t = next_step_;
  const bool closing = t >= options_.steps || stop_requested_ || Draining();
  if (closing) no_plan_.clear();
  // Weights that were given are worth knowing before the first step changes them.
  const Step first = options_.start.state.init_path.empty() ? 1 : 0;
  const bool due =
      DiagnoseAt(t) || (options_.eval_every > 0 && t >= first && t % options_.eval_every == 0);
  if (!closing) {
    if (!ChangeView(t, actions).ok() || !ChangePlan(t, actions).ok()) return;  // paused
  }
  ++next_step_;
  const bool evaluate_at_end = t >= options_.steps && !stop_requested_;
  const BindingRecord record{generation_,
                             t,
                             view_->id(),
                             cursor_,
                             closing ? 0 : view_->samples(),
                             options_.validation && (closing ? evaluate_at_end : due),
                             closing,
                             CheckpointDue(t, closing, now)};
  StepState& step = OpenStep(record, cursor_.Take(record.samples));
  if (step.binding.checkpoint) {
    ExpectCheckpoint(step);
    checkpoint_asked_ = false;
    checkpoint_bound_at_ = now;
  }
  CoordinatorActions then;
  BindShards(step, &then);
  Progress(now);
  Persist(step.binding, std::move(then), actions, t);
}

// Over the newest view and plan. Its checkpoint is not expected yet.
StepState& Coordinator::OpenStep(const BindingRecord& binding,
                                 std::vector<PositionRange> positions) {
  StepState& step = steps_[binding.step];
  step.binding = binding;
  step.positions = std::move(positions);
  step.view = view_;
  step.plan = plan_;
  step.plan_number = plan_number_;
  step.holders = holders_;
  step.diagnose = DiagnoseAt(binding.step) && !binding.closing;
  if (binding.closing) {
    closing_ = binding.step;
  } else {
    step.expect_reports.insert(view_->members().begin(), view_->members().end());
    step.squares.resize(place_.size());
    if (step.diagnose) {
      step.holder_squares.resize(place_.size());
      step.comparisons.resize(place_.size());
    }
  }
  if (binding.evaluate) Evaluate(step);
  return step;
}

void Coordinator::BindShards(const StepState& step, CoordinatorActions* actions) {
  for (size_t s = 0; s < shards_.size(); ++s) {
    ShardBinding binding{generation_,
                         step.view->id(),
                         step.binding.step,
                         step.plan_number,
                         plan_sent_ == step.plan_number ? nullptr : step.holders,
                         step.binding.evaluate,
                         step.binding.closing,
                         step.binding.checkpoint,
                         step.diagnose};
    actions->bind_shards.push_back({ShardId(static_cast<int32_t>(s)), std::move(binding)});
  }
  plan_sent_ = step.plan_number;
}

bool Coordinator::DiagnoseAt(Step step) const {
  return options_.diagnostics_every > 0 && step % options_.diagnostics_every == 0;
}

void Coordinator::AnswerAll(CoordinatorActions* actions) {
  std::vector<Step> steps;
  for (const auto& [step, asked] : asked_) steps.push_back(step);
  for (const Step step : steps) AnswerAsked(step, actions);
}

void Coordinator::AnswerAsked(Step step, CoordinatorActions* actions) {
  const auto asked = asked_.find(step);
  if (asked == asked_.end()) return;
  if (Unbound(step)) {
    std::erase_if(asked->second, [&](const auto& question) {
      return AnswerUnbound(question.first, step, actions);
    });
    if (asked->second.empty()) asked_.erase(asked);
    return;
  }
  const auto bound = steps_.find(step);
  if (bound == steps_.end()) {
    if (step < next_step_) asked_.erase(asked);  // a copy of a question that was answered long ago
    return;
  }
  if (!bound->second.durable || committed_ < step - 2) return;
  for (const auto& [incarnation, known_plan] : asked->second) {
    const std::optional<int> rank = bound->second.view->RankOf(incarnation);
    if (!rank.has_value()) {  // it left before this step
      TellFinished(incarnation, step, actions);
      continue;
    }
    WorkerState& worker = *workers_.Find(incarnation);
    if (worker.answered < step) {
      worker.answered = step;
      bound->second.more_evaluations[incarnation] = std::exchange(worker.more_evaluations, {});
    }
    actions->bind_workers.push_back({incarnation, BindingFor(bound->second, *rank, known_plan)});
  }
  asked_.erase(asked);
}

// Questions to which no step is the answer: of workers that are in no view, and those for what
// comes after the end.
bool Coordinator::Unbound(Step step) const {
  return step == kFirstOfMine || (closing_.has_value() && step > *closing_);
}

// True: it waits no more.
bool Coordinator::AnswerUnbound(Incarnation incarnation, Step step, CoordinatorActions* actions) {
  WorkerState& worker = *workers_.Find(incarnation);
  if (phase_ == Phase::kEnding || (step == kFirstOfMine && worker.leaving)) {
    TellFinished(incarnation, step, actions);
    return true;
  }
  if (step == kFirstOfMine) return false;
  if (step < worker.answered) return true;  // a copy of a question that was answered long ago
  if (step > worker.answered) {
    if (worker.more_evaluations.empty()) {
      // Who leaves needs not see how the generation ends.
      if (!worker.leaving || !ClosesGeneration()) return false;
      TellFinished(incarnation, step, actions);
      return true;
    }
    worker.answered = step;
    worker.last_evaluations = std::exchange(worker.more_evaluations, {});
  }
  WorkerBinding binding;  // the end waits for these
  binding.generation = generation_;
  binding.view = view_->id();
  binding.term = term_;
  binding.step = step;
  binding.micro_batch = options_.micro_batch;
  binding.evaluations = worker.last_evaluations;
  binding.closing = true;
  actions->bind_workers.push_back({incarnation, std::move(binding)});
  return true;
}

void Coordinator::TellFinished(Incarnation worker, Step step, CoordinatorActions* actions) {
  WorkerBinding binding;
  binding.generation = generation_;
  binding.step = step;
  binding.finished = true;
  actions->bind_workers.push_back({worker, std::move(binding)});
  workers_.Find(worker)->told_finished = true;
  untold_.erase(worker);
  perhaps_left_.push_back(worker);
}

WorkerBinding Coordinator::BindingFor(const StepState& step, int rank, int64_t known_plan) const {
  WorkerBinding binding;
  binding.generation = generation_;
  binding.view = step.view->id();
  binding.term = term_;
  binding.step = step.binding.step;
  binding.plan = step.plan_number;
  if (known_plan != step.plan_number) {
    auto units = std::make_shared<std::vector<UnitFactor>>();
    for (const UnitId unit : step.plan->units[static_cast<size_t>(rank)]) {
      units->push_back({unit, TrainingFactor(options_.rescale, *step.plan, unit)});
    }
    binding.units = std::move(units);
  }
  if (!step.binding.closing) {
    const auto [first, samples] = step.view->PortionOf(rank);
    binding.portion = PartOf(step.positions, first, samples);
  }
  binding.micro_batch = options_.micro_batch;
  const Incarnation member = step.view->members()[static_cast<size_t>(rank)];
  if (const auto more = step.more_evaluations.find(member); more != step.more_evaluations.end())
    binding.evaluations = more->second;
  for (auto own = step.UndoneBy(member); own != step.undone.end() && own->first == member; ++own)
    binding.evaluations.push_back(step.evaluations[own->second].part);
  binding.diagnose = step.diagnose;
  binding.closing = step.binding.closing;
  return binding;
}

}  // namespace sdp
