#include "common/plan/designs.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <utility>

namespace sdp {
namespace {

TEST(DesignTest, Find_SizesWithoutDesign_Nothing) {
  EXPECT_FALSE(Design::Find(8, 3).has_value());   // Does not divide.
  EXPECT_FALSE(Design::Find(8, 8).has_value());   // One set is no split.
  EXPECT_FALSE(Design::Find(12, 4).has_value());  // 12 is no power of 3.
  EXPECT_FALSE(Design::Find(6, 3).has_value());   // Nor 6 of 2.
  EXPECT_FALSE(Design::Find(36, 6).has_value());  // No field has 6 elements.
  EXPECT_FALSE(Design::Find(64, 8).has_value());  // A field of 8 elements is not written here.
  EXPECT_FALSE(Design::Find(2, 3).has_value());
}

struct Expected {
  int workers;
  int set_size;
  int classes;
};

TEST(DesignTest, Find_KnownSizes_NumberOfClasses) {
  const Expected all[] = {{1, 1, 1},  {8, 1, 1},  {8, 4, 7},   {4, 2, 3},    {16, 8, 15},
                          {16, 4, 5}, {9, 3, 4},  {27, 9, 13}, {25, 5, 6},   {64, 16, 21},
                          {8, 2, 7},  {10, 2, 9}, {2, 1, 1},   {32, 16, 31}, {6, 2, 5}};
  for (const Expected& expected : all) {
    const std::optional<Design> design = Design::Find(expected.workers, expected.set_size);
    ASSERT_TRUE(design.has_value()) << expected.workers << ", " << expected.set_size;
    EXPECT_EQ(design->classes(), expected.classes) << expected.workers << ", " << expected.set_size;
    EXPECT_EQ(design->sets(), expected.workers / expected.set_size);
  }
}

// The definition: every class splits the workers into sets of one size, and over all classes every
// two workers meet equally often (a balanced incomplete block design). Singletons never meet.
TEST(DesignTest, Class_AllDesignsUpTo64Workers_SplitAndMeetEquallyOften) {
  for (int workers = 1; workers <= 64; ++workers) {
    for (int set_size = 1; set_size <= workers; ++set_size) {
      const std::optional<Design> design = Design::Find(workers, set_size);
      if (!design.has_value()) continue;
      SCOPED_TRACE(testing::Message() << "N " << workers << " p " << set_size);
      std::map<std::pair<int, int>, int> meetings;
      std::set<std::vector<int>> classes;
      for (int index = 0; index < design->classes(); ++index) {
        const std::vector<int> sets = design->Class(index);
        ASSERT_EQ(static_cast<int>(sets.size()), workers);
        std::vector<int> sizes(static_cast<size_t>(design->sets()));
        for (const int set : sets) {
          ASSERT_GE(set, 0);
          ASSERT_LT(set, design->sets());
          ++sizes[static_cast<size_t>(set)];
        }
        for (const int size : sizes) ASSERT_EQ(size, set_size);
        for (int a = 0; a < workers; ++a) {
          for (int b = a + 1; b < workers; ++b) {
            if (sets[static_cast<size_t>(a)] == sets[static_cast<size_t>(b)]) ++meetings[{a, b}];
          }
        }
        classes.insert(sets);
      }
      EXPECT_EQ(static_cast<int>(classes.size()), design->classes());
      if (set_size == 1) continue;
      EXPECT_EQ(static_cast<int>(meetings.size()), workers * (workers - 1) / 2);
      for (const auto& [pair, count] : meetings) {
        ASSERT_EQ(count, meetings.begin()->second) << pair.first << ", " << pair.second;
      }
    }
  }
}

// Two successive rounds are one cycle through all workers, so two groups of units connect them all.
TEST(DesignTest, Tournament_SuccessiveRounds_OneCycle) {
  for (int workers = 4; workers <= 40; workers += 2) {
    const Design design = *Design::Find(workers, 2);
    for (int round = 0; round + 1 < design.classes(); ++round) {
      const std::vector<int> sets[] = {design.Class(round), design.Class(round + 1)};
      const auto partner = [&](int worker, int which) {
        for (int other = 0; other < workers; ++other) {
          if (other != worker &&
              sets[which][static_cast<size_t>(other)] == sets[which][static_cast<size_t>(worker)]) {
            return other;
          }
        }
        return -1;
      };
      int length = 0;
      int worker = 0;
      do {
        worker = partner(partner(worker, 0), 1);
        length += 2;
      } while (worker != 0 && length <= workers);
      EXPECT_EQ(length, workers) << "rounds " << round << " and " << round + 1;
    }
  }
}

}  // namespace
}  // namespace sdp
