#include "deploy/command/audit_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "common/checkpoint/checkpoint_writer.h"
#include "common/process/exit_status.h"
#include "tests/audit/stored_records.h"
#include "tests/cluster_process/temp_folder.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A run of three steps of four samples; worker-1 is lost in step 1.
class AuditCommandTest : public ::testing::Test {
 protected:
  AuditCommandTest() {
    WriteAll(folder_ / "config.toml",
             "[model]\narch = 'llama'\ndim = 8\nlayers = 2\nheads = 2\nffn_dim = 12\n"
             "[data]\ntrain = ['a.txt']\n[train]\nsteps = 3\n");
    WriteAll(folder_ / "metrics.jsonl",
             "{\"generation\":1,\"step\":0}\n{\"generation\":1,\"step\":1,\"lost_workers\":[2]}\n"
             "{\"generation\":1,\"step\":2}\n{\"generation\":1,\"step\":3}\n");
    CheckpointManifest manifest;
    manifest.generation = Generation(1);
    manifest.step = 3;
    manifest.cursor = SampleCursor(10);
    manifest.data.train_samples = 5;
    std::filesystem::create_directories(folder_ / "checkpoints/step-3");
    EXPECT_EQ(WriteManifest(folder_ / "checkpoints/step-3", manifest), absl::OkStatus());
  }
  void WriteStore(int64_t next_at_the_end) {
    const Incarnation first(1), second(2);
    const Generation one(1);
    WriteRecords(
        folder_ / "state.db",
        {GenerationRecord{one, Term(1), "00ff", 0, "", 0, {1}}, MemberRecord{first, "worker-0"},
         MemberRecord{second, "worker-1"}, ViewRecord{ViewId(1), {first, second}, {2, 2}},
         BindingRecord{one, 0, ViewId(1), SampleCursor(0), 4},
         BindingRecord{one, 1, ViewId(1), SampleCursor(4), 4},
         ExclusionRecord{one, 1, second, "it rains", 0, {1}}, ViewRecord{ViewId(2), {first}, {4}},
         BindingRecord{one, 2, ViewId(2), SampleCursor(8, {{6, 2}}), 4},
         BindingRecord{one, 3, ViewId(2), SampleCursor(next_at_the_end), 0, false, true}});
  }
  absl::Status Run(AuditCommand::Format format = AuditCommand::Format::kTable) {
    out_.str("");
    return RunAuditCommand({folder_.path(), format}, out_);
  }

  TempFolder folder_;
  std::ostringstream out_;
};

TEST_F(AuditCommandTest, AsPromised_IsATableAndStatus0) {
  WriteStore(10);
  ASSERT_EQ(Run(), absl::OkStatus());
  EXPECT_THAT(out_.str(),
              AllOf(HasSubstr("1 generation\n"), HasSubstr("2.00 epochs of 5 samples"),
                    HasSubstr("4 bindings, 2 views, 1 exclusions, 1 checkpoints"),
                    HasSubstr("came back: 6-7 of step 1, worker-1 (incarnation 2): it rains"),
                    HasSubstr("all samples were used as promised")));
  ASSERT_EQ(Run(AuditCommand::Format::kJson), absl::OkStatus());
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["ok"], true);
  EXPECT_EQ(json["steps"], 3);
  EXPECT_EQ(json["used_once"], 8);
  EXPECT_EQ(json["used_again"], 2);
  EXPECT_EQ(json["epochs"], 2);
  EXPECT_EQ(json["first_returns"][0]["positions"].dump(), "[[6,2]]");
}

TEST_F(AuditCommandTest, Violated_NamesStepAndPositions_AndIsStatus1) {
  WriteStore(11);
  const absl::Status status = Run();
  EXPECT_EQ(ExitStatusOf(status), 1);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("step 3 of generation 1, positions 10: they are passed over"));
  EXPECT_THAT(out_.str(), HasSubstr("VIOLATED: step 3 of generation 1, positions 10"));
  EXPECT_FALSE(Run(AuditCommand::Format::kJson).ok());
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["ok"], false);
  EXPECT_EQ(json["lost"], 1);
  EXPECT_EQ(json["first_findings"][0]["step"], 3);
  EXPECT_EQ(json["first_findings"][0]["positions"].dump(), "[[10,1]]");
}

TEST_F(AuditCommandTest, NoRun_MissingAndDamagedFiles_AreNamed_AndNothingIsWritten) {
  EXPECT_EQ(ExitStatusOf(Run()), 2);  // no state.db
  EXPECT_THAT(std::string(Run().message()), HasSubstr("state.db"));
  WriteStore(10);
  WriteAll(folder_ / "metrics.jsonl", "{\"generation\":1,\"step\":0}\nx\n");
  EXPECT_EQ(ExitStatusOf(Run()), 1);
  EXPECT_THAT(std::string(Run().message()), HasSubstr("metrics.jsonl:2"));
  std::filesystem::remove(folder_ / "config.toml");
  EXPECT_EQ(ExitStatusOf(Run()), 2);
  EXPECT_EQ(out_.str(), "");
}

}  // namespace
}  // namespace sdp
