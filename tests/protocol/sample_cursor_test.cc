#include "common/protocol/sample_cursor.h"

#include <map>
#include <vector>

#include "common/base/random.h"
#include "gtest/gtest.h"

namespace sdp {
namespace {

using Ranges = std::vector<PositionRange>;

TEST(SampleCursorTest, Take_NothingCameBack_GoesOn) {
  SampleCursor cursor(5);
  EXPECT_EQ(cursor.Take(3), (Ranges{{5, 3}}));
  EXPECT_EQ(cursor.Take(2), (Ranges{{8, 2}}));
  EXPECT_EQ(cursor.Take(0), Ranges{});
  EXPECT_EQ(cursor.next(), 10);
}

TEST(SampleCursorTest, Take_AfterReturn_TheOldestFirstThenNewOnes) {
  SampleCursor cursor;
  cursor.Take(16);
  cursor.Return(Ranges{{12, 2}});
  cursor.Return(Ranges{{4, 3}});
  EXPECT_EQ(cursor.Take(8), (Ranges{{4, 3}, {12, 2}, {16, 3}}));
  EXPECT_EQ(cursor.next(), 19);
  EXPECT_TRUE(cursor.returned().empty());
}

TEST(SampleCursorTest, Take_LessThanCameBack_SplitsAndTakesNothingNew) {
  SampleCursor cursor;
  cursor.Take(16);
  cursor.Return(Ranges{{0, 4}, {8, 4}});
  EXPECT_EQ(cursor.Take(6), (Ranges{{0, 4}, {8, 2}}));
  EXPECT_EQ(cursor.returned(), (Ranges{{10, 2}}));
  EXPECT_EQ(cursor.next(), 16);
}

// What is kept does not depend on the order in which workers were found lost.
TEST(SampleCursorTest, Return_Neighbours_AreJoined) {
  SampleCursor one(20), other(20);
  one.Return(Ranges{{4, 2}, {6, 2}, {0, 1}});
  other.Return(Ranges{{6, 2}});
  other.Return(Ranges{{0, 1}, {9, 0}});
  other.Return(Ranges{{4, 2}});
  EXPECT_EQ(one.returned(), (Ranges{{0, 1}, {4, 4}}));
  EXPECT_EQ(one, other);
}

TEST(SampleCursorTest, PartOf_AcrossRanges) {
  const Ranges ranges = {{0, 2}, {10, 3}, {20, 1}};
  EXPECT_EQ(PartOf(ranges, 0, 6), ranges);
  EXPECT_EQ(PartOf(ranges, 1, 3), (Ranges{{1, 1}, {10, 2}}));
  EXPECT_EQ(PartOf(ranges, 5, 1), (Ranges{{20, 1}}));
  EXPECT_EQ(PartOf(ranges, 6, 0), Ranges{});
}

// Against a count per position, over random histories: every position below `next` was taken once
// more often than it came back, or waits.
TEST(SampleCursorTest, RandomHistory_EveryPositionIsTakenOrWaits) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    RandomStream random(seed, 1);
    SampleCursor cursor;
    std::map<int64_t, int> taken, returned;
    for (int step = 0; step < 50; ++step) {
      const Ranges ranges = cursor.Take(static_cast<int64_t>(random.Below(9)));
      for (const PositionRange& range : ranges) {
        for (int64_t i = 0; i < range.count; ++i) ++taken[range.first + i];
      }
      const int64_t count = CountOf(ranges);
      if (count == 0 || random.Below(2) == 0) continue;
      const auto begin = static_cast<int64_t>(random.Below(static_cast<uint64_t>(count)));
      const Ranges lost =
          PartOf(ranges, begin,
                 static_cast<int64_t>(random.Below(static_cast<uint64_t>(count - begin) + 1)));
      for (const PositionRange& range : lost) {
        for (int64_t i = 0; i < range.count; ++i) ++returned[range.first + i];
      }
      cursor.Return(lost);
    }
    std::map<int64_t, int> waiting;
    for (const PositionRange& range : cursor.returned()) {
      for (int64_t i = 0; i < range.count; ++i) ++waiting[range.first + i];
    }
    for (int64_t p = 0; p < cursor.next(); ++p)
      EXPECT_EQ(taken[p] - returned[p] + waiting[p], 1) << "position " << p << ", seed " << seed;
    EXPECT_EQ(taken.rbegin()->first, cursor.next() - 1);
  }
}

}  // namespace
}  // namespace sdp
