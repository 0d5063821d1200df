#include "common/base/hash.h"

#include <gtest/gtest.h>

#include <string>

namespace sdp {
namespace {

// XXH3's published values: what other tools compute for the same files.
TEST(HashTest, Hash64_IsXxh3) {
  EXPECT_EQ(Hash64(""), 0x2d06800538d394c2ULL);
  EXPECT_EQ(HashText(Hash64("")), "2d06800538d394c2");
}

TEST(HashTest, Hash64_DependsOnBytesAndSeed) {
  const std::string long_text(1000, 'x');
  EXPECT_NE(Hash64("a"), Hash64("b"));
  EXPECT_NE(Hash64("a"), Hash64("a", 1));
  EXPECT_NE(Hash64(long_text), Hash64(long_text + "x"));
  EXPECT_EQ(Hash64(long_text, 5), Hash64(std::string(long_text), 5));
}

TEST(HashTest, HashText_HasSixteenDigits) {
  EXPECT_EQ(HashText(0), "0000000000000000");
  EXPECT_EQ(HashText(0xABCULL), "0000000000000abc");
}

}  // namespace
}  // namespace sdp
