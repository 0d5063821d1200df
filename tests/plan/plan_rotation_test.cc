#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "common/plan/plan.h"
#include "tests/plan/fake_model.h"

// Redraws: other units meet on a worker, and nothing else changes.
namespace sdp {
namespace {

using testing::FakeInput;
using testing::FakeModel;
using testing::Fraction;
using testing::kAllAssignments;

constexpr int kRedraws = 1000;

// [a][b] Workers that hold both units, over all.
using Meetings = std::map<std::pair<size_t, size_t>, int>;

void Count(const Plan& plan, size_t units, Meetings& meetings) {
  for (size_t a = 1; a <= units; ++a) {
    for (size_t b = a + 1; b <= units; ++b) {
      std::vector<int> both;
      std::set_intersection(plan.holders[a].begin(), plan.holders[a].end(), plan.holders[b].begin(),
                            plan.holders[b].end(), std::back_inserter(both));
      meetings[{a, b}] += static_cast<int>(both.size());
    }
  }
}

// Units are dealt in pairs that split the workers, so units of one pair never meet. Two units of
// different pairs meet on N/4 workers in the mean: the deviation of one redraw is at most N/4 in a
// sixth of them, so over 1,000 redraws about 2% of N/4.
TEST(PlanRotationTest, HalfTheWorkers_UnitsOfDifferentGroupsMeetEquallyOften) {
  for (const int workers : {4, 6, 8, 16}) {
    for (const int units : {8, 24}) {
      for (const Assignment assignment : {Assignment::kResolvable, Assignment::kRandom}) {
        SCOPED_TRACE(absl::StrCat("N ", workers, " B ", units));
        const Catalog catalog = FakeModel(units);
        PlanInput input = FakeInput(catalog, workers, 0.5, assignment);
        input.seed = 3;
        Meetings meetings;
        for (int rotation = 0; rotation < kRedraws; ++rotation) {
          input.rotation = rotation;
          Count(*MakePlan(input), static_cast<size_t>(units), meetings);
        }
        for (const auto& [pair, count] : meetings) {
          if ((pair.first - 1) / 2 == (pair.second - 1) / 2) {
            EXPECT_EQ(count, 0);
          } else {
            EXPECT_NEAR(count, kRedraws * workers / 4.0, 0.1 * kRedraws * workers / 4.0)
                << pair.first << ", " << pair.second;
          }
        }
      }
    }
  }
}

// Not only who runs a set of units, but which units form one.
TEST(PlanRotationTest, Redraw_ChangesWhatMeets) {
  const Catalog catalog = FakeModel(24);
  for (const Assignment assignment : kAllAssignments) {
    PlanInput input = FakeInput(catalog, 8, 0.5, assignment);
    std::set<std::set<std::vector<UnitId>>> subnetworks;
    for (int rotation = 0; rotation < 50; ++rotation) {
      input.rotation = rotation;
      const Plan plan = *MakePlan(input);
      subnetworks.insert({plan.units.begin(), plan.units.end()});
    }
    EXPECT_GE(subnetworks.size(), 49u);
  }
}

TEST(PlanRotationTest, AllIndices_SameHoldersCountAndLoad) {
  const Catalog catalog = FakeModel({{"a", 12, 5}, {"b", 12, 3}});
  for (const Assignment assignment : kAllAssignments) {
    for (const int holders : {1, 2, 3, 4, 5, 6, 7, 8}) {
      PlanInput input = FakeInput(catalog, 8, Fraction(holders, 8), assignment);
      for (int rotation = 0; rotation < 100; ++rotation) {
        input.rotation = rotation;
        const Plan plan = *MakePlan(input);
        for (size_t j = 1; j <= 24; ++j) {
          ASSERT_EQ(static_cast<int>(plan.holders[j].size()), holders);
          ASSERT_EQ(plan.factors[j], 1);
        }
        if (12 * holders % 8 != 0) continue;
        for (const auto& units : plan.units) ASSERT_EQ(units.size(), plan.units[0].size());
      }
    }
  }
}

TEST(PlanRotationTest, SeedAndIndexAlone_DecideTheRedraw) {
  const Catalog catalog = FakeModel(12);
  PlanInput input = FakeInput(catalog, 8, 0.5, Assignment::kResolvable);
  input.rotation = 7;
  const Plan seventh = *MakePlan(input);
  input.rotation = 8;
  EXPECT_NE(MakePlan(input)->holders, seventh.holders);
  input.rotation = 7;
  EXPECT_EQ(MakePlan(input)->hash, seventh.hash);
  input.seed = 1;
  EXPECT_NE(MakePlan(input)->holders, seventh.holders);
}

// Index 0 of a rotating run is the plan of one that does not rotate: `sdp plan` shows it.
TEST(PlanRotationTest, IndexZero_IndependentOfSeedWhereADesignIsKnown) {
  const Catalog catalog = FakeModel(12);
  PlanInput input = FakeInput(catalog, 8, 0.5, Assignment::kResolvable);
  const Plan first = *MakePlan(input);
  input.seed = 1;
  EXPECT_EQ(MakePlan(input)->holders, first.holders);
}

}  // namespace
}  // namespace sdp
