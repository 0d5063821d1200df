#include "common/base/float_buffer.h"

#include <gtest/gtest.h>

#include <utility>

namespace sdp {
namespace {

TEST(FloatBufferTest, Empty_HasNothing) {
  FloatBuffer none;
  EXPECT_TRUE(none.empty());
  EXPECT_EQ(none.bytes(), 0);
  EXPECT_TRUE(none.span().empty());
  EXPECT_TRUE(none.Clone().empty());
  EXPECT_TRUE(FloatBuffer::Zeros(0).empty());
}

TEST(FloatBufferTest, Data_IsAligned) {
  for (const int64_t size : {1, 3, 1000, 1 << 20}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(FloatBuffer(size).data()) % 64, 0u);
  }
}

TEST(FloatBufferTest, Clone_IsApart) {
  FloatBuffer a = FloatBuffer::Zeros(5);
  a.span()[2] = 7;
  FloatBuffer b = a.Clone();
  a.span()[2] = 8;
  EXPECT_EQ(b.span()[2], 7);
  EXPECT_EQ(b.span()[4], 0);
  EXPECT_EQ(b.bytes(), 20);
}

TEST(FloatBufferTest, Move_LeavesNothingBehind) {
  FloatBuffer a = FloatBuffer::Zeros(5);
  const float* data = a.data();
  FloatBuffer b = std::move(a);
  EXPECT_EQ(b.data(), data);
  EXPECT_EQ(b.size(), 5);
  EXPECT_EQ(a.size(), 0);  // NOLINT(bugprone-use-after-move): that it is empty is the point.
  a = std::move(b);
  EXPECT_EQ(a.data(), data);
  EXPECT_EQ(b.size(), 0);  // NOLINT(bugprone-use-after-move)
}

}  // namespace
}  // namespace sdp
