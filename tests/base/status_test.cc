#include "common/base/status.h"

#include <gtest/gtest.h>

#include <memory>

namespace sdp {
namespace {

absl::StatusOr<std::unique_ptr<int>> Make(int value) {
  if (value < 0) return absl::OutOfRangeError("below zero");
  return std::make_unique<int>(value);
}

absl::Status AddUp(int a, int b, int* sum) {
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<int> first, Make(a));
  SDP_ASSIGN_OR_RETURN(std::unique_ptr<int> second, Make(b));
  SDP_RETURN_IF_ERROR(*first + *second > 100 ? absl::ResourceExhaustedError("too much")
                                             : absl::OkStatus());
  *sum = *first + *second;
  return absl::OkStatus();
}

TEST(StatusTest, Macros_ReturnTheFirstError) {
  int sum = 0;
  EXPECT_EQ(AddUp(-1, 2, &sum).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(AddUp(1, -2, &sum).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(AddUp(60, 60, &sum).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(sum, 0);
  EXPECT_TRUE(AddUp(1, 2, &sum).ok());
  EXPECT_EQ(sum, 3);
}

TEST(StatusTest, Context_KeepsTheCodeAndPutsTextInFront) {
  const absl::Status status = Context(absl::DataLossError("checksum differs"), "push block 17");
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(), "push block 17: checksum differs");
  EXPECT_TRUE(Context(absl::OkStatus(), "nothing").ok());
}

}  // namespace
}  // namespace sdp
