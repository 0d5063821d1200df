#include "deploy/command/status_command.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/cluster_process/temp_folder.h"
#include "tests/command/fake_coordinator.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class StatusCommandTest : public ::testing::Test {
 protected:
  absl::Status Run(const std::string& target) {
    command_.target = target;
    return RunStatusCommand(command_, out_);
  }
  // A run that trains, of one shard and one worker.
  void FillRun() {
    proto::RunStatus& run = fake_.run();
    run.set_run_dir("runs/a");
    run.set_phase("training");
    run.set_committed(11);
    run.set_steps(100);
    run.set_full_loss(3.25);
    run.set_full_loss_step(10);
    run.set_plan_hash(0x1234);
    proto::RunStatus::Member* shard = run.add_members();
    shard->set_role("shard");
    shard->set_name("shard-0");
    shard->set_address(fake_.address());
    proto::RunStatus::Member* worker = run.add_members();
    worker->set_role("worker");
    worker->set_name("worker-0");
    worker->set_phase("step 12: backward");
    worker->set_silence_sec(0.25);
    worker->set_peak_memory_bytes(int64_t{3} << 29);
    worker->set_allocated_peak_bytes(int64_t{5} << 28);
    worker->set_predicted_bytes(int64_t{11} << 27);
    worker->set_step(11);
    worker->set_samples(13);
    worker->mutable_ledger()->mutable_now()->set_communication(int64_t{7} << 27);
    worker->mutable_ledger()->mutable_peak()->set_activations(int64_t{3} << 28);
    fake_.shard().set_fragments(7);
    fake_.shard().set_newest_version(12);
  }

  TempFolder folder_;
  FakeRun fake_;
  StatusCommand command_;
  std::ostringstream out_;
};

TEST_F(StatusCommandTest, Checkpoint_AndItsStickyError_AreShown) {
  FillRun();
  fake_.run().set_checkpoint(10);
  fake_.run().set_checkpoint_age_sec(61);
  fake_.run().set_checkpoint_error("checkpoint 11: shard-0: write x: No space left on device");
  ASSERT_TRUE(Run(fake_.address()).ok());
  EXPECT_THAT(out_.str(), AllOf(HasSubstr("checkpoint 10, complete for 1m1s"),
                                HasSubstr("ERROR: checkpoint 11: shard-0: write x")));
}

TEST_F(StatusCommandTest, SampleCursor_IsShown_WithWhatIsToBeDealtAgain) {
  FillRun();
  fake_.run().set_samples_dealt(1500);
  fake_.run().set_train_samples(1000);
  ASSERT_TRUE(Run(fake_.address()).ok());
  EXPECT_THAT(out_.str(), HasSubstr("1500 samples dealt, epoch 1.50\n"));
  fake_.run().set_samples_returned(8);
  ASSERT_TRUE(Run(fake_.address()).ok());
  EXPECT_THAT(out_.str(), HasSubstr("epoch 1.50; 8 of lost workers to be dealt again\n"));
  out_.str("");
  command_.format = StatusCommand::Format::kJson;
  ASSERT_TRUE(Run(fake_.address()).ok());
  const nlohmann::json json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["samples_dealt"], 1500);
  EXPECT_EQ(json["samples_returned"], 8);
  EXPECT_EQ(json["train_samples"], 1000);
}

TEST_F(StatusCommandTest, Events_TheNewestTenAreShown_InJsonAll) {
  FillRun();
  for (int i = 0; i < 12; ++i) {
    fake_.run().add_events(
        absl::StrCat("{\"time\":\"2024-05-01T06:00:00.123Z\",\"event\":\"join\","
                     "\"text\":\"worker-",
                     i, " registered\"}"));
  }
  fake_.run().set_events_error("write events.jsonl: No space left on device");
  ASSERT_TRUE(Run(fake_.address()).ok());
  EXPECT_THAT(out_.str(),
              AllOf(HasSubstr("2024-05-01T06:00:00.123Z  worker-11 registered"),
                    HasSubstr("worker-2 registered"), Not(HasSubstr("worker-1 registered")),
                    HasSubstr("ERROR: write events.jsonl")));
  out_.str("");
  command_.format = StatusCommand::Format::kJson;
  ASSERT_TRUE(Run(fake_.address()).ok());
  const nlohmann::json json = nlohmann::json::parse(out_.str());
  ASSERT_EQ(json["events"].size(), 12u);
  EXPECT_EQ(json["events"][0]["event"], "join");
  EXPECT_EQ(json["events_error"], "write events.jsonl: No space left on device");
}

