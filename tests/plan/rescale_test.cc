#include "common/plan/rescale.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/plan/fake_model.h"

namespace sdp {
namespace {

using testing::FakeInput;
using testing::FakeModel;

constexpr Rescale kAll[] = {Rescale::kNone, Rescale::kEval, Rescale::kInverted, Rescale::kSqrt};

Plan PlanOf(const Catalog& catalog, int workers, double coverage) {
  const auto plan = MakePlan(FakeInput(catalog, workers, coverage, Assignment::kRandom));
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *plan;
}

// The numbers of an example, by hand: c = 0.45 of N = 8 workers are 3.6, so 3 or 4 holders.
TEST(RescaleTest, UnevenHolders_ByHand) {
  const Catalog catalog = FakeModel(10);
  const Plan plan = PlanOf(catalog, 8, 0.45);
  int threes = 0, fours = 0;
  for (int j = 1; j <= 10; ++j) {
    const UnitId unit(j);
    const size_t holders = plan.holders[static_cast<size_t>(j)].size();
    ASSERT_TRUE(holders == 3 || holders == 4);
    ++(holders == 3 ? threes : fours);
    const double eval = holders == 3 ? 1.2 : 0.9, inverted = holders == 3 ? 8.0 / 3 : 2.0;
    EXPECT_EQ(TrainingFactor(Rescale::kNone, plan, unit), 1);
    EXPECT_DOUBLE_EQ(TrainingFactor(Rescale::kEval, plan, unit), eval);
    EXPECT_DOUBLE_EQ(TrainingFactor(Rescale::kInverted, plan, unit), inverted);
    EXPECT_DOUBLE_EQ(TrainingFactor(Rescale::kSqrt, plan, unit), std::sqrt(eval));
  }
  EXPECT_GT(threes, 0);
  EXPECT_GT(fours, 0);
  EXPECT_EQ(EvaluationFactor(Rescale::kNone, 0.45), 1);
  EXPECT_EQ(EvaluationFactor(Rescale::kEval, 0.45), 0.45);
  EXPECT_EQ(EvaluationFactor(Rescale::kInverted, 0.45), 1);
  EXPECT_DOUBLE_EQ(EvaluationFactor(Rescale::kSqrt, 0.25), 0.5);
}

TEST(RescaleTest, SharedUnits_AreNeverScaled) {
  const Catalog catalog = FakeModel(10);
  const Plan plan = PlanOf(catalog, 8, 0.45);
  for (const Rescale rescale : kAll) {
    for (const int shared : {0, 11}) EXPECT_EQ(TrainingFactor(rescale, plan, UnitId(shared)), 1);
    EXPECT_EQ(EvaluationFactor(rescale, 1), 1);
  }
}

// What the N workers' networks have of a unit, against what the full model has: the mean of the
// outputs for two rules, that of their squares for another.
TEST(RescaleTest, MeanOrVariance_IsThatOfTheFullModel) {
  const Catalog catalog = FakeModel(10);
  for (const double coverage : {0.3, 0.45, 0.5, 0.9, 1.0}) {
    const Plan plan = PlanOf(catalog, 8, coverage);
    for (int j = 1; j <= 10; ++j) {
      const UnitId unit(j);
      const double present = static_cast<double>(plan.holders[static_cast<size_t>(j)].size()) / 8;
      for (const Rescale rescale : {Rescale::kEval, Rescale::kInverted}) {
        EXPECT_NEAR(present * TrainingFactor(rescale, plan, unit),
                    EvaluationFactor(rescale, coverage), 1e-14);
      }
      EXPECT_NEAR(present * std::pow(TrainingFactor(Rescale::kSqrt, plan, unit), 2),
                  std::pow(EvaluationFactor(Rescale::kSqrt, coverage), 2), 1e-14);
    }
  }
}

// A dense phase of a run at coverage c: all N workers hold a unit of which c N should.
TEST(RescaleTest, HeldByAll_TrainsTheNetworkThatIsExported) {
  Plan plan;
  plan.holders = {{0, 1, 2, 3}};
  plan.units.resize(4);
  for (const double coverage : {0.25, 0.5, 0.8}) {
    plan.factors = {coverage * 4 / 4};
    for (const Rescale rescale : kAll) {
      EXPECT_EQ(TrainingFactor(rescale, plan, UnitId(0)), EvaluationFactor(rescale, coverage));
    }
  }
}

}  // namespace
}  // namespace sdp
