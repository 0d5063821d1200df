#include "deploy/command/train_summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cluster_process/temp_folder.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class TrainSummaryTest : public ::testing::Test {
 protected:
  TrainSummaryTest() {
    config_.mutable_data()->set_kind("text");
    config_.mutable_data()->set_seq_len(2);
    config_.mutable_run()->set_dir(folder_.path());
    config_.mutable_cluster()->set_workers(4);
    config_.mutable_sdp()->set_coverage(0.5);
  }
  void AddValidation(const std::string& name, const std::string& text) {
    WriteAll(folder_ / name, text);
    config_.mutable_data()->add_validation(folder_ / name);
  }

  TempFolder folder_;
  RunConfig config_;
};

TEST_F(TrainSummaryTest, ValidationLine_NoLossInMetrics_IsNotFound) {
  AddValidation("a", "abab");
  WriteAll(folder_ / "metrics.jsonl", "{\"step\": 0}\n");
  EXPECT_EQ(ValidationLine(config_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(TrainSummaryTest, ValidationLine_FileGone_IsNotFound) {
  config_.mutable_data()->add_validation(folder_ / "none");
  WriteAll(folder_ / "metrics.jsonl", "{\"full_loss\": 1}\n");
  EXPECT_EQ(ValidationLine(config_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(TrainSummaryTest, ValidationLine_NothingToCompare_IsEmpty) {
  EXPECT_EQ(*ValidationLine(config_), "");
  AddValidation("a", "abab");
  config_.mutable_data()->set_kind("tokens");
  EXPECT_EQ(*ValidationLine(config_), "");
}

TEST_F(TrainSummaryTest, ValidationLine_CountsTheEvaluatedBytesOnly) {
  // Two samples of two bytes and a target: "ababa" of all files together; what follows is no whole
  // sample.
  AddValidation("a", "abab");
  AddValidation("b", "ax");
  WriteAll(folder_ / "metrics.jsonl", "{\"full_loss\": 1.5}\n");
  // Unigram of {a: 3, b: 2}: -(.6 ln .6 + .4 ln .4). After an a always b, after b always a.
  EXPECT_EQ(*ValidationLine(config_),
            "validation: unigram 0.6730  bigram 0.0000  model 1.5000 nats/byte");
  config_.mutable_train()->set_eval_samples(1);  // "aba": -(2/3 ln 2/3 + 1/3 ln 1/3)
  EXPECT_EQ(*ValidationLine(config_),
            "validation: unigram 0.6365  bigram 0.0000  model 1.5000 nats/byte");
}

TEST_F(TrainSummaryTest, NextCommands_AreFourAndQuotedForAShell) {
  config_.mutable_run()->set_dir("runs/it's a run/");
  EXPECT_EQ(NextCommands(config_, "build/sdp"),
            "  build/sdp generate 'runs/it'\\''s a run' --prompt 'The '\n"
            "  build/sdp export 'runs/it'\\''s a run' --out 'runs/it'\\''s a run-model'\n"
            "  build/sdp plan 'runs/it'\\''s a run/config.toml' --workers 8\n"
            "  build/sdp train 'runs/it'\\''s a run/config.toml' --set sdp.coverage=1 --set "
            "'run.dir=runs/it'\\''s a run-full'\n");
}

TEST_F(TrainSummaryTest, NextCommands_OfTokenIds_NeedNoTokenizer) {
  config_.mutable_run()->set_dir("r");
  config_.mutable_data()->set_kind("tokens");
  EXPECT_THAT(NextCommands(config_, "sdp"), HasSubstr("sdp generate r --prompt-ids 0\n"));
  config_.mutable_data()->add_validation("v.bin");
  EXPECT_THAT(NextCommands(config_, "sdp"), HasSubstr("sdp eval r --data v.bin\n"));
}

TEST_F(TrainSummaryTest, NextCommands_OfImages_EvaluateWhereThereAreSome) {
  config_.mutable_run()->set_dir("r");
  config_.mutable_data()->set_kind("cifar10");
  EXPECT_EQ(NextCommands(config_, "sdp").find("  sdp export r --out r-model\n"), 0u);
  config_.mutable_data()->add_validation("v.bin");
  EXPECT_EQ(NextCommands(config_, "sdp").find("  sdp eval r --data v.bin\n"), 0u);
}

TEST_F(TrainSummaryTest, NextCommands_ChangeWhatCanBeChanged) {
  config_.mutable_run()->set_dir("r");
  config_.mutable_sdp()->set_coverage(1);
  EXPECT_THAT(NextCommands(config_, "sdp"),
              AllOf(HasSubstr("sdp.coverage=0.5"), HasSubstr("run.dir=r-half")));
  config_.mutable_sdp()->clear_coverage();
  config_.mutable_sdp()->set_holders(2);  // Beside `holders`, `coverage` would be an error.
  EXPECT_THAT(NextCommands(config_, "sdp"), HasSubstr("sdp.holders=4"));
  config_.mutable_sdp()->set_holders(4);
  EXPECT_THAT(NextCommands(config_, "sdp"), HasSubstr("sdp.holders=2"));
  config_.mutable_cluster()->set_workers(1);
  EXPECT_THAT(NextCommands(config_, "sdp"), HasSubstr("cluster.workers=2"));
  // Beside `depth`, `coverage` would be an error.
  config_.mutable_sdp()->clear_holders();
  config_.mutable_sdp()->add_depth(0.5);
  config_.mutable_cluster()->set_workers(4);
  EXPECT_THAT(NextCommands(config_, "sdp"),
              AllOf(HasSubstr("cluster.workers=8"), HasSubstr("run.dir=r-8-workers")));
}

}  // namespace
}  // namespace sdp
