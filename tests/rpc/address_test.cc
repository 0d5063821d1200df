#include "common/rpc/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sdp {
namespace {

using ::testing::HasSubstr;

TEST(AddressTest, Malformed_Invalid) {
  for (const char* address : {"", ":", "host", "host:", ":80", "host:-1", "host:65536", "host:x",
                              "1:2:3", "unix:", "http://host:80", "::1:80"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckAddress(address, {.insecure = true}))) << address;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(CheckAddress("unix:" + std::string(108, 'p'), {})));
}

TEST(AddressTest, ElsewhereInPlaintext_NeedsInsecure) {
  for (const char* address :
       {"0.0.0.0:80", "10.0.0.1:80", "example.org:80", "[::]:80", "[fe80::1]:80",
        "127.0.0.1.example.org:80", "localhost.example.org:80"}) {
    const absl::Status status = CheckAddress(address, {});
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << address;
    EXPECT_THAT(status.message(), HasSubstr("--insecure"));
    EXPECT_TRUE(CheckAddress(address, {.insecure = true}).ok()) << address;
  }
}

TEST(AddressTest, OnThisMachine_IsAllowed) {
  for (const char* address :
       {"127.0.0.1:0", "127.8.9.1:80", "localhost:80", "[::1]:80", "unix:/tmp/s", "unix:s"}) {
    EXPECT_TRUE(CheckAddress(address, {}).ok()) << address;
  }
}

}  // namespace
}  // namespace sdp
