#pragma once

#include "common/base/ids.h"
#include "common/plan/plan.h"

// By what a unit's output is multiplied, so that the full model, which has all units, computes what
// the subnetworks, which lack some, were trained for. The one place that says so: training,
// evaluation, export and the reading of dense models ask here.
//
// Unit j has coverage c; p of N workers hold it (p = c N while the configured coverage can be
// kept):
//
//                training           evaluation, export
//   kNone        1                  1
//   kEval        c N / p            c
//   kInverted    N / p              1
//   kSqrt        sqrt(c N / p)      sqrt(c)
//
// kEval and kInverted keep the mean of what a unit adds: p of N workers at the training factor are
// as much as all N at the evaluation factor, as in dropout with its scale in evaluation or in
// training. kSqrt keeps the variance instead: where units' outputs are independent with mean 0, a
// share p / N of them at the training factor adds up to the variance of all at the evaluation
// factor. In every row a unit that all workers hold (p = N) trains at its evaluation factor: dense
// steps train the very network that is exported. A shared unit's factors are 1.
//
// Threads: pure functions.   Errors: none; the plan is MakePlan's, coverage in (0, 1].
namespace sdp {

enum class Rescale { kNone, kEval, kInverted, kSqrt };

double TrainingFactor(Rescale rescale, const Plan& plan, UnitId unit);
double EvaluationFactor(Rescale rescale, double coverage);

}  // namespace sdp
