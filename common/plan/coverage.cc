#include "common/plan/coverage.h"

#include <algorithm>
#include <cstddef>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "common/base/status.h"

namespace sdp {
namespace {

absl::Status CheckShare(absl::string_view what, double share) {
  if (share > 0 && share <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " ", share, " is outside (0, 1]"));
}

int LayersOf(const Catalog& catalog) {
  int layers = 0;
  for (const UnitSpec& unit : catalog.units) layers = std::max(layers, unit.layer + 1);
  return layers;
}

absl::Status CheckDepth(const Catalog& catalog, const std::vector<double>& depth) {
  for (const double share : depth) SDP_RETURN_IF_ERROR(CheckShare("depth", share));
  const size_t layers = static_cast<size_t>(LayersOf(catalog));
  for (const UnitSpec& unit : catalog.units) {
    if (unit.shared || unit.layer >= 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("depth: unit ", unit.name, " of this model belongs to no layer"));
  }
  if (depth.size() <= layers) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("depth has ", depth.size(),
                                                 " values; the model has ", layers,
                                                 " layers, and each takes at most one"));
}

absl::Status CheckKinds(const Catalog& catalog, const std::map<std::string, double>& by_kind) {
  std::set<std::string> kinds;
  for (const UnitSpec& unit : catalog.units) {
    if (!unit.shared) kinds.insert(unit.kind);
  }
  for (const auto& [kind, share] : by_kind) {
    SDP_RETURN_IF_ERROR(CheckShare(absl::StrCat("coverage of kind \"", kind, "\":"), share));
    if (kinds.contains(kind)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("coverage of kind \"", kind,
                     "\": no unit of this model that is not shared is of that kind; there are: ",
                     absl::StrJoin(kinds, ", ")));
  }
  return absl::OkStatus();
}

// Whole numbers up to the last step, so that a layer at which a value lies has exactly that.
double AtLayer(const std::vector<double>& depth, int layer, int layers) {
  if (layers == 1) return depth.front();
  const size_t steps = static_cast<size_t>(layers - 1);
  const size_t place = static_cast<size_t>(layer) * (depth.size() - 1);
  const size_t low = place / steps;
  const size_t rest = place % steps;
  if (rest == 0) return depth[low];
  const double between = static_cast<double>(rest) / static_cast<double>(steps);
  return depth[low] + (depth[low + 1] - depth[low]) * between;
}

}  // namespace

int PhaseAt(const std::vector<CoveragePhase>& phases, Step step) {
  const auto next =
      std::upper_bound(phases.begin(), phases.end(), step,
                       [](Step value, const CoveragePhase& phase) { return value < phase.from; });
  return static_cast<int>(next - phases.begin());
}

absl::StatusOr<std::vector<double>> ResolveCoverage(const Catalog& catalog,
                                                    const CoverageChoice& choice, int workers) {
  if (workers < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("workers is ", workers, ": at least 1 is needed"));
  }
  if (choice.holders > workers) {
    return absl::InvalidArgumentError(absl::StrCat(
        "holders is ", choice.holders, ", more than the ", workers, " workers there are"));
  }
  const double coverage =
      choice.holders > 0 ? static_cast<double>(choice.holders) / workers : choice.coverage;
  if (choice.depth.empty()) {
    SDP_RETURN_IF_ERROR(CheckShare("coverage", coverage));
  } else {
    SDP_RETURN_IF_ERROR(CheckDepth(catalog, choice.depth));
  }
  SDP_RETURN_IF_ERROR(CheckKinds(catalog, choice.by_kind));

  const int layers = LayersOf(catalog);
  std::vector<double> resolved;
  for (const UnitSpec& unit : catalog.units) {
    const auto named = choice.by_kind.find(unit.kind);
    if (unit.shared) {
      resolved.push_back(1);
    } else if (named != choice.by_kind.end()) {
      resolved.push_back(named->second);
    } else {
      resolved.push_back(choice.depth.empty() ? coverage
                                              : AtLayer(choice.depth, unit.layer, layers));
    }
  }
  return resolved;
}

}  // namespace sdp
