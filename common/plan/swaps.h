#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/base/random.h"
#include "common/plan/assign.h"

namespace sdp {

// Improves an assignment by swaps: where worker a holds unit j but not k, and worker b holds k but
// not j, both of one kind, they change places. So every unit keeps its number of holders and every
// worker its count of the kind. Where all units of a kind have p holders and p divides N, only
// units of one group of N/p consecutive ones change places: each group goes on splitting the
// workers. Parts of a branch change places with each other only: every worker keeps its count of
// them. N workers, p holders.
//
// What is lowered is the energy: lambda_2 of the walk between workers (gap.h; each unit counted
// once), plus what the largest MACs and the largest parameters lie above their means, as shares of
// these. Up to kMaxMixedWorkers swaps are accepted below a falling threshold (Dueck & Scheuer's
// threshold accepting) and the best assignment seen is kept, so it is never worse than before.
// Above, where eigenvalues would take too long, only the loads are levelled, if units of a kind
// cost differently. The number of trials depends on N alone: 0.5 s of optimised code at most.
// Whole billionths are compared, so that the result does not depend on how a build rounds.
class Swaps {
 public:
  static constexpr int kMaxMixedWorkers = 64;

  // `free`: the kinds whose units may be swapped. `fixed` ones count, but stay. All must outlive
  // it.
  Swaps(const std::vector<const Kind*>& free, const std::vector<const Kind*>& fixed, Draft& draft);

  // The gap as a share of the largest that these numbers of holders allow; 1 if they allow none,
  // and above kMaxMixedWorkers.
  double ReachedGap() const;
  // Changes the draft. kLevel: as above kMaxMixedWorkers, whatever N is.
  enum class Aim { kMixAndLevel, kLevel };
  void Improve(Aim aim, RandomStream& random);

 private:
  struct Unit {
    Kind::Member member;
    int holders = 0;
    size_t group_begin = 0, group_size = 0;  // the units that it may be swapped with, in units_
    std::vector<char> held;                  // [N]
  };
  struct Swap {
    size_t j = 0, k = 0;  // units
    int a = 0, b = 0;     // workers: j goes from a to b, k from b to a
  };

  void AddUnits(const Kind& kind);
  void AddUnit(const Kind::Member& member, size_t group_begin, size_t group_size);
  std::optional<Swap> Propose(RandomStream& random) const;
  void Apply(const Swap& swap);
  void Give(Unit& unit, int from, int to);
  void Mix(RandomStream& random);
  void Level(RandomStream& random);
  bool mixes() const { return workers_ <= kMaxMixedWorkers; }
  double Lambda2() const;
  double LeastLambda2() const;
  int64_t Energy() const;

  Draft& draft_;
  const int workers_;
  std::vector<Unit> units_;      // of the free kinds, kind after kind
  size_t all_units_ = 0;         // of fixed kinds too
  bool equal_costs_ = true;      // within each free kind
  Eigen::MatrixXd common_;       // [N, N] sum of 1 / p over the units that both hold
  Eigen::VectorXd counts_;       // [N] units held; swaps do not change it
  std::vector<int64_t> params_;  // [N]; the MACs are the draft's loads
};

}  // namespace sdp
