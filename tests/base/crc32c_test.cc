#include "common/base/crc32c.h"

#include <gtest/gtest.h>

#include <string>

namespace sdp {
namespace {

// RFC 3720, appendix B.4; and the check value that catalogues of CRCs give.
TEST(Crc32cTest, VectorsOfTheStandard) {
  EXPECT_EQ(Crc32c(""), 0u);
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string rising;
  for (char byte = 0; byte < 32; ++byte) rising.push_back(byte);
  EXPECT_EQ(Crc32c(rising), 0x46dd794eu);
}

}  // namespace
}  // namespace sdp
