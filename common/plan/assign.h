#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/base/ids.h"
#include "common/base/random.h"
#include "common/plan/designs.h"

// The three ways to give the units of one kind to workers: the inside of MakePlan. Workers are
// plain numbers 0..N-1 here; after every call the workers' counts of the kind differ by at most
// one. N workers, p holders, B units of the kind.
namespace sdp {

// Units that can stand for each other.
struct Kind {
  struct Member {
    UnitId unit;
    int64_t macs = 0;
    int64_t params = 0;
    double share = 0;  // c_j N, at least 1 and exact where it is a whole number
    int branch = -1;   // of which it is one of several parts; < 0: it is a whole one
  };
  std::vector<Member> members;  // B, in the order in which they are dealt

  // The whole number p if all units have p holders, else 0.
  int EqualHolders() const;
};

// The assignment in the making.
struct Draft {
  Draft(int workers, size_t units) : load(static_cast<size_t>(workers)), holders(units) {}
  int workers() const { return static_cast<int>(load.size()); }
  void Give(const Kind::Member& member, std::vector<int> to);
  // [N] Load above the least one: small, so that sums over many workers stay in 64 bits.
  std::vector<int64_t> Excess() const;

  std::vector<int64_t> load;              // [N] MACs so far
  std::vector<std::vector<int>> holders;  // [units], not sorted
};

// Deals a design's classes, each once before any comes again. `complement`: a unit's holders are
// all workers but one set, so p = N - set size.
class Dealer {
 public:
  // `redraw`: shuffles classes and sets, or null for the design's own order. Must outlive the
  // dealer.
  Dealer(Design design, bool complement, RandomStream* redraw)
      : design_(design), complement_(complement), redraw_(redraw) {}

  int group_size() const { return design_.sets(); }
  // Gives each unit of the group, at most group_size() of one kind, one set of one class.
  void Deal(absl::Span<const Kind::Member> group, Draft& draft);

 private:
  struct Split {
    std::vector<int> set_of;  // [N]
    std::vector<int> order;   // The unit at position k of the group takes set order[k].
  };
  Split MakeSplit(int index, const std::vector<int>& ties, const std::vector<int64_t>& load) const;
  std::vector<int> SetOrder();
  std::vector<int> Holders(const Split& split, size_t position) const;
  std::vector<int64_t> With(std::vector<int64_t> load, const std::vector<Kind::Member>& members,
                            const Split& split) const;

  const Design design_;
  const bool complement_;
  RandomStream* const redraw_;
  std::vector<int> unused_;  // Classes left of this pass, next first.
  int dealt_ = 0;            // Groups so far.
};

// Equal counts: each unit takes the workers that still need most of the kind, ties by lot. How many
// each needs is fixed first: those with the least MACs get one more where counts cannot be equal.
void AssignEqualCounts(const Kind& kind, RandomStream& random, Draft& draft);

// Runs of consecutive workers. Full rounds of N units start at workers 0..N-1; what is left starts
// at even distances, or (c N not whole) each run where the last one ended. Precondition: B >= N.
void AssignCyclic(const Kind& kind, Draft& draft);

// Groups of consecutive units, each dealt one class of the design, those of unequal costs first.
// Units have equal holders.
void AssignResolvable(const Kind& kind, Dealer& dealer, Draft& draft);

}  // namespace sdp
