#include "common/plan/rescale.h"

#include <cmath>
#include <cstddef>

namespace sdp {

double TrainingFactor(Rescale rescale, const Plan& plan, UnitId unit) {
  const auto j = static_cast<size_t>(unit.value());
  switch (rescale) {
    case Rescale::kNone:
      return 1;
    case Rescale::kEval:
      return plan.factors[j];
    case Rescale::kInverted:
      return static_cast<double>(plan.units.size()) / static_cast<double>(plan.holders[j].size());
    case Rescale::kSqrt:
      return std::sqrt(plan.factors[j]);
  }
  return 1;
}

double EvaluationFactor(Rescale rescale, double coverage) {
  switch (rescale) {
    case Rescale::kNone:
    case Rescale::kInverted:
      return 1;
    case Rescale::kEval:
      return coverage;
    case Rescale::kSqrt:
      return std::sqrt(coverage);
  }
  return 1;
}

}  // namespace sdp
