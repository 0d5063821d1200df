#include "server/coordinator/logic/portions.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "common/base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(PortionsTest, Equal_TheFirstHaveOneMore) {
  EXPECT_THAT(EqualPortions(11, 4), ElementsAre(3, 3, 3, 2));
  EXPECT_THAT(EqualPortions(2, 3), ElementsAre(1, 1, 0));
  EXPECT_EQ(EqualPart(11, 2, 4), (std::pair<int64_t, int64_t>(6, 3)));
}

TEST(PaceTest, IsTheMedianOfTheNewestSteps_OnceThereAreEnough) {
  Pace pace;
  for (size_t i = 1; i < Pace::kSteps; ++i) pace.Add(absl::Seconds(8), 4);
  EXPECT_EQ(pace.seconds_per_sample(), 0);
  pace.Add(absl::Seconds(8), 0);  // a step without samples says nothing
  EXPECT_EQ(pace.seconds_per_sample(), 0);
  pace.Add(absl::Seconds(100), 1);
  EXPECT_EQ(pace.seconds_per_sample(), 2);  // one slow step says nothing
  for (size_t i = 0; i < Pace::kSteps; ++i) pace.Add(absl::Seconds(3), 1);
  EXPECT_EQ(pace.seconds_per_sample(), 3);
}

TEST(LevelPortionsTest, NothingKnown_Equal) {
  EXPECT_THAT(LevelPortions(11, {0, 0, 0, 0}), ElementsAre(3, 3, 3, 2));
}

TEST(LevelPortionsTest, HalfAsFast_GetsHalf) {
  EXPECT_THAT(LevelPortions(28, {1, 1, 1, 2}), ElementsAre(8, 8, 8, 4));
}

TEST(LevelPortionsTest, Unknown_CountsAsTheMedian) {
  EXPECT_THAT(LevelPortions(28, {1, 0, 1, 2}), ElementsAre(8, 8, 8, 4));
}

TEST(LevelPortionsTest, TheSlowestHasOneSample_IfThereAreSoMany) {
  EXPECT_THAT(LevelPortions(10, {1, 1, 1000}), ElementsAre(5, 4, 1));
  EXPECT_THAT(LevelPortions(2, {1, 1, 1000}), ElementsAre(1, 1, 0));
}

// Against all ways to divide few samples among few ranks.
TEST(LevelPortionsTest, NoOtherPortionsAreDoneSooner) {
  RandomStream random(7, 0);
  for (int round = 0; round < 200; ++round) {
    std::vector<double> seconds;
    for (int rank = 0; rank < 3; ++rank)
      seconds.push_back(1 + 9 * static_cast<double>(random.Below(1000)) / 1000);
    const int64_t samples = 3 + static_cast<int64_t>(random.Below(12));
    const auto time = [&](const std::vector<int64_t>& portions) {
      double longest = 0;
      for (size_t rank = 0; rank < 3; ++rank)
        longest = std::max(longest, static_cast<double>(portions[rank]) * seconds[rank]);
      return longest;
    };
    double best = std::numeric_limits<double>::infinity();
    for (int64_t a = 1; a < samples; ++a) {
      for (int64_t b = 1; a + b < samples; ++b)
        best = std::min(best, time({a, b, samples - a - b}));
    }
    const std::vector<int64_t> portions = LevelPortions(samples, seconds);
    EXPECT_EQ(std::accumulate(portions.begin(), portions.end(), int64_t{0}), samples);
    EXPECT_EQ(time(portions), best) << "round " << round;
  }
}

TEST(LevelTest, AWorkerTwiceAsSlow_ChangesPortions_WithTheReason) {
  const auto level = Level({7, 7, 7, 7}, {0.1, 0.1, 0.1, 0.2}, {"a", "b", "c", "d"});
  ASSERT_TRUE(level.has_value());
  EXPECT_THAT(level->portions, ElementsAre(8, 8, 8, 4));
  EXPECT_THAT(level->reason,
              AllOf(HasSubstr("d computes 0.2 s for a sample and gets 4 of a step instead of 7"),
                    HasSubstr("a computes 0.1 s for a sample and gets 8 of a step instead of 7"),
                    HasSubstr("falls from 1.4 s to 0.8 s")));
}

TEST(LevelTest, NotWorthATenth_OrNotAllKnown_StaysAsItIs) {
  EXPECT_FALSE(Level({7, 7, 7, 7}, {1, 1, 1, 1.08}, {"a", "b", "c", "d"}).has_value());
  EXPECT_FALSE(Level({8, 8, 8, 4}, {1, 1, 1, 2}, {"a", "b", "c", "d"}).has_value());
  EXPECT_FALSE(Level({7, 7, 7, 7}, {1, 0, 1, 2}, {"a", "b", "c", "d"}).has_value());
  EXPECT_FALSE(Level({1, 1}, {1, 5}, {"a", "b"}).has_value());  // whole samples
}

}  // namespace
}  // namespace sdp
