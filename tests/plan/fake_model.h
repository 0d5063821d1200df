#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/model/catalog.h"
#include "common/plan/plan.h"

// Models and inputs for planner tests: only what a planner looks at.
namespace sdp::testing {

struct FakeKind {
  std::string name;
  int units = 0;
  int64_t macs = 1;  // Of each unit.
};

// Two shared units around the kinds' units, which alternate as attention and MLP do: a0 b0 a1 b1
// ...
inline Catalog FakeModel(const std::vector<FakeKind>& kinds) {
  Catalog catalog;
  const auto add = [&catalog](std::string name, std::string kind, bool shared, int64_t macs) {
    TensorSpec tensor;
    tensor.name = absl::StrCat(name, ".weight");
    tensor.shape = {2 * macs, 3};
    UnitSpec unit;
    unit.name = std::move(name);
    unit.kind = std::move(kind);
    unit.shared = shared;
    unit.macs = macs;
    unit.params = 6 * macs;
    unit.activation_elements = 5 * macs;
    Slice whole;
    whole.tensor = static_cast<int>(catalog.tensors.size());
    unit.slices = {whole};
    catalog.tensors.push_back(std::move(tensor));
    catalog.units.push_back(std::move(unit));
  };
  add("first", "first", true, 7);
  int most = 0;
  for (const FakeKind& kind : kinds) most = std::max(most, kind.units);
  for (int i = 0; i < most; ++i) {
    for (const FakeKind& kind : kinds) {
      if (i < kind.units) add(absl::StrCat(kind.name, i), kind.name, false, kind.macs);
    }
  }
  add("last", "last", true, 11);
  return catalog;
}

inline Catalog FakeModel(int units) { return FakeModel({{"unit", units, 1}}); }

inline std::vector<Rank> FakeRanks(int workers) {
  std::vector<Rank> ranks;
  for (int i = 0; i < workers; ++i) ranks.push_back({absl::StrCat("worker-", i), 0});
  return ranks;
}

inline std::vector<double> Uniform(const Catalog& catalog, double coverage) {
  std::vector<double> all;
  for (const UnitSpec& unit : catalog.units) all.push_back(unit.shared ? 1 : coverage);
  return all;
}

// `catalog` must outlive the input.
inline PlanInput FakeInput(const Catalog& catalog, int workers, double coverage,
                           Assignment assignment) {
  PlanInput input;
  input.catalog = &catalog;
  input.coverage = Uniform(catalog, coverage);
  input.ranks = FakeRanks(workers);
  input.assignment = assignment;
  return input;
}

inline double Fraction(int part, int whole) { return static_cast<double>(part) / whole; }

constexpr Assignment kAllAssignments[] = {Assignment::kResolvable, Assignment::kCyclic,
                                          Assignment::kRandom};

}  // namespace sdp::testing
