#include "common/plan/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/plan/fake_model.h"

namespace sdp {
namespace {

using ::testing::ElementsAre;
using testing::FakeInput;
using testing::FakeModel;
using testing::FakeRanks;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kAllAssignments;

// The error's message; fails unless it is InvalidArgument.
std::string Refusal(const PlanInput& input) {
  const absl::StatusOr<Plan> plan = MakePlan(input);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument) << plan.status();
  return std::string(plan.status().message());
}

TEST(MakePlanTest, NoWorkers_InvalidArgument) {
  const Catalog catalog = FakeModel(8);
  EXPECT_THAT(Refusal(FakeInput(catalog, 0, 0.5, Assignment::kRandom)),
              HasSubstr("at least one worker"));
}

TEST(MakePlanTest, CoverageOfAnotherModel_InvalidArgument) {
  const Catalog catalog = FakeModel(8);
  PlanInput input = FakeInput(catalog, 4, 0.5, Assignment::kRandom);
  input.coverage.pop_back();
  EXPECT_THAT(Refusal(input), HasSubstr("9 units; the model has 10"));
}

TEST(MakePlanTest, CoverageOutsideItsRange_NamesUnitAndValue) {
  const Catalog catalog = FakeModel(8);
  for (const double bad : {0.0, -0.5, 1.01, std::numeric_limits<double>::quiet_NaN(),
                           std::numeric_limits<double>::infinity()}) {
    PlanInput input = FakeInput(catalog, 4, 0.5, Assignment::kResolvable);
    input.coverage[3] = bad;
    const std::string message = Refusal(input);
    EXPECT_THAT(message, HasSubstr("unit2"));
    EXPECT_THAT(message, HasSubstr(absl::StrCat(bad)));
    EXPECT_THAT(message, HasSubstr("(0, 1]"));
  }
}

// What a person writes for a third; the configuration takes it, so the plan must.
TEST(MakePlanTest, CoverageRoundedToSixDigits_IsMeantExactly) {
  const Catalog catalog = FakeModel(9);
  const absl::StatusOr<Plan> plan = MakePlan(FakeInput(catalog, 3, 0.333333, Assignment::kRandom));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->holders[1].size(), 1u);
}

TEST(MakePlanTest, SharedUnitNotOnEverybody_InvalidArgument) {
  const Catalog catalog = FakeModel(8);
  PlanInput input = FakeInput(catalog, 4, 0.5, Assignment::kResolvable);
  input.coverage[0] = 0.5;
  EXPECT_THAT(Refusal(input), HasSubstr("unit first: a shared unit has coverage 1, not 0.5"));
}

TEST(MakePlanTest, CoverageBelowOneHolder_NamesUnitAndLeast) {
  const Catalog catalog = FakeModel(8);
  for (const Assignment assignment : kAllAssignments) {
    const std::string message = Refusal(FakeInput(catalog, 8, 0.12, assignment));
    EXPECT_THAT(message, HasSubstr("unit0"));
    EXPECT_THAT(message, HasSubstr("0.12 of 8 workers"));
    EXPECT_THAT(message, HasSubstr("1/8 = 0.125"));
  }
}

TEST(MakePlanTest, WorkerWithoutUnits_NamesIt) {
  const Catalog catalog = FakeModel(3);  // 3 units on 2 workers each: at most 6 of 8 get one.
  for (const Assignment assignment : {Assignment::kResolvable, Assignment::kRandom}) {
    const std::string message = Refusal(FakeInput(catalog, 8, 0.25, assignment));
    EXPECT_THAT(message, HasSubstr("worker worker-"));
    EXPECT_THAT(message, HasSubstr("would hold none of the units that are not shared"));
    EXPECT_THAT(message, HasSubstr("3 units with 6 holders"));
  }
}

TEST(MakePlanTest, CyclicWithFewUnitsOfAKind_NamesKindAndNumbers) {
  const Catalog catalog = FakeModel({{"wide", 8, 2}, {"thin", 7, 1}});
  const std::string message = Refusal(FakeInput(catalog, 8, 0.5, Assignment::kCyclic));
  EXPECT_THAT(message, HasSubstr("\"thin\""));
  EXPECT_THAT(message, HasSubstr("7 for 8 workers"));
}

TEST(MakePlanTest, OneWorker_HoldsAll) {
  const Catalog catalog = FakeModel(3);
  for (const Assignment assignment : kAllAssignments) {
    const absl::StatusOr<Plan> plan = MakePlan(FakeInput(catalog, 1, 1, assignment));
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->units[0].size(), 5u);
    EXPECT_THAT(plan->factors, ElementsAre(1, 1, 1, 1, 1));
    EXPECT_THAT(plan->warnings, IsEmpty());
  }
  EXPECT_THAT(Refusal(FakeInput(catalog, 1, 0.5, Assignment::kRandom)), HasSubstr("unit0"));
}

