#include "worker/model/passing_weights.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sdp {
namespace {

size_t Index(UnitId unit) { return static_cast<size_t>(unit.value()); }

}  // namespace

PassingWeights::PassingWeights(const TorchWalk& walk, const WalkPlan& plan, Gradients gradients,
                               Exchange& exchange)
    : walk_(walk),
      exchange_(exchange),
      map_(walk.catalog, walk.layout, walk.map, plan.units, plan.folded),
      weights_(walk.layout, map_, gradients == Gradients::kOfAll ? &map_ : nullptr, walk.placement),
      wanted_(walk.catalog.units.size()) {}

absl::Status PassingWeights::Check() const {
  for (size_t unit = 0; unit < walk_.catalog.units.size(); ++unit) {
    if (map_.Has(UnitId(static_cast<int32_t>(unit)))) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "a walk of the full model needs all units, and lacks ", walk_.catalog.units[unit].name));
  }
  return absl::OkStatus();
}

void PassingWeights::Want(size_t stage) {
  for (const UnitId unit : walk_.catalog.stages[stage].units) {
    if (weights_.Has(unit) || wanted_[Index(unit)]) continue;
    wanted_[Index(unit)] = true;
    exchange_.Want(unit);
  }
}

absl::Status PassingWeights::Take(size_t stage) {
  for (const UnitId unit : walk_.catalog.stages[stage].units) {
    if (weights_.Has(unit)) continue;
    absl::StatusOr<std::vector<WireBuffer>> fragments = exchange_.Take(unit);
    if (!fragments.ok()) return Context(fragments.status(), walk_.catalog.unit(unit).name);
    wanted_[Index(unit)] = false;
    SDP_RETURN_IF_ERROR(weights_.Unpack(unit, *std::move(fragments)));
  }
  return absl::OkStatus();
}

void PassingWeights::Drop(size_t stage, absl::Span<const size_t> ends) {
  for (const UnitId unit : walk_.catalog.stages[stage].units) {
    if (ends[Index(unit)] == stage) weights_.Drop(unit);
  }
}

}  // namespace sdp
