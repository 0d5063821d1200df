// Worker: walks of the full model before it trains: its parts of evaluations, then, in a step that
// is diagnosed, the gradient of its portion.
#include <algorithm>
#include <utility>

#include "worker/logic/worker.h"

namespace sdp {

void Worker::WalkOrBegin(StepState& state, WorkerActions* actions) {
  // A coordinator that was started again may ask for what is done, and its version may be gone.
  while (state.evaluated < state.binding.evaluations.size()) {
    const EvaluationPart& next = state.binding.evaluations[state.evaluated];
    const auto done = std::find_if(
        last_evaluations_.begin(), last_evaluations_.end(), [&](const EvaluationReport& report) {
          return report.step == next.version && report.first == next.first;
        });
    if (done == last_evaluations_.end()) break;
    actions->evaluations.push_back(*done);
    ++state.evaluated;
  }
  if (state.evaluated < state.binding.evaluations.size()) {
    const EvaluationPart& part = state.binding.evaluations[state.evaluated++];
    walk_ = FullWalk{state.binding.step, part.version, part.view, part.first};
    EvaluateTask task;
    task.step = part.version;
    task.units = AllUnits();
    task.first_sample = part.first;
    task.samples = part.samples;
    task.micro_batch = state.binding.micro_batch;
    actions->evaluate.push_back(std::move(task));
    return;
  }
  if (state.binding.diagnose && !std::exchange(state.diagnosed, true)) {
    if (state.binding.samples() > 0) {
      walk_ = FullWalk{state.binding.step, state.binding.step, state.binding.view, std::nullopt};
      const TrainTask same = TaskOf(state);  // but for the units
      actions->dense.push_back(
          {same.step, AllUnits(), same.samples, same.epochs, same.micro_batch});
      return;
    }
    for (int id = 0; id < options_.layout->fragments(); ++id)
      Send(state, Purpose::kDense, FragmentId(id), nullptr, actions);
  }
  Begin(state, actions);
}

std::vector<HeldUnit> Worker::AllUnits() const {
  std::vector<HeldUnit> units;
  for (size_t unit = 0; unit < options_.catalog->units.size(); ++unit) {
    units.push_back({UnitId(static_cast<int32_t>(unit)),
                     EvaluationFactor(options_.rescale, admission_.coverage[unit])});
  }
  return units;
}

WorkerActions Worker::OnWant(Step step, UnitId unit) {
  WorkerActions actions;
  if (!walk_.has_value() || walk_->version != step || walk_->weights.missing.contains(unit))
    return actions;
  walk_->last_wanted = unit;
  Expect(walk_->weights, unit);
  const std::vector<FragmentId>& block = options_.layout->block(unit);
  walk_->unasked.insert(walk_->unasked.end(), block.begin(), block.end());
  PullWalked(&actions);
  return actions;
}

WorkerActions Worker::OnEvaluated(Step step, const absl::StatusOr<LossSum>& result) {
  WorkerActions actions;
  if (!walk_.has_value() || walk_->version != step || !walk_->first_sample.has_value())
    return actions;
  if (!result.ok()) {
    if (absl::IsOutOfRange(result.status())) {
      actions.not_finite.push_back(
          {options_.name, step, "the validation loss", admission_.incarnation});
    } else {
      actions.exit = result.status();
    }
    return actions;
  }
  actions.evaluations.push_back({admission_.incarnation, step, result->loss_sum, result->terms,
                                 result->correct, *walk_->first_sample});
  last_evaluations_.push_back(actions.evaluations.back());
  newest_evaluated_ = std::max(newest_evaluated_, step);
  std::erase_if(last_evaluations_, [this](const EvaluationReport& report) {
    return report.step + kStepsRepeated <= newest_evaluated_;
  });
  StepState& state = steps_.at(walk_->step);
  walk_.reset();
  WalkOrBegin(state, &actions);
  return actions;
}

WorkerActions Worker::OnDense(Step step, const absl::Status& result) {
  WorkerActions actions;
  if (!Diagnoses(step)) return actions;
  if (!result.ok()) {
    actions.exit = result;
    return actions;
  }
  StepState& state = steps_.at(walk_->step);
  walk_.reset();
  WalkOrBegin(state, &actions);
  return actions;
}

}  // namespace sdp
