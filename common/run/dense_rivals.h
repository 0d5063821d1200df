#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "common/plan/report.h"
#include "common/run/run_setup.h"

namespace sdp {

// The honest rivals of a plan: the largest smaller models that the same workers could train without
// masks (coverage 1, the same batch), each worker with no more multiply-accumulates per sample than
// the busiest one of the plan, and no larger a predicted peak of memory than that of the one that
// needs most, where memory can be predicted. Two, in this order:
//   LLaMA, MLP  one of fewer layers, and one that is narrower: the width and the MLP's shrink in
//   the
//               same proportion; LLaMA's in steps of two elements of a head
//   ResNet      one of fewer blocks, at least one of each level, and one that is narrower: all
//               levels in proportion, in whole norm groups
//   Swin        one of fewer blocks, as ResNet's, and one that is narrower, in steps that every
//               level's heads divide
// One is left out if not even its smallest form fits; at coverage 1 both are the model itself. A
// pure function.
//
// Errors: none for a setup that MakeRunSetup gave, with the report of its plan.
absl::StatusOr<std::vector<PlanReport::Rival>> DenseRivals(const RunSetup& setup,
                                                           const PlanReport& report);

}  // namespace sdp
