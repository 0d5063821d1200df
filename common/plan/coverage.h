#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/model/catalog.h"

// The share of workers c_j that hold each unit, from what a configuration says about kinds of units
// and about layers. Resolved once, at a run's first start (protocol.md section 5). Pure functions.
namespace sdp {

struct CoverageChoice {
  double coverage = 1;             // of every unit that nothing below speaks of; in (0, 1]
  int holders = 0;                 // > 0: holders / workers instead
  std::vector<double> depth = {};  // not empty: instead of both, by layer
  std::map<std::string, double> by_kind = {};  // of the kinds it names, whatever their depth
};

// From step `from` on, units are on these shares of the workers. What a unit's output is scaled by
// still refers to the configured c_j (PlanInput::reference), so that a phase changes who trains a
// unit and not what the model computes.
struct CoveragePhase {
  Step from = 0;
  std::vector<double> coverage;  // [units]
};

// The phase of a step: k + 1 for phases[k], 0 before the first. Precondition: `from` ascends.
int PhaseAt(const std::vector<CoveragePhase>& phases, Step step);

// [units] c_j; 1 for shared units. The most specific choice counts: by_kind, then depth, then
// coverage or holders.
//   depth  its K values lie at even distances over the L layers, the first at layer 0 and the last
//          at layer L - 1, with straight lines between them; K = L gives each layer its own, K = 1
//          all the same. The values are the coverage itself and are not normalised: their mean is
//          what a worker computes.
//
// InvalidArgument: holders > workers; a share outside (0, 1]; more depths than layers; a unit that
// is not shared and belongs to no layer, with depth; a kind that no unit has which is not shared.
absl::StatusOr<std::vector<double>> ResolveCoverage(const Catalog& catalog,
                                                    const CoverageChoice& choice, int workers);

}  // namespace sdp
