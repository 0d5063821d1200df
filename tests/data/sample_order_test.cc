#include "common/data/sample_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "common/base/random.h"

namespace sdp {
namespace {

std::vector<int64_t> Take(const SampleOrder& order, int64_t first, int64_t count) {
  std::vector<int64_t> samples;
  for (int64_t i = 0; i < count; ++i) samples.push_back(order.Sample(first + i));
  return samples;
}

// Made from the header's words by another program in another language.
TEST(SampleOrderTest, GivesTheTestVectors) {
  EXPECT_EQ(Take(SampleOrder(0, 10, true), 0, 20),
            (std::vector<int64_t>{0, 3, 9, 7, 2, 5, 8, 6, 4, 1,  //
                                  3, 2, 6, 7, 4, 5, 1, 0, 9, 8}));
  const SampleOrder thousand(42, 1000, true);
  const int64_t expected[][2] = {{0, 497},   {1, 867},    {2, 425},     {999, 262},
                                 {1000, 33}, {1001, 882}, {123456, 601}};
  for (const auto& [position, sample] : expected) EXPECT_EQ(thousand.Sample(position), sample);
  const int64_t n = (int64_t{1} << 40) + 12345;
  const SampleOrder large(0x123456789abcdef0ULL, n, true);
  EXPECT_EQ(large.Sample(0), 925556876485);
  EXPECT_EQ(large.Sample(1), 169748543949);
  EXPECT_EQ(large.Sample(n - 1), 788883298482);
  EXPECT_EQ(large.Sample(n), 69681424536);
  EXPECT_EQ(large.Sample(5 * n + 7), 50074354164);
}

// The header's words once more, with arithmetic instead of shifts and masks and recursion instead
// of a loop.
int64_t Reference(uint64_t seed, uint64_t n, uint64_t position, uint32_t reshuffle = 0,
                  uint64_t of_epoch = 0) {
  uint64_t half = 2;  // 2^h
  while (half * half < n) half *= 2;
  constexpr uint64_t kWord = uint64_t{1} << 32;
  const uint64_t epoch = reshuffle > 0 ? of_epoch : position / n;
  const auto key =
      Philox({static_cast<uint32_t>(epoch % kWord), static_cast<uint32_t>(epoch / kWord),
              0x53414D50, reshuffle},
             {static_cast<uint32_t>(seed % kWord), static_cast<uint32_t>(seed / kWord)});
  uint64_t x = position % n;
  do {
    std::array<uint64_t, 10> side = {x / half, x % half};  // L, R, then each round's new R.
    for (uint32_t r = 0; r < 8; ++r) {
      const uint64_t word =
          Philox({static_cast<uint32_t>(side[r + 1]), r, 0, 0}, {key[0], key[1]})[0];
      side[r + 2] = side[r] ^ (word % half);
    }
    x = side[8] * half + side[9];
  } while (x >= n);
  return static_cast<int64_t>(x);
}

TEST(SampleOrderTest, IsABijectionOfEachEpochAndAgreesWithTheReference) {
  for (const int64_t n : {1, 2, 3, 4, 5, 16, 17, 1000, 12345}) {
    const SampleOrder order(77, n, true);
    EXPECT_EQ(order.samples(), n);
    for (const int64_t epoch : {int64_t{0}, int64_t{1}, int64_t{1} << 33}) {
      std::vector<bool> seen(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) {
        const int64_t sample = order.Sample(epoch * n + i);
        ASSERT_GE(sample, 0);
        ASSERT_LT(sample, n);
        ASSERT_FALSE(seen[static_cast<size_t>(sample)]) << n << " " << epoch << " " << i;
        seen[static_cast<size_t>(sample)] = true;
        ASSERT_EQ(sample,
                  Reference(77, static_cast<uint64_t>(n), static_cast<uint64_t>(epoch * n + i)));
      }
    }
  }
}

// With arrays: each reshuffle moves what stands behind it.
TEST(SampleOrderTest, Reshuffles_PermuteTheRestOfTheirEpochAndTheNextOnes) {
  constexpr int64_t kN = 50;
  const std::vector<std::vector<int64_t>> cases = {{0},  {20}, {20, 20},      {20, 35}, {35, 20},
                                                   {49}, {50}, {70, 10, 120}, {149}};
  for (const auto& reshuffles : cases) {
    const SampleOrder order(77, kN, true, reshuffles), before(77, kN, true);
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<int64_t> samples = Take(before, epoch * kN, kN);
      for (size_t k = 0; k < reshuffles.size(); ++k) {
        const int64_t from = std::max<int64_t>(0, reshuffles[k] - epoch * kN);
        const std::vector<int64_t> was = samples;
        for (int64_t i = 0; from + i < kN; ++i) {
          const int64_t to =
              Reference(77, static_cast<uint64_t>(kN - from), static_cast<uint64_t>(i),
                        static_cast<uint32_t>(k + 1), static_cast<uint64_t>(epoch));
          samples[static_cast<size_t>(from + i)] = was[static_cast<size_t>(from + to)];
        }
      }
      EXPECT_EQ(Take(order, epoch * kN, kN), samples);
      std::sort(samples.begin(), samples.end());
      for (int64_t i = 0; i < kN; ++i) ASSERT_EQ(samples[static_cast<size_t>(i)], i);
    }
    for (int64_t p = 0; p < *std::min_element(reshuffles.begin(), reshuffles.end()); ++p)
      EXPECT_EQ(order.Sample(p), before.Sample(p));  // what was taken before
  }
  EXPECT_NE(Take(SampleOrder(77, kN, true, {20}), 20, 30), Take(SampleOrder(77, kN, true), 20, 30));
}

TEST(SampleOrderTest, WithoutShuffle_CountsModuloTheSet) {
  const SampleOrder order(5, 3, false);
  EXPECT_EQ(Take(order, 0, 7), (std::vector<int64_t>{0, 1, 2, 0, 1, 2, 0}));
  EXPECT_EQ(order.Sample(3000000000001), 1);
}

TEST(SampleOrderTest, SeedAndEpoch_ChangeTheOrder) {
  const SampleOrder a(1, 1000, true), b(2, 1000, true), far(1 + (uint64_t{1} << 32), 1000, true);
  EXPECT_NE(Take(a, 0, 1000), Take(b, 0, 1000));
  EXPECT_NE(Take(a, 0, 1000), Take(far, 0, 1000));
  EXPECT_NE(Take(a, 0, 1000), Take(a, 1000, 1000));
}

// Each sample is equally likely at each position: chi-square over 5,000 seeds, 99.99% quantile of 4
// degrees of freedom 23.5.
TEST(SampleOrderTest, SmallSet_EachPlaceIsEven) {
  constexpr int kSeeds = 5000, kSamples = 5;
  for (int position = 0; position < kSamples; ++position) {
    std::array<int, kSamples> counts{};
    for (int seed = 0; seed < kSeeds; ++seed) {
      ++counts[static_cast<size_t>(SampleOrder(seed, kSamples, true).Sample(position))];
    }
    double chi = 0;
    for (const int count : counts) chi += std::pow(count - 1000.0, 2) / 1000;
    EXPECT_LT(chi, 23.5) << position;
  }
}

// Neighbours in the file should not be neighbours in the order: in a random permutation of n, pairs
// (i, i + 1) at neighbouring places are Poisson with mean 1 each way; 12 would be a 10^-6 event.
TEST(SampleOrderTest, NeighboursAreSpread) {
  const int64_t n = 12345;
  const std::vector<int64_t> order = Take(SampleOrder(3, n, true), 0, n);
  int next = 0;
  for (size_t i = 0; i + 1 < order.size(); ++i) next += order[i + 1] == order[i] + 1;
  EXPECT_LT(next, 12);
}

}  // namespace
}  // namespace sdp
