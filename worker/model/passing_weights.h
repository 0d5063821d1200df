#pragma once

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/logic/local_model.h"
#include "worker/model/slim_weights.h"
#include "worker/model/torch_model.h"
#include "worker/model/walk.h"
#include "worker/model/weight_map.h"

namespace sdp {

// The weights of the full model while a walk passes by: the walk wants those of a stage ahead,
// takes them and drops them, so that it never has all. Threads: confined to one. Lifetime: what it
// is made of outlives it.
class PassingWeights {
 public:
  enum class Gradients { kNone, kOfAll };  // whether weights require them

  // `plan`: PlanWalk's for all units.
  PassingWeights(const TorchWalk& walk, const WalkPlan& plan, Gradients gradients,
                 Exchange& exchange);

  // InvalidArgument - names a unit that the plan does not have.
  absl::Status Check() const;
  // Asks for those of the stage's units that are neither here nor on their way.
  void Want(size_t stage);
  // Errors: Exchange::Take's, naming the unit.
  absl::Status Take(size_t stage);
  // `ends` [units]: the stage after which the walk needs each one no more.
  void Drop(size_t stage, absl::Span<const size_t> ends);

  const SlimMap& map() const { return map_; }
  const SlimWeights& here() const { return weights_; }

 private:
  const TorchWalk& walk_;
  Exchange& exchange_;
  const SlimMap map_;
  SlimWeights weights_;
  std::vector<bool> wanted_;  // [units] asked for and not here yet
};

}  // namespace sdp
