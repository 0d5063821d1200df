#include "common/tls/token.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sdp {
namespace {

TEST(TokenTest, New_DiffersEachTime_AndParses) {
  const std::string first = NewToken().value(), second = NewToken().value();
  EXPECT_EQ(first.size(), 64u);
  EXPECT_NE(first, second);
  EXPECT_EQ(ParseToken(first + "\n").value(), first);
  EXPECT_EQ(ParseToken("  " + first + "\r\n\n").value(), first);
}

TEST(TokenTest, ShortLongOrOdd_IsNone) {
  for (const std::string& text :
       {std::string(), std::string("\n"), std::string(15, 't'), std::string(1025, 't'),
        std::string("sixteen characters, but spaces"), std::string("\0sixteen-characters", 19),
        std::string("zwölf-und-mehr-zeichen")}) {
    const absl::Status status = ParseToken(text).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << text;
    EXPECT_TRUE(text.size() < 2 || status.message().find(text) == absl::string_view::npos)
        << "it is a secret";
  }
  EXPECT_TRUE(ParseToken(std::string(16, 't')).ok());
  EXPECT_TRUE(ParseToken(std::string(1024, 't')).ok());
}

TEST(TokenTest, Same_OnlyIfAllIs) {
  EXPECT_TRUE(SameToken("0123456789abcdef", "0123456789abcdef"));
  EXPECT_FALSE(SameToken("0123456789abcdef", "0123456789abcdeg"));
  EXPECT_FALSE(SameToken("0123456789abcdef", "1123456789abcdef"));
  EXPECT_FALSE(SameToken("0123456789abcdef", "0123456789abcdef0"));
  EXPECT_FALSE(SameToken("0123456789abcdef", ""));
}

}  // namespace
}  // namespace sdp
