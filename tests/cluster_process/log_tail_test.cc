#include "deploy/cluster/log_tail.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/cluster_process/temp_folder.h"

namespace sdp {
namespace {

using ::testing::EndsWith;
using ::testing::StartsWith;

class LogTailTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& text) {
    WriteAll(folder_ / "log", text);
    return folder_ / "log";
  }
  TempFolder folder_;
};

TEST_F(LogTailTest, LastLines_NoFile_IsEmpty) { EXPECT_EQ(LastLines(folder_ / "none", 5), ""); }

TEST_F(LogTailTest, LastLines_EmptyFile_IsEmpty) { EXPECT_EQ(LastLines(Write(""), 5), ""); }

TEST_F(LogTailTest, LastLines_FewerLines_GivesAll) {
  EXPECT_EQ(LastLines(Write("a\nb\n"), 5), "a\nb");
  EXPECT_EQ(LastLines(Write("a\nb"), 5), "a\nb");
}

TEST_F(LogTailTest, LastLines_MoreLines_GivesTheLast) {
  EXPECT_EQ(LastLines(Write("a\nb\nc\n\n"), 2), "b\nc");
}

TEST_F(LogTailTest, LastLines_LongFile_BeginsWithAWholeLine) {
  std::string text;
  for (int i = 0; i < 10000; ++i) absl::StrAppend(&text, "line ", i, "\n");
  const std::string tail = LastLines(Write(text), 1000000);
  EXPECT_THAT(tail, StartsWith("line "));
  EXPECT_THAT(tail, EndsWith("\nline 9999"));
  EXPECT_LE(tail.size(), size_t{8 << 10});
}

TEST_F(LogTailTest, LastLines_OneEndlessLine_GivesItsEnd) {
  EXPECT_EQ(LastLines(Write(std::string(100000, 'x')), 5).size(), size_t{8 << 10});
}

TEST_F(LogTailTest, DescribeLog_IndentsOrSaysThatThereIsNothing) {
  const std::string log = Write("a\nb\n");
  EXPECT_EQ(DescribeLog(log), absl::StrCat("; its last log lines (", log, "):\n    a\n    b"));
  Write("");
  EXPECT_EQ(DescribeLog(log), absl::StrCat("; it logged nothing (", log, ")"));
}

}  // namespace
}  // namespace sdp
