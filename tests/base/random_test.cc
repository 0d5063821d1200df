#include "common/base/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <vector>

namespace sdp {
namespace {

using Words = std::array<uint32_t, 4>;

// The known answers that Random123 publishes for philox4x32, 10 rounds (its file kat_vectors).
TEST(RandomTest, Philox_GivesThePublishedAnswers) {
  EXPECT_EQ(Philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// All runs of all versions draw from this: a change would silently change every plan and every
// initial value.
TEST(RandomTest, RandomBits_IsPhiloxOfIndexStreamAndSeed) {
  EXPECT_EQ(RandomBits(0, 0, 0), 0x6627e8d5e169c58dULL);
  EXPECT_EQ(RandomBits(0x299f31d0a4093822ULL, 0x0370734413198a2eULL, 0x85a308d3243f6a88ULL),
            0xd16cfe0994fdccebULL);
}

TEST(RandomTest, Below_StaysBelowAndIsEven) {
  RandomStream random(5, 6);
  EXPECT_EQ(random.Below(1), 0u);
  std::array<int, 7> counts{};
  for (int i = 0; i < 70000; ++i) ++counts[random.Below(7)];
  // Binomial with standard deviation 93: five of them.
  for (const int count : counts) EXPECT_NEAR(count, 10000, 465);
}

TEST(RandomTest, Below_BoundAboveHalfTheRange_IsNotBiased) {
  // With 3 * 2^62, plain modulo would give the first third twice as often as it should: 1/2 instead
  // of 1/3.
  constexpr uint64_t kBound = uint64_t{3} << 62;
  RandomStream random(7, 8);
  int low = 0;
  for (int i = 0; i < 30000; ++i) {
    const uint64_t value = random.Below(kBound);
    ASSERT_LT(value, kBound);
    low += value < kBound / 3;
  }
  EXPECT_NEAR(low, 10000, 410);  // Five standard deviations of 82.
}

TEST(RandomTest, Shuffle_EmptyAndOne_StayAsTheyAre) {
  RandomStream random(1, 1);
  std::vector<int> none, one = {4};
  Shuffle(none, random);
  Shuffle(one, random);
  EXPECT_TRUE(none.empty());
  EXPECT_EQ(one, std::vector<int>{4});
}

TEST(RandomTest, Shuffle_IsAPermutationAndRepeatable) {
  std::vector<int> a(100), b;
  std::iota(a.begin(), a.end(), 0);
  b = a;
  const std::vector<int> before = a;
  RandomStream first(9, 10), second(9, 10);
  Shuffle(a, first);
  Shuffle(b, second);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, before);
  EXPECT_TRUE(std::is_permutation(a.begin(), a.end(), before.begin()));
}

TEST(RandomTest, Shuffle_ReachesAllOrdersEvenly) {
  RandomStream random(11, 12);
  std::map<std::vector<int>, int> counts;
  for (int i = 0; i < 24000; ++i) {
    std::vector<int> items = {0, 1, 2, 3};
    Shuffle(items, random);
    ++counts[items];
  }
  EXPECT_EQ(counts.size(), 24u);
  for (const auto& [order, count] : counts) EXPECT_NEAR(count, 1000, 155);  // Five of 31.
}

}  // namespace
}  // namespace sdp