TEST(MakePlanTest, EightByFour_ReadsAsTheDesign) {
  const Catalog catalog = FakeModel(4);
  const Plan plan = *MakePlan(FakeInput(catalog, 8, 0.5, Assignment::kResolvable));
  // Pairs of units split the workers by the highest bit of their number, then by the next one;
  // which unit takes which half changes from pair to pair.
  EXPECT_THAT(plan.holders[1], ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(plan.holders[2], ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(plan.holders[3], ElementsAre(2, 3, 6, 7));
  EXPECT_THAT(plan.holders[4], ElementsAre(0, 1, 4, 5));
  EXPECT_THAT(plan.units[0], ElementsAre(UnitId(0), UnitId(1), UnitId(4), UnitId(5)));
}

TEST(MakePlanTest, Cyclic_RunsOfWorkers) {
  const Catalog catalog = FakeModel(5);
  const Plan plan = *MakePlan(FakeInput(catalog, 4, 0.5, Assignment::kCyclic));
  EXPECT_THAT(plan.holders[1], ElementsAre(0, 1));
  EXPECT_THAT(plan.holders[3], ElementsAre(2, 3));
  EXPECT_THAT(plan.holders[4], ElementsAre(0, 3));
}

// c_j N / p_j: 1 where the coverage holds exactly, and on the mean over a kind otherwise.
TEST(MakePlanTest, Factors_FollowHolders) {
  const Catalog catalog = FakeModel(6);
  const Plan plan = *MakePlan(FakeInput(catalog, 7, 0.5, Assignment::kResolvable));
  int threes = 0;
  for (size_t j = 1; j <= 6; ++j) {
    if (plan.holders[j].size() == 3) {
      ++threes;
      EXPECT_DOUBLE_EQ(plan.factors[j], 3.5 / 3);
    } else {
      EXPECT_EQ(plan.holders[j].size(), 4u);
      EXPECT_DOUBLE_EQ(plan.factors[j], 3.5 / 4);
    }
  }
  EXPECT_EQ(threes, 3);
  EXPECT_EQ(plan.factors[0], 1);
  // A third of three workers is one, in spite of what 1/3 is in binary: no scaling by 1 - 1e-16.
  const Plan thirds = *MakePlan(FakeInput(catalog, 3, 1.0 / 3, Assignment::kRandom));
  for (const double factor : thirds.factors) EXPECT_EQ(factor, 1);
}

TEST(MakePlanTest, OneHolderPerUnit_Warns) {
  const Catalog catalog = FakeModel(8);
  const Plan plan = *MakePlan(FakeInput(catalog, 8, 0.125, Assignment::kResolvable));
  EXPECT_THAT(plan.warnings, ElementsAre(HasSubstr("p = 1")));
}

TEST(MakePlanTest, WorkersThatNeverMeet_Warns) {
  const Catalog catalog = FakeModel(2);  // One split in halves.
  const Plan plan = *MakePlan(FakeInput(catalog, 4, 0.5, Assignment::kResolvable));
  EXPECT_THAT(plan.warnings, ElementsAre(HasSubstr("no unit in common")));
  const Catalog more = FakeModel(4);
  EXPECT_THAT(MakePlan(FakeInput(more, 4, 0.5, Assignment::kResolvable))->warnings, IsEmpty());
}

TEST(MakePlanTest, SameInput_SamePlan) {
  const Catalog catalog = FakeModel({{"a", 13, 5}, {"b", 17, 3}});
  for (const Assignment assignment : kAllAssignments) {
    for (const int64_t rotation : {0, 3}) {
      PlanInput input = FakeInput(catalog, 6, 0.4, assignment);
      input.seed = 17;
      input.rotation = rotation;
      const Plan first = *MakePlan(input);
      const Catalog copy = catalog;  // Another address.
      input.catalog = &copy;
      const Plan second = *MakePlan(input);
      EXPECT_EQ(first.holders, second.holders);
      EXPECT_EQ(first.units, second.units);
      EXPECT_EQ(first.factors, second.factors);
      EXPECT_EQ(first.hash, second.hash);
    }
  }
}

TEST(MakePlanTest, Hash_CoversEveryInput) {
  const Catalog catalog = FakeModel(8);
  const PlanInput input = FakeInput(catalog, 4, 0.5, Assignment::kResolvable);
  std::vector<PlanInput> others(5, input);
  others[0].seed = 1;
  others[1].rotation = 1;
  others[2].ranks[3].name = "spot-3";
  others[3].coverage = testing::Uniform(catalog, 0.5000001);
  others[4].assignment = Assignment::kCyclic;
  const uint64_t hash = MakePlan(input)->hash;
  for (size_t i = 0; i < others.size(); ++i) {
    const absl::StatusOr<Plan> other = MakePlan(others[i]);
    ASSERT_TRUE(other.ok()) << i << ": " << other.status();
    EXPECT_NE(other->hash, hash) << i;
  }
}

TEST(MakePlanTest, Random_SeedChangesPlan) {
  const Catalog catalog = FakeModel(8);
  PlanInput input = FakeInput(catalog, 8, 0.5, Assignment::kRandom);
  const Plan first = *MakePlan(input);
  input.seed = 1;
  EXPECT_NE(MakePlan(input)->holders, first.holders);
}

}  // namespace
}  // namespace sdp