TEST_F(StatusCommandTest, Units_SayWhoHoldsThem_AndWhoseContributionsAreMissing) {
  FillRun();
  fake_.run().mutable_members(1)->set_number(3);
  proto::RunStatus::Unit* unit = fake_.run().add_units();
  unit->set_name("layers.0.mlp");
  unit->set_holders(20);
  unit->add_holder_names("worker-0");
  fake_.run().set_units_in_all(2);
  proto::ShardStatus::Block* block = fake_.shard().add_blocks();
  block->set_name("layers.0.mlp");
  block->set_oldest_version(12);
  block->set_newest_version(12);
  block->set_open_rounds(1);
  block->set_contributions(19);
  block->set_holders(20);
  block->add_missing(3);
  proto::Wait* wait = fake_.run().add_waits();
  wait->set_who("worker-0");
  wait->set_for_what("step 12: waiting for 3 fragments");
  wait->set_since_sec(75);
  ASSERT_TRUE(Run(fake_.address()).ok());
  EXPECT_THAT(
      out_.str(),
      AllOf(HasSubstr("worker-0 and 19 more"), HasSubstr("shard-0 v12 19/20 (waits for worker-0)"),
            HasSubstr("and 1 more units"), HasSubstr("worker-0  1m15s  step 12: waiting")));
  out_.str("");
  command_.format = StatusCommand::Format::kJson;
  ASSERT_TRUE(Run(fake_.address()).ok());
  const nlohmann::json json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["units"][0]["holders"], 20);
  EXPECT_EQ(json["shards"][0]["blocks"][0]["missing"][0], 3);
  EXPECT_EQ(json["waits"][0]["since_sec"], 75);
}

TEST_F(StatusCommandTest, NeitherFolderNorAddress_IsRefused) {
  const absl::Status status = Run(folder_ / "missing");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("neither a run folder nor an address"));
}

TEST_F(StatusCommandTest, OtherMachine_NeedsInsecure) {
  EXPECT_EQ(Run("example.org:80").code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(StatusCommandTest, NobodyListens_SaysWhatWasTried) {
  const absl::Status status = Run(absl::StrCat("unix:", folder_ / "nobody"));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(absl::StrCat("coordinator at unix:", folder_ / "nobody")));
  EXPECT_EQ(out_.str(), "");
}

TEST_F(StatusCommandTest, PeerIsSilent_EndsAtTheDeadline) {
  command_.timeout = absl::Milliseconds(200);
  // Accepts connections (the kernel does), but never says a word.
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string path = folder_ / "silent";
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(listener, 8), 0);
  const absl::Status status = Run("unix:" + path);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status)) << status;
  close(listener);
}

TEST_F(StatusCommandTest, FolderOfNoRun_IsNotFound) {
  EXPECT_EQ(Run(folder_.path()).code(), absl::StatusCode::kNotFound);
}

TEST_F(StatusCommandTest, Address_ShowsRunMembersAndShards) {
  FillRun();
  ASSERT_EQ(Run(fake_.address()), absl::OkStatus());
  EXPECT_THAT(out_.str(), AllOf(HasSubstr("run runs/a: training, 12/100 steps complete"),
                                HasSubstr("full loss 3.2500 (step 10)"), HasSubstr("worker-0"),
                                HasSubstr("step 12: backward"), HasSubstr("0.2 s"),
                                HasSubstr("1.50 GiB"), HasSubstr("1.25 GiB"), HasSubstr("1.38 GiB"),
                                HasSubstr("0-12"), HasSubstr("memory now / at the peak"),
                                HasSubstr("- / 768.0 MiB"), HasSubstr("896.0 MiB / -")));
}

