#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/model/catalog.h"

namespace sdp {

struct MemoryModel;  // common/plan/memory.h

enum class Assignment { kResolvable, kCyclic, kRandom };

struct Rank {
  std::string name;          // "worker-0"
  int64_t memory_bytes = 0;  // 0: not limited
};

struct PlanInput {
  const Catalog* catalog = nullptr;
  std::vector<double>
      coverage;  // [units] in (0, 1], of the workers that hold it; 1 for shared ones
  std::vector<double> reference;  // [units] c_j of the factors; empty: the coverage
  std::vector<Rank> ranks;        // N, in rank order
  Assignment assignment = Assignment::kResolvable;
  uint64_t seed = 0;
  int64_t rotation = 0;  // step / rotate_every; 0 without rotation
  // What units take: no worker holds more than it has memory for. Null: that is not looked at.
  const MemoryModel* memory = nullptr;
};

// Which worker holds which unit.
struct Plan {
  std::vector<std::vector<int>> holders;   // [units], ascending ranks; p_j = holders[j].size()
  std::vector<std::vector<UnitId>> units;  // [N], ascending
  // [units] c_j N / p_j, c_j the reference: 1 where p_j is what it wants; the training factors
  // (rescale.h)
  std::vector<double> factors;
  std::vector<std::string> warnings;  // e.g. p = 1: workers share nothing but the shared units
  uint64_t hash = 0;                  // of holders, coverage and reference, names, seed, rotation
};

inline constexpr int kDraws = 32;

// c_j N is the whole number that it is this close to: 0.333333 for a third is meant as one of
// three.
inline constexpr double kShareRounding = 1e-5;

// Assigns units to ranks: floor(c_j N) or ceil(c_j N) holders each (at least 1), per kind of unit
// the workers' counts differ by at most one, and total MACs are level. A pure function without
// history.
//   kResolvable  groups of N/p consecutive units of a kind each split the workers; the splits run
//                through the parallel classes of a design (subnetworks of equal load that overlap
//                evenly; designs.h). With p > N/2 each unit of a group of N/(N-p) leaves out one
//                set. Kinds without a design (c_j N that no design has, or that differs from unit
//                to unit) are dealt as with kRandom and then improved by swaps; so are designs of
//                which so few classes are used that they mix badly (swaps.h).
//   kCyclic      runs of p consecutive workers.
//   kRandom      equal counts, seeded.
// With another `rotation` other units occur together on a worker: classes, units within groups
// (runs: within kinds) and workers are shuffled by (seed, rotation). Rotation 0 is not: where a
// design is known, the plan of a run that never rotates does not depend on the seed.
//
// Then units of workers whose memory is too small move to others (memory_fit.h); a warning names
// who gave some away. Where memories are tight, though enough together, one draw fits and another
// does not: up to kDraws are made for a rotation.
//
// InvalidArgument - names what is impossible: c_j outside (0, 1] or below 1/N, a worker without any
// unit that is not shared, kCyclic with fewer units of a kind than workers, too little memory.
absl::StatusOr<Plan> MakePlan(const PlanInput& input);

}  // namespace sdp
