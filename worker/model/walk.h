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
// it gets, or read only, with factor 1; shared units are always held. InvalidArgument - an unknown
// unit, a shared one that is missing, one that is both held and read only.
absl::StatusOr<std::vector<StageUse>> PlanWalk(const Catalog& catalog,
                                               absl::Span<const HeldUnit> held,
                                               absl::Span<const UnitId> read_only = {});

// For each unit the first and the last stage that reads it.
std::vector<size_t> FirstUses(const Catalog& catalog);
std::vector<size_t> LastUses(const Catalog& catalog);

}  // namespace sdp
