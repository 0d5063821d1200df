#include "deploy/command/train_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/cluster_process/temp_folder.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class TrainChecksTest : public ::testing::Test {
 protected:
  TrainChecksTest() {
    loaded_.config.mutable_data()->set_kind("text");
    loaded_.config.mutable_data()->set_seq_len(4);
    loaded_.origins = {{"data.train", "run.toml:7"}, {"data.validation", "--set"}};
  }
  std::string AddFile(const std::string& name, const std::string& text) {
    WriteAll(folder_ / name, text);
    return folder_ / name;
  }
  absl::Status Check(const std::string& train) {
    loaded_.config.mutable_data()->add_train(train);
    return CheckDataFiles(loaded_);
  }

  TempFolder folder_;
  LoadedConfig loaded_;
};

TEST_F(TrainChecksTest, MissingFile_NamesKeyOriginAndFile) {
  const absl::Status status = Check(folder_ / "none.txt");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("data.train (run.toml:7)"), HasSubstr("none.txt")));
}

TEST_F(TrainChecksTest, Folder_IsRefused) {
  EXPECT_THAT(std::string(Check(folder_.path()).message()), HasSubstr("not a regular file"));
}

TEST_F(TrainChecksTest, Fifo_IsRefusedWithoutWaiting) {
  ASSERT_EQ(mkfifo((folder_ / "fifo").c_str(), 0600), 0);
  EXPECT_THAT(std::string(Check(folder_ / "fifo").message()), HasSubstr("not a regular file"));
}

TEST_F(TrainChecksTest, EmptyFile_IsRefused) {
  EXPECT_THAT(std::string(Check(AddFile("a", "")).message()), HasSubstr("is empty"));
}

TEST_F(TrainChecksTest, LessThanOneSample_SaysHowMuchIsNeeded) {
  const absl::Status status = Check(AddFile("a", "1234"));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("4 bytes in all"), HasSubstr("needs 5")));
}

TEST_F(TrainChecksTest, FilesCountTogether) {
  loaded_.config.mutable_data()->add_train(AddFile("a", "123"));
  EXPECT_EQ(Check(AddFile("b", "45")), absl::OkStatus());
}

TEST_F(TrainChecksTest, ValidationIsCheckedToo) {
  loaded_.config.mutable_data()->add_validation(folder_ / "none");
  EXPECT_THAT(std::string(Check(AddFile("a", "12345")).message()),
              HasSubstr("data.validation (--set)"));
}

TEST_F(TrainChecksTest, Tokens_OnlyWhoReadsThemCountsSamples) {
  loaded_.config.mutable_data()->set_kind("tokens");
  EXPECT_EQ(Check(AddFile("a", "12")), absl::OkStatus());
}

TEST_F(TrainChecksTest, Images_AreAFolder) {
  loaded_.config.mutable_data()->set_kind("images");
  EXPECT_EQ(Check(folder_.path()), absl::OkStatus());
  loaded_.config.mutable_data()->add_validation(AddFile("a", "12"));
  EXPECT_THAT(std::string(CheckDataFiles(loaded_).message()),
              AllOf(HasSubstr("data.validation (--set)"), HasSubstr("Not a directory")));
}

TEST_F(TrainChecksTest, CheckReadable_Missing_IsNotFound) {
  EXPECT_EQ(CheckReadable(folder_ / "w", "--init").code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace sdp
