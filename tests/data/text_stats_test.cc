#include "common/data/text_stats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "common/base/random.h"

namespace sdp {
namespace {

constexpr double kTolerance = 1e-12;  // Sums of at most 65,536 terms of order one.

TEST(TextStatsTest, EmptyAndOneByte_AreZero) {
  EXPECT_EQ(UnigramEntropy(""), 0);
  EXPECT_EQ(BigramEntropy(""), 0);
  EXPECT_EQ(UnigramEntropy("a"), 0);
  EXPECT_EQ(BigramEntropy("a"), 0);
}

TEST(TextStatsTest, ByHand) {
  EXPECT_NEAR(UnigramEntropy("aabb"), std::log(2.0), kTolerance);
  EXPECT_NEAR(UnigramEntropy("aaab"), 0.75 * std::log(4.0 / 3) + 0.25 * std::log(4.0), kTolerance);
  // a follows b and b follows a, always.
  EXPECT_NEAR(BigramEntropy("abababab"), 0, kTolerance);
  // Pairs aa, ab, bb, ba: after each letter either, once each.
  EXPECT_NEAR(BigramEntropy("aabba"), std::log(2.0), kTolerance);
}

TEST(TextStatsTest, BytesAbove127_AreCountedAsBytes) {
  const std::string text = {'\0', '\xff', '\x80', '\x7f'};
  EXPECT_NEAR(UnigramEntropy(text), std::log(4.0), kTolerance);
}

// Of independent even bytes both are ln 256, less the bias of finite counts: (256 - 1) / 2n and 256
// (256 - 1) / 2n.
TEST(TextStatsTest, RandomBytes_HaveTheFullEntropy) {
  RandomStream random(1, 2);
  std::string text(4000000, '\0');
  for (char& c : text) c = static_cast<char>(random.Below(256));
  const double n = static_cast<double>(text.size());
  EXPECT_NEAR(UnigramEntropy(text), std::log(256.0) - 255 / (2 * n), 1e-4);
  EXPECT_NEAR(BigramEntropy(text), std::log(256.0) - 256.0 * 255 / (2 * n), 1e-3);
}

}  // namespace
}  // namespace sdp
