#include "worker/model/walk.h"

#include <cstddef>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sdp {

absl::StatusOr<std::vector<StageUse>> PlanWalk(const Catalog& catalog,
                                               absl::Span<const HeldUnit> held,
                                               absl::Span<const UnitId> read_only) {
  std::vector<std::optional<double>> factors(catalog.units.size());
  const auto known = [&](UnitId unit) -> absl::Status {
    if (unit.value() >= 0 && static_cast<size_t>(unit.value()) < factors.size())
      return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("unit ", unit.value(), " of a model with ", factors.size(), " units"));
  };
  for (const HeldUnit& unit : held) {
    SDP_RETURN_IF_ERROR(known(unit.unit));
    factors[static_cast<size_t>(unit.unit.value())] = unit.factor;
  }
  for (const UnitId unit : read_only) {
    SDP_RETURN_IF_ERROR(known(unit));
    std::optional<double>& factor = factors[static_cast<size_t>(unit.value())];
    if (factor.has_value() || catalog.unit(unit).shared) {
      return absl::InvalidArgumentError(
          absl::StrCat(catalog.unit(unit).shared ? "shared unit " : "held unit ",
                       catalog.unit(unit).name, " is to be read only"));
    }
    factor = 1;
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

std::vector<size_t> FirstUses(const Catalog& catalog) {
  std::vector<size_t> first(catalog.units.size());
  for (size_t stage = catalog.stages.size(); stage-- > 0;) {
    for (const UnitId id : catalog.stages[stage].units)
      first[static_cast<size_t>(id.value())] = stage;
  }
  return first;
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
