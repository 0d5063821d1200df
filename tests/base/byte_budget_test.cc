#include "common/base/byte_budget.h"

#include <gtest/gtest.h>

#include <utility>

namespace sdp {
namespace {

TEST(ByteBudgetTest, OverTheLimit_IsRefused_UntilSomethingIsGivenBack) {
  const auto budget = ByteBudget::Make(100);
  ByteBudget::Hold first = budget->Take(60);
  EXPECT_TRUE(first);
  EXPECT_FALSE(budget->Take(41));
  EXPECT_EQ(budget->used(), 60);
  ByteBudget::Hold moved = std::move(first);
  EXPECT_FALSE(first);
  EXPECT_TRUE(budget->Take(40));
  moved = ByteBudget::Hold();
  EXPECT_EQ(budget->used(), 0);
}

TEST(ByteBudgetTest, OnePieceAlone_MayBeLarger) {
  const auto budget = ByteBudget::Make(100);
  EXPECT_TRUE(budget->Take(1000));
}

TEST(ByteBudgetTest, Parent_BoundsAllTogether) {
  const auto all = ByteBudget::Make(100);
  const auto one = ByteBudget::Make(80, all), other = ByteBudget::Make(80, all);
  const ByteBudget::Hold held = one->Take(70);
  EXPECT_FALSE(other->Take(40));
  EXPECT_EQ(other->used(), 0);
  EXPECT_TRUE(other->Take(30));
  EXPECT_EQ(all->used(), 70);
}

}  // namespace
}  // namespace sdp
