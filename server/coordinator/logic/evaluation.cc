// Coordinator: the full model's evaluations, in parts that members compute, and its gradients.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/coordinator/logic/coordinator.h"
#include "server/coordinator/logic/portions.h"

namespace sdp {

void Coordinator::Evaluate(StepState& step) {
  const int64_t all = data_->validation_samples;
  const int64_t total = options_.eval_samples > 0 ? std::min(options_.eval_samples, all) : all;
  std::vector<Incarnation> evaluators;
  for (const Incarnation member : view_->members()) {
    if (workers_.Find(member) != nullptr) evaluators.push_back(member);
  }
  for (size_t i = 0; i < evaluators.size(); ++i) {
    const auto [first, samples] =
        EqualPart(total, static_cast<int64_t>(i), static_cast<int64_t>(evaluators.size()));
    if (samples == 0) continue;
    step.undone.insert({evaluators[i], step.evaluations.size()});
    step.evaluations.push_back(
        {{step.binding.step, view_->id(), first, samples}, evaluators[i], {}});
  }
}

CoordinatorActions Coordinator::OnEvaluation(const EvaluationReport& report, absl::Time now) {
  CoordinatorActions actions;
  const auto it = steps_.find(report.step);
  if (it == steps_.end()) return actions;
  StepState& step = it->second;
  auto own = step.UndoneBy(report.worker);
  const auto is_own = [&] { return own != step.undone.end() && own->first == report.worker; };
  while (is_own() && step.evaluations[own->second].part.first != report.first) ++own;
  if (!is_own()) return actions;
  step.evaluations[own->second].report = report;
  step.undone.erase(own);
  perhaps_left_.push_back(report.worker);
  Progress(now);
  ForgetLeft();
  if (step.evaluated()) FinishEvaluation(step, &actions);
  ReportSteps(now, &actions);
  TryFinish(now, &actions);
  return actions;
}

void Coordinator::FinishEvaluation(StepState& step, CoordinatorActions* actions) {
  if (step.evaluation_given_up()) return;
  EvaluationReport total;
  for (const Evaluation& one : step.evaluations) {  // whatever order they came in
    total.loss_sum += one.report->loss_sum;
    total.terms += one.report->terms;
    if (one.report->correct) total.correct = total.correct.value_or(0) + *one.report->correct;
  }
  const auto terms = static_cast<double>(std::max<int64_t>(total.terms, 1));
  step.full_loss = total.loss_sum / terms;
  if (total.correct) step.full_accuracy = static_cast<double>(*total.correct) / terms;
  last_full_loss_ = step.full_loss;
  if (!std::isfinite(*step.full_loss)) {
    return End(absl::OutOfRangeError(absl::StrCat(
                   "step ", step.binding.step, ": the full model's validation loss is not finite")),
               actions);
  }
}

CoordinatorActions Coordinator::OnDiagnosed(const Diagnosed& report, absl::Time now) {
  CoordinatorActions actions;
  const auto it = steps_.find(report.step);
  const size_t number = static_cast<size_t>(report.shard.value());
  if (it == steps_.end() || !it->second.diagnose || number >= shards_.size() ||
      report.fragments.size() != shards_[number].fragments ||
      !it->second.diagnosed.insert(report.shard).second) {
    return actions;
  }
  StepState& step = it->second;
  size_t next = 0;
  for (const size_t f : owned_[number]) step.comparisons[f] = report.fragments[next++];
  Progress(now);
  ReportSteps(now, &actions);
  TryFinish(now, &actions);
  return actions;
}

// Once its line is written: a coordinator that takes the run up before that lets it be evaluated
// again.
void Coordinator::ReleaseEvaluation(const StepState& step, CoordinatorActions* actions) {
  for (size_t s = 0; s < shards_.size(); ++s) {
    actions->releases.push_back({ShardId(static_cast<int32_t>(s)), step.binding.step});
  }
}

void Coordinator::GiveEvaluationsAway(StepState& step, Incarnation lost,
                                      CoordinatorActions* actions) {
  std::vector<size_t> left;  // places
  for (auto own = step.UndoneBy(lost); own != step.undone.end() && own->first == lost; ++own)
    left.push_back(own->second);
  if (left.empty()) return;
  const bool given_up = step.evaluation_given_up();
  WorkerState* heir = nullptr;
  for (const Incarnation member : step.view->members()) {  // who may read that version
    WorkerState* const worker = workers_.Find(member);
    if (given_up || worker == nullptr || worker->leaving || worker->told_finished) continue;
    heir = worker;
    break;
  }
  if (heir == nullptr) {
    for (const size_t place : left) {
      step.evaluations[place].lost = true;
      step.undone.erase({lost, place});
    }
    if (given_up) return;
    Tell({.kind = RunEvent::Kind::kEvaluationGivenUp,
          .step = step.binding.step,
          .reason = "nobody is left who could read it"},
         actions);
    return;
  }
  for (const size_t place : left) {
    Evaluation& one = step.evaluations[place];
    one.evaluator = heir->incarnation;
    step.undone.erase({lost, place});
    step.undone.insert({heir->incarnation, place});
    // Else it is part of that step's binding.
    if (heir->answered >= step.binding.step) heir->more_evaluations.push_back(one.part);
  }
}

}  // namespace sdp
