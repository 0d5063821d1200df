#include "deploy/command/bandwidth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace sdp {
namespace {

using ::testing::HasSubstr;

TEST(BandwidthTest, NotASpeed_NamesTheTextAndWhatIsAllowed) {
  for (const char* const text : {"", "1", "Gbit", "1 gigabit", "-1Gbit", "0Gbit", "1e3Mbit",
                                 "nanGbit", "1Gbit/m", "1Gb", "1..0Mbit", "1Gbit/s/s"}) {
    const auto parsed = ParseBandwidth(text);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(parsed.status().message(), HasSubstr(std::string("--bandwidth ") + text));
    EXPECT_THAT(parsed.status().message(), HasSubstr("1Gbit, 100Mbps or 125MB/s"));
  }
}

TEST(BandwidthTest, Speeds_InBytesPerSecond) {
  EXPECT_EQ(*ParseBandwidth("1Gbit"), 125e6);
  EXPECT_EQ(*ParseBandwidth("2.5 Gbit/s"), 312.5e6);
  EXPECT_EQ(*ParseBandwidth("100Mbps"), 12.5e6);
  EXPECT_EQ(*ParseBandwidth("8bit"), 1);
  EXPECT_EQ(*ParseBandwidth("56kbit/s"), 7e3);
  EXPECT_EQ(*ParseBandwidth("125MB/s"), 125e6);
  EXPECT_EQ(*ParseBandwidth("1GiB"), 0x1p30);
}

}  // namespace
}  // namespace sdp
