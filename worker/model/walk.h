#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model/catalog.h"
#include "worker/logic/local_model.h"

namespace sdp {

// What a stage does in a walk of a subnetwork.
struct StageUse {
  bool present = true;  // false: the identity
  double factor = 1;    // of its branch
};

// One entry per stage of the catalog. A stage is present if its masked unit is held, whose factor
// it gets; shared units are always held. InvalidArgument - an unknown unit, a shared one that is
// missing.
absl::StatusOr<std::vector<StageUse>> PlanWalk(const Catalog& catalog,
                                               absl::Span<const HeldUnit> held);

// For each unit the last stage that reads it.
std::vector<size_t> LastUses(const Catalog& catalog);

}  // namespace sdp
