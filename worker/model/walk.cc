#include "worker/model/walk.h"

#include <cstddef>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sdp {

absl::StatusOr<std::vector<StageUse>> PlanWalk(const Catalog& catalog,
                                               absl::Span<const HeldUnit> held) {
  std::vector<std::optional<double>> factors(catalog.units.size());
  for (const HeldUnit& unit : held) {
    if (unit.unit.value() < 0 || static_cast<size_t>(unit.unit.value()) >= factors.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("unit ", unit.unit.value(), " of a model with ", factors.size(), " units"));
    }
    factors[static_cast<size_t>(unit.unit.value())] = unit.factor;
  }
  std::vector<StageUse> walk(catalog.stages.size());
  for (size_t stage = 0; stage < walk.size(); ++stage) {
    for (const UnitId id : catalog.stages[stage].units) {
      const std::optional<double>& factor = factors[static_cast<size_t>(id.value())];
      if (!factor.has_value()) {
        if (catalog.unit(id).shared) {
          return absl::InvalidArgumentError(
              absl::StrCat("shared unit ", catalog.unit(id).name, " is not held"));
        }
        walk[stage].present = false;
      } else if (!catalog.unit(id).shared) {
        walk[stage].factor = *factor;
      }
    }
  }
  return walk;
}

std::vector<size_t> LastUses(const Catalog& catalog) {
  std::vector<size_t> last(catalog.units.size());
  for (size_t stage = 0; stage < catalog.stages.size(); ++stage) {
    for (const UnitId id : catalog.stages[stage].units)
      last[static_cast<size_t>(id.value())] = stage;
  }
  return last;
}

}  // namespace sdp
