// Worker: its parts of the full model's evaluations, before it trains.
#include <algorithm>
#include <utility>

#include "worker/logic/worker.h"

namespace sdp {

void Worker::EvaluateOrBegin(StepState& state, WorkerActions* actions) {
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
  if (state.evaluated == state.binding.evaluations.size()) return Begin(state, actions);
  const EvaluationPart& part = state.binding.evaluations[state.evaluated];
  evaluation_ = Evaluation{state.binding.step, part, {}, {}};
  EvaluateTask task;
  task.step = part.version;
  for (size_t unit = 0; unit < options_.catalog->units.size(); ++unit) {
    task.units.push_back({UnitId(static_cast<int32_t>(unit)),
                          EvaluationFactor(options_.rescale, admission_.coverage[unit])});
  }
  task.first_sample = part.first;
  task.samples = part.samples;
  task.micro_batch = state.binding.micro_batch;
  actions->evaluate.push_back(std::move(task));
}

WorkerActions Worker::OnWant(Step step, UnitId unit) {
  WorkerActions actions;
  if (!evaluation_.has_value() || evaluation_->part.version != step ||
      evaluation_->weights.missing.contains(unit)) {
    return actions;
  }
  evaluation_->last_wanted = unit;
  Expect(evaluation_->weights, unit);
  const std::vector<FragmentId>& block = options_.layout->block(unit);
  evaluation_->weights.asked.insert(block.begin(), block.end());
  PullFragments(Key(evaluation_->part.view, step), block, &actions);
  return actions;
}

WorkerActions Worker::OnEvaluated(Step step, const absl::StatusOr<LossSum>& result) {
  WorkerActions actions;
  if (!evaluation_.has_value() || evaluation_->part.version != step) return actions;
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
                                 result->correct, evaluation_->part.first});
  last_evaluations_.push_back(actions.evaluations.back());
  if (last_evaluations_.size() > kRepeatedReports) last_evaluations_.pop_front();
  StepState& state = steps_.at(evaluation_->step);
  evaluation_.reset();
  ++state.evaluated;
  EvaluateOrBegin(state, &actions);
  return actions;
}

}  // namespace sdp
