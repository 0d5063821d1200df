// sdp probe and sdp top.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/rpc/health_service.h"
#include "common/rpc/server.h"
#include "deploy/command/probe_command.h"
#include "deploy/command/top_command.h"
#include "deploy/command/top_text.h"
#include "tests/cluster_process/temp_folder.h"
#include "tests/command/fake_coordinator.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class ProbeTest : public ::testing::Test {
 protected:
  ProbeTest()
      : health_({.alive = CheckedOn(&loop_, [] { return absl::OkStatus(); }),
                 .ready = CheckedOn(&loop_,
                                    [] { return absl::UnavailableError("waits for shard-1"); })}),
        server_(RpcServer::Start("127.0.0.1:0", {}, {&health_}).value()) {}

  absl::Status Probe(const std::string& target) {
    command_.target = target;
    return RunProbeCommand(command_, out_);
  }

  EventLoop loop_{"role"};
  HealthService health_;
  std::unique_ptr<RpcServer> server_;
  TempFolder folder_;
  ProbeCommand command_;
  std::ostringstream out_;
};

TEST_F(ProbeTest, NotReady_IsUnavailable_WithTheReason) {
  command_.health = Health::kReady;
  const absl::Status status = Probe(server_->address());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), absl::StrCat(server_->address(), " is not ready: waits for shard-1"));
  EXPECT_EQ(out_.str(), "");
}

