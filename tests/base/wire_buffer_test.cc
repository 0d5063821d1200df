#include "common/base/wire_buffer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace sdp {
namespace {

using ::testing::ElementsAre;

std::vector<float> Values(WireBuffer buffer) {
  const FloatBuffer wide = std::move(buffer).Widened();
  return {wide.data(), wide.data() + wide.size()};
}

TEST(WireBufferTest, Empty_HasNothing) {
  WireBuffer none;
  EXPECT_TRUE(none.empty());
  EXPECT_EQ(none.bytes(), 0);
  EXPECT_TRUE(std::move(none).Widened().empty());
  EXPECT_TRUE(WireBuffer::Rounded(WireType::kBf16, {}).empty());
}

TEST(WireBufferTest, Bytes_FollowTheType) {
  EXPECT_EQ(WireBuffer(WireType::kF32, 7).bytes(), 28);
  EXPECT_EQ(WireBuffer(WireType::kBf16, 7).bytes(), 14);  // odd: the memory ends in half an f32
}

TEST(WireBufferTest, F32_IsKept_WithoutACopy) {
  FloatBuffer floats(3);
  for (int i = 0; i < 3; ++i) floats.data()[i] = 0.1f * static_cast<float>(i);
  const float* memory = floats.data();
  WireBuffer buffer(std::move(floats));
  EXPECT_EQ(buffer.type(), WireType::kF32);
  EXPECT_THAT(buffer.floats(), ElementsAre(0.0f, 0.1f, 0.1f * 2));
  EXPECT_EQ(std::move(buffer).Widened().data(), memory);
}

TEST(WireBufferTest, Bf16_IsRoundedToNearest) {
  const std::vector<float> values = {1.0f, -2.5f,
                                     1.00390625f /* between 1 and 1 + 2^-7: to even */};
  EXPECT_THAT(Values(WireBuffer::Rounded(WireType::kBf16, values)), ElementsAre(1.0f, -2.5f, 1.0f));
  EXPECT_EQ(Values(WireBuffer::Rounded(WireType::kF32, values)), values);
}

TEST(WireBufferTest, Clone_IsApart_AndMoveLeavesNothingBehind) {
  WireBuffer a = WireBuffer::Rounded(WireType::kBf16, std::vector<float>{1, 2, 3});
  WireBuffer b = a.Clone();
  b.data()[1] = 0x40;  // the upper byte of the first element
  EXPECT_EQ(a.bf16()[0], 0x3f80);
  EXPECT_EQ(b.bf16()[0], 0x4080);
  const WireBuffer c = std::move(a);
  EXPECT_TRUE(a.empty());  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(c.size(), 3);
}

}  // namespace
}  // namespace sdp
