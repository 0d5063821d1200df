#include "server/shard/logic/tree_sum.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "common/base/random.h"
#include "gtest/gtest.h"
#include "server/shard/logic/reduce.h"

namespace sdp {
namespace {

FloatBuffer Gradient(int leaf, int64_t size) {
  FloatBuffer gradient(size);
  for (int64_t i = 0; i < size; ++i) {
    gradient.data()[i] =
        static_cast<float>(RandomBits(1, static_cast<uint64_t>(leaf), static_cast<uint64_t>(i)) >>
                           40) /
            (1 << 24) -
        0.5f;
  }
  return gradient;
}

FloatBuffer MeanInOrder(const std::vector<int>& order, const std::vector<int64_t>& terms,
                        int64_t size) {
  TreeSum sum(static_cast<int>(order.size()));
  for (const int leaf : order)
    sum.Add(leaf, Gradient(leaf, size), terms[static_cast<size_t>(leaf)]);
  EXPECT_TRUE(sum.complete());
  return sum.TakeMean();
}

// The bits of the tree, summed recursively: left before right, empty sides left out.
std::vector<float> Recursive(int begin, int width, const std::vector<int64_t>& terms,
                             int64_t size) {
  const int leaves = static_cast<int>(terms.size());
  if (begin >= leaves) return {};
  if (width == 1) {
    if (terms[static_cast<size_t>(begin)] == 0) return {};
    const FloatBuffer gradient = Gradient(begin, size);
    std::vector<float> leaf(gradient.span().begin(), gradient.span().end());
    for (float& value : leaf) value *= static_cast<float>(terms[static_cast<size_t>(begin)]);
    return leaf;
  }
  std::vector<float> left = Recursive(begin, width / 2, terms, size);
  const std::vector<float> right = Recursive(begin + width / 2, width / 2, terms, size);
  if (left.empty()) return right;
  for (size_t i = 0; i < right.size(); ++i) left[i] += right[i];
  return left;
}

TEST(TreeSumTest, NobodyHasSamples_IsEmpty) {
  TreeSum sum(3);
  for (int leaf = 0; leaf < 3; ++leaf) sum.Add(leaf, FloatBuffer(), 0);
  EXPECT_TRUE(sum.complete());
  EXPECT_TRUE(sum.TakeMean().empty());
}

TEST(TreeSumTest, AnyOrderOfArrival_SameBitsAsTheTree) {
  constexpr int64_t kSize = 33;
  RandomStream random(5, 0);
  for (int leaves = 1; leaves <= 13; ++leaves) {
    std::vector<int64_t> terms(static_cast<size_t>(leaves));
    for (auto& n : terms) n = static_cast<int64_t>(random.Below(4));  // some have none
    int64_t total = 0;
    for (const int64_t n : terms) total += n;
    if (total == 0) continue;
    int width = 1;
    while (width < leaves) width *= 2;
    std::vector<float> expected = Recursive(0, width, terms, kSize);
    for (float& value : expected) value /= static_cast<float>(total);
    std::vector<int> order(static_cast<size_t>(leaves));
    std::iota(order.begin(), order.end(), 0);
    for (int shuffle = 0; shuffle < 20; ++shuffle) {
      const FloatBuffer mean = MeanInOrder(order, terms, kSize);
      for (int64_t i = 0; i < kSize; ++i)
        EXPECT_EQ(mean.data()[i], expected[static_cast<size_t>(i)]);
      Shuffle(order, random);
    }
  }
}

TEST(TreeSumTest, InOrder_HoldsLogarithmicallyManyBuffers) {
  TreeSum sum(64);
  for (int leaf = 0; leaf < 64; ++leaf) {
    sum.Add(leaf, Gradient(leaf, 16), 1);
    EXPECT_LE(sum.bytes(), 7 * 16 * 4);
  }
}

TEST(ReduceTest, NotFinite_IsFoundAnywhere) {
  for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    for (size_t at = 0; at < 37; ++at) {
      std::vector<float> values(37, 1e38f);
      EXPECT_TRUE(AllFinite(values));
      values[at] = bad;
      EXPECT_FALSE(AllFinite(values));
    }
  }
}

TEST(ReduceTest, SumOfSquares_AgreesWithLongDouble) {
  for (const int64_t size : {0, 1, 7, 1023, 1024, 1025, 5000}) {
    const FloatBuffer values = Gradient(3, size);
    long double expected = 0;
    for (const float value : values.span()) expected += static_cast<long double>(value) * value;
    // f64 sums of at most 5,000 positive terms.
    EXPECT_NEAR(SumOfSquares(values.span()), static_cast<double>(expected),
                1e-12 * static_cast<double>(expected) + 1e-300);
  }
}

}  // namespace
}  // namespace sdp