TEST_F(ProbeTest, NobodyListens_OrItKnowsNoHealth_IsUnavailable) {
  command_.timeout = absl::Seconds(2);
  EXPECT_EQ(Probe(absl::StrCat("unix:", folder_ / "nobody")).code(),
            absl::StatusCode::kUnavailable);
  FakeRun fake;
  EXPECT_EQ(Probe(fake.address()).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Probe(folder_ / "missing").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ProbeTest, Alive_SaysSoInOneLine_AlsoOfARunFolder) {
  EXPECT_EQ(Probe(server_->address()), absl::OkStatus());
  WriteAll(folder_ / "coordinator.address", server_->address() + "\n");
  EXPECT_EQ(Probe(folder_.path()), absl::OkStatus());
  const std::string line = absl::StrCat(server_->address(), " is alive\n");
  EXPECT_EQ(out_.str(), line + line);
}

proto::RunStatus TrainingRun() {
  proto::RunStatus run;
  run.set_run_dir("runs/a");
  run.set_phase("training");
  run.set_committed(49);
  run.set_steps(100);
  run.mutable_step_times()->set_elapsed_sec(0.5);
  run.mutable_step_times()->set_forward_sec(0.25);
  run.mutable_step_times()->set_pull_sec(0.75);  // from before the last step ended
  (*run.mutable_all_workers()->mutable_states())["training"] = 12;
  for (int i = 0; i < 12; ++i) {
    proto::RunStatus::Member* const worker = run.add_members();
    worker->set_role("worker");
    worker->set_name(absl::StrCat("worker-", i));
    worker->set_state("training");
    worker->set_phase("step 50: computing");
  }
  run.mutable_members(7)->set_silence_sec(12);
  run.mutable_members(3)->set_waits(true);
  run.mutable_members(3)->set_phase_sec(4);
  return run;
}

TEST(TopTextTest, HasHeadSplitAndTheWorstMembersFirst) {
  const std::string text = TopText(TrainingRun(), 200, 100);
  EXPECT_THAT(text, AllOf(HasSubstr("runs/a  training  50/100 steps  50%\n[#####"),
                          HasSubstr("a step takes 0.500 s  waiting for values 75%  forward 25%"),
                          HasSubstr("workers: 12 training"), Not(HasSubstr("newest events"))));
  const size_t silent = text.find("worker-7 "), waiting = text.find("worker-3 "),
               first = text.find("worker-0 "), second = text.find("worker-2 "),
               tenth = text.find("worker-10 ");
  EXPECT_LT(silent, waiting);
  EXPECT_LT(waiting, first);
  EXPECT_LT(first, second);
  EXPECT_LT(second, tenth) << "by number, not by letters";
}

// Which step it is and who does what matter most.
TEST(TopTextTest, Narrow_LeavesOutColumns_AndBreaksLines) {
  const std::string whole = TopText(TrainingRun(), 120, 100),
                    half = TopText(TrainingRun(), 60, 100),
                    narrow = TopText(TrainingRun(), 40, 100);
  EXPECT_THAT(whole, AllOf(HasSubstr("units"), HasSubstr("samples/s"), HasSubstr("predicted")));
  EXPECT_THAT(half, AllOf(HasSubstr("doing"), HasSubstr("computing"), Not(HasSubstr("units"))));
  EXPECT_THAT(narrow, AllOf(HasSubstr("50/100 steps"), HasSubstr("forward 25%"),
                            HasSubstr("member     state     step")));
}

TEST(TopTextTest, Paused_SaysWhyAtOnce_TrainingOnlyOnceItWaits) {
  proto::RunStatus run = TrainingRun();
  run.set_waiting_for("step 50 waits for worker-7");
  run.add_waits()->set_who("the run");
  run.mutable_waits(0)->set_since_sec(0.5);
  EXPECT_THAT(TopText(run, 80, 100), Not(HasSubstr("waits for worker-7")));
  run.mutable_waits(0)->set_since_sec(5);
  EXPECT_THAT(TopText(run, 80, 100), HasSubstr("\nstep 50 waits for worker-7, for 5.0s\n"));
  run.set_phase("paused");
  run.set_waiting_for("paused before step 50: 2 workers, at least 3 are needed");
  run.mutable_waits(0)->set_since_sec(0.5);
  EXPECT_THAT(TopText(run, 80, 100),
              HasSubstr("\npaused before step 50: 2 workers, at least 3 are needed\n"));
  EXPECT_THAT(TopText(run, 40, 100), HasSubstr("workers, at\n  least 3 are needed\n"))
      << "broken, not cut";
}

TEST(TopTextTest, SaysWhatHappened_WhereThereIsRoom) {
  proto::RunStatus run = TrainingRun();
  run.add_events(
      R"({"time":"2026-01-02T03:04:05.678Z","event":"lost","text":"worker-7 is lost: killed"})");
  run.add_events(
      R"({"time":"2026-01-02T03:04:06.678Z","event":"checkpoint","text":"checkpoint 40"})");
  EXPECT_THAT(TopText(run, 80, 100),
              AllOf(HasSubstr("\n\nnewest events (UTC)\n03:04:05  worker-7 is lost: killed\n"),
                    Not(HasSubstr("checkpoint 40"))));
  EXPECT_THAT(TopText(run, 80, 18), Not(HasSubstr("newest events")));
}

TEST(TopTextTest, FitsTheScreen_AndSaysWhatDoesNot) {
  proto::RunStatus run = TrainingRun();
  run.set_members_left_out(5);
  const std::string text = TopText(run, 40, 10);
  EXPECT_THAT(text, AllOf(HasSubstr("50/100 steps"), HasSubstr("worker-7 "), Not(HasSubstr("[#"))))
      << "a low screen is for members";
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  EXPECT_EQ(lines.size(), 11u);  // and the empty one behind the last newline
  for (const std::string& line : lines) EXPECT_LE(line.size(), 40u);
  EXPECT_THAT(text, HasSubstr("\nand "));
  EXPECT_THAT(text, HasSubstr(" more\n"));
}

TEST(TopCommandTest, DrawsUntilTheRunIsOver_OrEnoughIsDrawn) {
  FakeRun fake;
  fake.run() = TrainingRun();
  std::ostringstream out;
  TopCommand command;
  command.target = fake.address();
  EXPECT_EQ(RunTopCommand(command, out), absl::OkStatus());
  EXPECT_THAT(out.str(), AllOf(HasSubstr("50/100"), HasSubstr("51/100"), HasSubstr("52/100"),
                               HasSubstr("over")));
  out.str("");
  command.frames = 1;
  EXPECT_EQ(RunTopCommand(command, out), absl::OkStatus());
  EXPECT_THAT(out.str(), AllOf(HasSubstr("50/100"), Not(HasSubstr("51/100"))));
}

TEST(TopCommandTest, OfARunThatIsOver_SaysWhereToLook) {
  TempFolder folder;
  WriteAll(folder / "coordinator.address", absl::StrCat("unix:", folder / "nobody", "\n"));
  WriteAll(folder / "lock", "");
  std::ostringstream out;
  TopCommand command;
  command.target = folder.path();
  const absl::Status status = RunTopCommand(command, out);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr(absl::StrCat("sdp status ", folder.path())));
}

}  // namespace
}  // namespace sdp
