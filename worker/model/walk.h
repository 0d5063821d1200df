#pragma once

#include <cstddef>
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

struct WalkPlan {
  std::vector<StageUse> stages;  // of the catalog
  std::vector<UnitId> units;     // ascending; held or read only
  // [units of the catalog] A factor that is not the stage's: where the units of a stage have
  // different ones, or a shared one ends their branch, the stage's is 1 and each unit's belongs
  // into its part of the tensor that ends the branch. Everywhere else 1.
  std::vector<double> folded;
  std::vector<UnitId> idle;  // held, but none of the stages that read them is present
};

// A stage is present if any of its masked units is held, whose factors it gets, or read only, with
// factor 1, or if it has none, or stands alone; shared units are always held. InvalidArgument - an
// unknown unit, a shared one that is missing, one that is both held and read only.
absl::StatusOr<WalkPlan> PlanWalk(const Catalog& catalog, absl::Span<const HeldUnit> held,
                                  absl::Span<const UnitId> read_only = {});

// For each unit the first and the last stage that reads it.
std::vector<size_t> FirstUses(const Catalog& catalog);
std::vector<size_t> LastUses(const Catalog& catalog);

}  // namespace sdp
