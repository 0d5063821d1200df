#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "common/plan/plan.h"

namespace sdp {

// Gives units of workers that would need more memory to train than they have (Rank::memory_bytes)
// to workers that have room, the least loaded first; where nobody has room for a whole unit more,
// two workers exchange a larger one for a smaller one. Where that is not enough, the same is tried
// after whole subnetworks were dealt by size, the least memory getting the least. Every unit keeps
// its number of holders, and every worker one unit that is not shared. Changes nothing where
// everyone has enough. Needs input.memory; what is needed is TrainingMemory (memory.h). Returns the
// ranks that gave units away.
//
// `holders` [units]: ascending ranks, before and after.
// InvalidArgument - names a worker that cannot be helped, what it has and what it would need.
// ResourceExhausted - the same, where all together have the memory: of other holders it may do.
absl::StatusOr<std::vector<int>> MoveIntoMemory(const PlanInput& input,
                                                std::vector<std::vector<int>>& holders);

}  // namespace sdp
