#include "worker/model/walk.h"

#include <algorithm>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sdp {
namespace {

struct Use {
  enum class Kind { kAbsent, kHeld, kReadOnly };
  Kind kind = Kind::kAbsent;
  double factor = 1;
};

// [units]
using Uses = std::vector<Use>;

const Use& Of(const Uses& uses, UnitId unit) { return uses[static_cast<size_t>(unit.value())]; }

absl::Status CheckKnown(const Catalog& catalog, UnitId unit) {
  if (unit.value() >= 0 && static_cast<size_t>(unit.value()) < catalog.units.size())
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("unit ", unit.value(), " of a model with ", catalog.units.size(), " units"));
}

absl::StatusOr<Uses> UsesOf(const Catalog& catalog, absl::Span<const HeldUnit> held,
                            absl::Span<const UnitId> read_only) {
  Uses uses(catalog.units.size());
  for (const HeldUnit& unit : held) {
    SDP_RETURN_IF_ERROR(CheckKnown(catalog, unit.unit));
    uses[static_cast<size_t>(unit.unit.value())] = {Use::Kind::kHeld, unit.factor};
  }
  for (const UnitId unit : read_only) {
    SDP_RETURN_IF_ERROR(CheckKnown(catalog, unit));
    Use& use = uses[static_cast<size_t>(unit.value())];
    if (use.kind != Use::Kind::kAbsent || catalog.unit(unit).shared) {
      return absl::InvalidArgumentError(
          absl::StrCat(catalog.unit(unit).shared ? "shared unit " : "held unit ",
                       catalog.unit(unit).name, " is to be read only"));
    }
    use.kind = Use::Kind::kReadOnly;
  }
  for (size_t unit = 0; unit < uses.size(); ++unit) {
    if (catalog.units[unit].shared && uses[unit].kind == Use::Kind::kAbsent) {
      return absl::InvalidArgumentError(
          absl::StrCat("shared unit ", catalog.units[unit].name, " is not held"));
    }
  }
  return uses;
}

StageUse UseOf(const Catalog& catalog, const StageSpec& stage, const Uses& uses,
               std::vector<double>* folded) {
  bool masked = false;  // it has a masked unit
  std::vector<UnitId> here;
  for (const UnitId id : stage.units) {
    if (catalog.unit(id).shared) continue;
    masked = true;
    if (Of(uses, id).kind != Use::Kind::kAbsent) here.push_back(id);
  }
  if (here.empty()) return {.present = !masked || stage.stands_alone(), .factor = 1};
  const double factor = Of(uses, here.front()).factor;
  const bool one_factor = std::all_of(here.begin(), here.end(),
                                      [&](UnitId id) { return Of(uses, id).factor == factor; });
  if (one_factor && !stage.shared_end) return {.present = true, .factor = factor};
  for (const UnitId id : here) (*folded)[static_cast<size_t>(id.value())] = Of(uses, id).factor;
  return {.present = true, .factor = 1};
}

}  // namespace

absl::StatusOr<WalkPlan> PlanWalk(const Catalog& catalog, absl::Span<const HeldUnit> held,
                                  absl::Span<const UnitId> read_only) {
  SDP_ASSIGN_OR_RETURN(const Uses uses, UsesOf(catalog, held, read_only));
  WalkPlan plan;
  plan.folded.assign(catalog.units.size(), 1);
  std::vector<bool> read(catalog.units.size());
  for (const StageSpec& stage : catalog.stages) {
    const StageUse use = UseOf(catalog, stage, uses, &plan.folded);
    plan.stages.push_back(use);
    for (const UnitId id : stage.units) {
      if (use.present) read[static_cast<size_t>(id.value())] = true;
    }
  }
  for (size_t i = 0; i < uses.size(); ++i) {
    const UnitId unit(static_cast<int32_t>(i));
    if (uses[i].kind == Use::Kind::kAbsent) continue;
    plan.units.push_back(unit);
    if (!read[i]) plan.idle.push_back(unit);
  }
  return plan;
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