TEST_F(StatusCommandTest, ShardDoesNotAnswer_IsPartOfTheStatus) {
  FillRun();
  fake_.run().mutable_members(0)->set_address(absl::StrCat("unix:", folder_ / "nobody"));
  ASSERT_EQ(Run(fake_.address()), absl::OkStatus());
  EXPECT_THAT(out_.str(), HasSubstr("shard-0 did not say more: ask the shard at unix:"));
}

TEST_F(StatusCommandTest, NoMembersYet_IsSaid) {
  ASSERT_EQ(Run(fake_.address()), absl::OkStatus());
  EXPECT_THAT(out_.str(), HasSubstr("no members yet"));
}

TEST_F(StatusCommandTest, Json_HasNumbersAsNumbers) {
  FillRun();
  command_.format = StatusCommand::Format::kJson;
  ASSERT_EQ(Run(fake_.address()), absl::OkStatus());
  const nlohmann::json json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["running"], true);
  EXPECT_EQ(json["committed"], 11);
  EXPECT_EQ(json["plan_hash"], "0000000000001234");
  EXPECT_FALSE(json.contains("loss"));
  EXPECT_EQ(json["members"][1]["peak_memory_bytes"], int64_t{3} << 29);
  EXPECT_EQ(json["members"][1]["allocated_peak_bytes"], int64_t{5} << 28);
  EXPECT_EQ(json["members"][1]["predicted_bytes"], int64_t{11} << 27);
  EXPECT_FALSE(json["members"][0].contains("predicted_bytes"));
  EXPECT_EQ(json["members"][1]["now_bytes"]["communication"], int64_t{7} << 27);
  EXPECT_EQ(json["members"][1]["peak_bytes"]["activations"], int64_t{3} << 28);
  EXPECT_FALSE(json["members"][0].contains("peak_bytes"));
  EXPECT_EQ(json["shards"][0]["fragments"], 7);
}

TEST_F(StatusCommandTest, FolderOfARunInProgress_AsksItsCoordinator) {
  FillRun();
  WriteAll(folder_ / "lock", "4711\n");
  WriteAll(folder_ / "coordinator.address", fake_.address());
  const int lock = open((folder_ / "lock").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(flock(lock, LOCK_EX), 0);
  EXPECT_EQ(Run(folder_.path()), absl::OkStatus());
  EXPECT_THAT(out_.str(), HasSubstr("12/100 steps"));

  WriteAll(folder_ / "coordinator.address", absl::StrCat("unix:", folder_ / "nobody"));
  const absl::Status status = Run(folder_.path());
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("in use by process 4711: ask the coordinator at unix:"));
  close(lock);
}

TEST_F(StatusCommandTest, FolderOfAFinishedRun_ShowsItsLastLineAndAsksNobody) {
  WriteAll(folder_ / "lock", "4711\n");
  WriteAll(folder_ / "coordinator.address", fake_.address());
  WriteAll(folder_ / "metrics.jsonl", "{\"step\":5,\"full_loss\":2,\"state_hash\":\"00\"}\n");
  ASSERT_EQ(Run(folder_.path()), absl::OkStatus());
  EXPECT_THAT(out_.str(), AllOf(HasSubstr("finished"), HasSubstr("\"full_loss\":2")));

  out_.str("");
  command_.format = StatusCommand::Format::kJson;
  ASSERT_EQ(Run(folder_.path()), absl::OkStatus());
  const nlohmann::json json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["running"], false);
  EXPECT_EQ(json["end"], "finished");
  EXPECT_EQ(json["last"]["step"], 5);
}

TEST_F(StatusCommandTest, FolderOfABrokenRun_SaysThatItIsNotFinished) {
  WriteAll(folder_ / "lock", "4711\n");
  WriteAll(folder_ / "metrics.jsonl", "{\"step\":5,\"loss\":2}\n");
  ASSERT_EQ(Run(folder_.path()), absl::OkStatus());
  EXPECT_THAT(out_.str(), HasSubstr("did not end in order"));

  out_.str("");
  WriteAll(folder_ / "metrics.jsonl", "");
  ASSERT_EQ(Run(folder_.path()), absl::OkStatus());
  EXPECT_THAT(out_.str(), HasSubstr("before its first step"));
}

}  // namespace
}  // namespace sdp
