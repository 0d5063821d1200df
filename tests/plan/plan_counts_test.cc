#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>

#include "common/plan/plan.h"
#include "tests/base/sanitized.h"
#include "tests/plan/fake_model.h"

// What every plan keeps, checked from the definition over many sizes: holders are floor or ceil of
// c N, counts per kind differ by at most one, loads are level.
namespace sdp {
namespace {

using testing::FakeInput;
using testing::FakeKind;
using testing::FakeModel;
using testing::kAllAssignments;

// As far as the plan itself goes; `exact` holders per unit, or a whole number on both sides of it.
void CheckPlan(const PlanInput& input, const Plan& plan, double exact) {
  const Catalog& catalog = *input.catalog;
  const size_t workers = input.ranks.size();
  std::map<std::string, std::vector<int>> counts;     // By kind, [N].
  std::map<std::string, std::pair<int, int>> totals;  // By kind: units, holders.
  ASSERT_EQ(plan.holders.size(), catalog.units.size());
  ASSERT_EQ(plan.units.size(), workers);
  for (size_t j = 0; j < catalog.units.size(); ++j) {
    const UnitSpec& unit = catalog.units[j];
    const std::vector<int>& holders = plan.holders[j];
    ASSERT_TRUE(std::is_sorted(holders.begin(), holders.end()));
    ASSERT_EQ(std::set<int>(holders.begin(), holders.end()).size(), holders.size());
    ASSERT_GE(holders.front(), 0);
    ASSERT_LT(holders.back(), static_cast<int>(workers));
    if (unit.shared) {
      ASSERT_EQ(holders.size(), workers);
      continue;
    }
    const double size = static_cast<double>(holders.size());
    ASSERT_TRUE(size == std::floor(exact) || size == std::ceil(exact)) << size;
    std::vector<int>& count = counts[unit.kind];
    count.resize(workers);
    for (const int worker : holders) ++count[static_cast<size_t>(worker)];
    ++totals[unit.kind].first;
    totals[unit.kind].second += static_cast<int>(holders.size());
  }
  for (const auto& [kind, count] : counts) {
    const auto [least, most] = std::minmax_element(count.begin(), count.end());
    ASSERT_LE(*most - *least, 1) << kind;
    const auto [units, holders] = totals[kind];
    ASSERT_LE(std::abs(holders - exact * units), 0.5 + 1e-6) << kind;
  }
  // units is the other view of holders.
  for (size_t i = 0; i < workers; ++i) {
    ASSERT_TRUE(std::is_sorted(plan.units[i].begin(), plan.units[i].end()));
    for (const UnitId unit : plan.units[i]) {
      const auto& holders = plan.holders[static_cast<size_t>(unit.value())];
      ASSERT_TRUE(std::binary_search(holders.begin(), holders.end(), static_cast<int>(i)));
    }
  }
  size_t held = 0, given = 0;
  for (const auto& units : plan.units) held += units.size();
  for (const auto& holders : plan.holders) given += holders.size();
  ASSERT_EQ(held, given);
}

// Plans that swaps improve take milliseconds each: of these some sizes only. Of all, where each
// access is looked at.
bool Tried(Assignment assignment, int units) {
  if (kSanitized && units % 5 != 3) return false;
  return assignment != Assignment::kResolvable || units % 10 == 3;
}

TEST(PlanCountsTest, AllSmallSizes_WholeHolders) {
  for (int units = 1; units <= 30; ++units) {
    const Catalog catalog = FakeModel(units);
    for (int workers = 1; workers <= 12; ++workers) {
      for (int holders = 1; holders <= workers; ++holders) {
        for (const Assignment assignment : kAllAssignments) {
          if (!Tried(assignment, units)) continue;
          for (const int64_t rotation : {0, 5}) {
            SCOPED_TRACE(absl::StrCat("B ", units, " N ", workers, " p ", holders, " assignment ",
                                      static_cast<int>(assignment), " rotation ", rotation));
            PlanInput input =
                FakeInput(catalog, workers, testing::Fraction(holders, workers), assignment);
            input.rotation = rotation;
            const absl::StatusOr<Plan> plan = MakePlan(input);
            const bool possible = units * holders >= workers &&
                                  (assignment != Assignment::kCyclic || units >= workers);
            ASSERT_EQ(plan.ok(), possible) << plan.status();
            if (possible) CheckPlan(input, *plan, holders);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST(PlanCountsTest, AllSmallSizes_FractionalCoverage) {
  for (int units = 1; units <= 30; ++units) {
    const Catalog catalog = FakeModel(units);
    for (int workers = 2; workers <= 12; ++workers) {
      for (const double coverage : {0.19, 0.25, 1.0 / 3, 0.5, 0.55, 0.71, 0.9, 0.99}) {
        for (const Assignment assignment : kAllAssignments) {
          if (!Tried(assignment, units)) continue;
          for (const int64_t rotation : {0, 5}) {
            SCOPED_TRACE(absl::StrCat("B ", units, " N ", workers, " c ", coverage, " assignment ",
                                      static_cast<int>(assignment), " rotation ", rotation));
            PlanInput input = FakeInput(catalog, workers, coverage, assignment);
            input.rotation = rotation;
            double exact = coverage * workers;
            if (std::abs(exact - std::round(exact)) < 1e-9) exact = std::round(exact);
            const bool possible = exact >= 1 && std::floor(exact * units + 0.5 + 1e-9) >= workers &&
                                  (assignment != Assignment::kCyclic || units >= workers);
            const absl::StatusOr<Plan> plan = MakePlan(input);
            ASSERT_EQ(plan.ok(), possible) << plan.status();
            if (possible) CheckPlan(input, *plan, exact);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

int64_t LoadSpread(const PlanInput& input, const Plan& plan) {
  std::vector<int64_t> loads(input.ranks.size());
  for (size_t j = 0; j < plan.holders.size(); ++j) {
    for (const int worker : plan.holders[j]) {
      loads[static_cast<size_t>(worker)] += input.catalog->units[j].macs;
    }
  }
  const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
  return *most - *least;
}

// Two kinds whose counts do not come out even: the second makes good what the first left, so loads
// differ by one unit at most. Designs and runs can only choose among given sets: there by one of
// each kind.
TEST(PlanCountsTest, TwoKinds_SecondLevelsWhatTheFirstLeft) {
  for (int workers = 2; workers <= 12; ++workers) {
    for (int holders = 1; holders <= workers; ++holders) {
      for (const int a : {13, 24}) {
        for (const int b : {12, 19}) {
          const Catalog catalog = FakeModel({{"a", a, 100}, {"b", b, 70}});
          for (const Assignment assignment : kAllAssignments) {
            SCOPED_TRACE(absl::StrCat("N ", workers, " p ", holders, " a ", a, " b ", b,
                                      " assignment ", static_cast<int>(assignment)));
            const PlanInput input =
                FakeInput(catalog, workers, testing::Fraction(holders, workers), assignment);
            const absl::StatusOr<Plan> plan = MakePlan(input);
            ASSERT_TRUE(plan.ok()) << plan.status();
            CheckPlan(input, *plan, holders);
            if (HasFatalFailure()) return;
            EXPECT_LE(LoadSpread(input, *plan), assignment == Assignment::kRandom ? 100 : 170);
          }
        }
      }
    }
  }
}

// Coverage that differs inside a kind: early units on all workers, late ones on few.
TEST(PlanCountsTest, UnequalCoverage_CountsStillLevel) {
  const Catalog catalog = FakeModel(16);
  for (const Assignment assignment : kAllAssignments) {
    PlanInput input = FakeInput(catalog, 8, 0.25, assignment);
    for (size_t j = 1; j <= 4; ++j) input.coverage[j] = 1;
    for (size_t j = 5; j <= 8; ++j) input.coverage[j] = 0.6;
    const absl::StatusOr<Plan> plan = MakePlan(input);
    ASSERT_TRUE(plan.ok()) << plan.status();
    std::vector<size_t> counts;
    for (const auto& units : plan->units) counts.push_back(units.size());
    const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
    EXPECT_LE(*most - *least, 1u);
    for (size_t j = 1; j <= 4; ++j) EXPECT_EQ(plan->holders[j].size(), 8u);
    for (size_t j = 5; j <= 8; ++j) {
      EXPECT_TRUE(plan->holders[j].size() == 4 || plan->holders[j].size() == 5);
    }
  }
}

}  // namespace
}  // namespace sdp
