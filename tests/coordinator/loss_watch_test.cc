#include "server/coordinator/logic/loss_watch.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(LossWatchTest, MoreThanTheFactorTimesTheMedian_IsNamedWithTheNumbers) {
  LossWatch watch(2);
  for (Step t = 0; t < 30; ++t) EXPECT_FALSE(watch.Add(t, t % 2 == 0 ? 3.0 : 3.5).has_value());
  EXPECT_FALSE(watch.Add(30, 6.9).has_value());
  const auto spike = watch.Add(31, 7.5);
  ASSERT_TRUE(spike.has_value());
  EXPECT_THAT(*spike, AllOf(HasSubstr("step 31"), HasSubstr("7.5"), HasSubstr("2 times")));
}

TEST(LossWatchTest, TooFewSteps_NothingIsASpike) {
  LossWatch watch(1.5);
  for (Step t = 0; t < static_cast<Step>(LossWatch::kLeast) - 1; ++t) watch.Add(t, 1);
  EXPECT_FALSE(watch.Add(19, 100).has_value());
  EXPECT_TRUE(watch.Add(20, 100).has_value());
}

// A spike is seen at once after going back for the one before it.
TEST(LossWatchTest, GoesOnFromTheLossesOfTheStepsBefore) {
  LossWatch before(2);
  for (Step t = 0; t < 150; ++t) before.Add(t, static_cast<double>(t));
  EXPECT_EQ(before.recent().size(), LossWatch::kWindow);
  EXPECT_EQ(before.recent().front(), 50);
  LossWatch after(2, before.recent());
  EXPECT_FALSE(after.Add(140, 199).has_value());
  EXPECT_TRUE(after.Add(141, 210).has_value());
}

// A rise that lasts becomes what is usual; a fall makes less a spike.
TEST(LossWatchTest, TheMedianFollowsTheLastSteps) {
  LossWatch watch(2);
  for (Step t = 0; t < 100; ++t) watch.Add(t, 10);
  EXPECT_FALSE(watch.Add(100, 5).has_value());
  for (Step t = 101; t < 201; ++t) watch.Add(t, 1);
  EXPECT_TRUE(watch.Add(201, 5).has_value());
}

TEST(LossWatchTest, FactorZero_NothingIsASpike) {
  LossWatch watch(0);
  for (Step t = 0; t < 50; ++t) watch.Add(t, 1);
  EXPECT_FALSE(watch.Add(50, 1e30).has_value());
}

}  // namespace
}  // namespace sdp
