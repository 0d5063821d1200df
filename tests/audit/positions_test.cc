#include "deploy/audit/logic/positions.h"

#include <set>
#include <vector>

#include "common/base/random.h"
#include "gtest/gtest.h"

namespace sdp::audit {
namespace {

TEST(PositionsTest, Slice_GoesOverRanges) {
  const std::vector<Range> ranges = {{5, 8}, {20, 22}};
  EXPECT_EQ(Slice(ranges, 0, 5), ranges);
  EXPECT_EQ(Slice(ranges, 2, 2), (std::vector<Range>{{7, 8}, {20, 21}}));
  EXPECT_EQ(Slice(ranges, 3, 9), (std::vector<Range>{{20, 22}}));
  EXPECT_EQ(Slice(ranges, 5, 1), std::vector<Range>{});
}

TEST(PositionsTest, Text_IsShort) {
  EXPECT_EQ(RangesText({{5, 8}, {20, 21}}), "5-7, 20");
  EXPECT_EQ(
      RangesText({{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}, {10, 11}, {12, 13}, {14, 15}, {16, 17}}),
      "0, 2, 4, 6, 8, 10, 12, 14, ...");
}

TEST(PositionsTest, WhatDiffers_IsNamed) {
  const FreePositions a(12, {{4, 6}}), b(10, {{5, 6}});
  EXPECT_EQ(a.Minus(b), (std::vector<Range>{{4, 5}}));
  EXPECT_EQ(b.Minus(a), (std::vector<Range>{{10, 12}}));
  // However it is written.
  EXPECT_EQ(FreePositions(12, {{8, 12}}).Minus(FreePositions(8, {})), std::vector<Range>{});
}

// Against a set of single positions.
TEST(PositionsTest, RandomTakesAndReturns_AgreeWithASet) {
  RandomStream random(1, 2);
  FreePositions free;
  std::set<int64_t> expected;
  constexpr int64_t kEnd = 400;
  for (int64_t p = 0; p < kEnd; ++p) expected.insert(p);
  for (int i = 0; i < 30; ++i) {
    const auto count = static_cast<int64_t>(random.Below(10));
    const std::vector<Range> taken = free.TakeLowest(count);
    EXPECT_EQ(Count(taken), count);
    for (const Range& range : taken) {
      for (int64_t p = range.begin; p < range.end; ++p) {
        EXPECT_EQ(*expected.begin(), p);
        expected.erase(expected.begin());
      }
    }
    const std::vector<Range> back = Slice(taken, 1, static_cast<int64_t>(random.Below(4)));
    free.Add(back);
    for (const Range& range : back) {
      for (int64_t p = range.begin; p < range.end; ++p) expected.insert(p);
    }
    EXPECT_EQ(free.CountBelow(kEnd), static_cast<int64_t>(expected.size()));
  }
}

}  // namespace
}  // namespace sdp::audit
