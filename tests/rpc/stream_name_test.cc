#include "common/rpc/stream_name.h"

#include <gtest/gtest.h>

namespace sdp {
namespace {

TEST(StreamNameTest, OtherTexts_Invalid) {
  for (const char* text : {"", "1", "1.2", "1.2.3", "0.2.00000000000000aa", "1.0.00000000000000aa",
                           "1.-2.00000000000000aa", "1.2.00000000000000aa.4",
                           "1.2.g0000000000000aa", "99999999999999999999.2.00000000000000aa"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseStreamName(text).status())) << text;
  }
}

TEST(StreamNameTest, RoundTrip) {
  const StreamName name = {Generation(3), Incarnation(41), 0xfedcba9876543210};
  EXPECT_EQ(StreamNameText(name), "3.41.fedcba9876543210");
  const auto parsed = ParseStreamName(StreamNameText(name));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, name);
}

}  // namespace
}  // namespace sdp
