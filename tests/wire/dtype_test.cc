#include "common/base/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace sdp {
namespace {

uint16_t One(float value) {
  uint16_t result = 0;
  ToBf16({&value, 1}, {&result, 1});
  return result;
}

float Back(uint16_t bits) {
  float result = 0;
  FromBf16({&bits, 1}, {&result, 1});
  return result;
}

// By the definition: of the two neighbours the nearer one, and of two equally near ones the one
// with an even mantissa.
uint16_t Reference(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t below = static_cast<uint16_t>(bits >> 16);
  const uint32_t rest = bits & 0xffff;
  if (rest > 0x8000 || (rest == 0x8000 && (below & 1) == 1))
    return static_cast<uint16_t>(below + 1);
  return below;
}

TEST(Bf16Test, SpecialValues) {
  EXPECT_EQ(One(0.0f), 0x0000);
  EXPECT_EQ(One(-0.0f), 0x8000);
  EXPECT_EQ(One(1.0f), 0x3f80);
  EXPECT_EQ(One(std::numeric_limits<float>::infinity()), 0x7f80);
  EXPECT_EQ(One(-std::numeric_limits<float>::infinity()), 0xff80);
  EXPECT_EQ(One(std::numeric_limits<float>::max()),
            0x7f80);  // nearer to infinity than to the largest bf16
  EXPECT_EQ(One(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // ties go to even
  EXPECT_EQ(One(std::bit_cast<float>(0x3f818000u)), 0x3f82);
}

TEST(Bf16Test, EveryNaNStaysOne) {
  for (const uint32_t bits :
       {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu, 0x7fc00000u, 0x7f80ffffu}) {
    EXPECT_TRUE(std::isnan(Back(One(std::bit_cast<float>(bits))))) << std::hex << bits;
  }
}

TEST(Bf16Test, RandomBits_EqualReference) {
  std::mt19937 random(1);
  std::vector<float> values;
  while (values.size() < 100'003) {  // odd: the vectorised loop has a rest
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (!std::isnan(value)) values.push_back(value);
  }
  std::vector<uint16_t> bits(values.size());
  ToBf16(values, absl::MakeSpan(bits));
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(bits[i], Reference(values[i])) << values[i];
}

TEST(Bf16Test, EveryBf16_RoundTrips) {
  std::vector<uint16_t> all(1 << 16);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  std::vector<float> values(all.size());
  FromBf16(all, absl::MakeSpan(values));
  for (size_t i = 0; i < all.size(); ++i) {
    if (std::isnan(values[i])) continue;
    ASSERT_EQ(One(values[i]), all[i]);
  }
}

}  // namespace
}  // namespace sdp
