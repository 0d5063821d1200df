// Coordinator: what the shards' rounds of a step have come to: its gradient's norm, the scale of
// clipping, and whether it is applied at all.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/coordinator/logic/coordinator.h"

namespace sdp {
namespace {

// So many steps that change nothing are no accident: the run would only cost money.
constexpr int kSkippedInARow = 50;
constexpr char kAgainstNotFinite[] = "a lower train.lr or train.clip_norm > 0 may help";

}  // namespace

CoordinatorActions Coordinator::OnReduced(const Reduced& reduced, absl::Time now) {
  CoordinatorActions actions;
  const auto it = steps_.find(reduced.step);
  const size_t number = static_cast<size_t>(reduced.shard.value());
  if (it == steps_.end() || it->second.binding.closing || number >= shards_.size() ||
      reduced.squares.size() != shards_[number].fragments) {
    return actions;
  }
  StepState& step = it->second;
  if (!step.reduced.insert(reduced.shard).second) return actions;
  size_t next = 0, next_holder = 0;
  for (const size_t f : owned_[number]) {
    step.squares[f] = reduced.squares[next++];
    if (!step.diagnose) continue;
    const UnitId unit = options_.layout->fragment(FragmentId(static_cast<int32_t>(f))).unit;
    const size_t holders = step.plan->holders[static_cast<size_t>(unit.value())].size();
    const auto squares = absl::MakeConstSpan(reduced.holder_squares).subspan(next_holder, holders);
    next_holder += squares.size();
    step.holder_squares[f].assign(squares.begin(), squares.end());
    step.holder_squares[f].resize(holders);
  }
  if (reduced.not_finite.has_value() && step.not_finite.empty())
    step.not_finite = NotFiniteText(*reduced.not_finite);
  Progress(now);
  if (step.reduced.size() == Owners().size()) FinishReduction(step, &actions);
  ReportSteps(now, &actions);
  TryFinish(now, &actions);
  return actions;
}

void Coordinator::FinishReduction(StepState& step, CoordinatorActions* actions) {
  double sum = 0;
  for (const double squares : step.squares) sum += squares;
  step.gradient_norm = std::sqrt(sum);
  if (options_.clip_norm <= 0 || step.scaled) return;
  step.scaled = true;
  step.scale =
      step.not_finite.empty() ? std::min(1.0, options_.clip_norm / (step.gradient_norm + 1e-6)) : 0;
  CoordinatorActions then;
  SendScale(step, &then);
  if (step.scale == 0) {
    Tell({.kind = RunEvent::Kind::kSkip, .step = step.binding.step, .reason = step.not_finite},
         &then);
  }
  const ScaleRecord record{generation_, step.binding.step, step.scale};
  Persist(record, std::move(then), actions);
  CountSkipped(record);
  if (skipped_in_a_row_ < kSkippedInARow) return;
  End(absl::OutOfRangeError(absl::StrCat("steps ", step.binding.step - kSkippedInARow + 1, " to ",
                                         step.binding.step, " changed nothing: ", step.not_finite,
                                         "; ", kAgainstNotFinite)),
      actions);
}

// Scales come step by step.
void Coordinator::CountSkipped(const ScaleRecord& record) {
  skipped_in_a_row_ = record.scale == 0 ? skipped_in_a_row_ + 1 : 0;
}

void Coordinator::SendScale(const StepState& step, CoordinatorActions* actions) const {
  for (const ShardId shard : Owners())
    actions->scales.push_back({shard, {generation_, step.binding.step, step.scale}});
}

CoordinatorActions Coordinator::OnNotFinite(const NotFiniteReport& report, absl::Time /*now*/) {
  CoordinatorActions actions;
  End(absl::OutOfRangeError(
          absl::StrCat("step ", report.step, ": ", NotFiniteText(report), "; ", kAgainstNotFinite)),
      &actions);
  return actions;
}

std::string Coordinator::NotFiniteText(const NotFiniteReport& report) const {
  const std::string whose =
      report.worker == Incarnation() ? "" : absl::StrCat(" of ", NameOf(report.worker));
  return absl::StrCat(report.what, whose, " is not finite (reported by ", report.member, ")");
}

}  // namespace sdp
