#include "deploy/cluster/local_cluster.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "tests/cluster_process/temp_folder.h"
#include "tests/places/places.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

// A cluster of fake_role.cc processes: one shard, two workers, and a script that says what each
// does.
class LocalClusterTest : public ::testing::Test {
 protected:
  LocalClusterTest() {
    fs::create_directory(folder_ / "bin");
    for (const char* role : {"sdp-coordinator", "sdp-shard", "sdp-worker"}) {
      fs::create_symlink(TestBinFolder() / "fake_role", folder_ / "bin/" + role);
    }
    options_.program_dir = folder_ / "bin";
    options_.config_path = folder_ / "run.toml";
    options_.run_dir = folder_ / "run";
    options_.workers = 2;
    options_.messages = &messages_;
    options_.settle_timeout = absl::Milliseconds(50);
    options_.goes_on_without = [](const std::string&, const std::string&, bool) { return false; };
    options_.request_stop = [](const std::string&, const std::string&) {
      ADD_FAILURE() << "asked to stop";
      return absl::OkStatus();
    };
  }
  ~LocalClusterTest() override {
    // Whatever happened: nothing is left behind.
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
    for (const auto& entry : fs::directory_iterator(folder_.path())) {
      EXPECT_THAT(entry.path().string(), Not(HasSubstr("starting")));
    }
  }

  // `lines`: "NAME: COMMAND". The coordinator first starts well.
  absl::Status Run(const std::vector<std::string>& lines) {
    WriteScript(lines);
    return RunLocalCluster(options_, signals_);
  }
  void WriteScript(const std::vector<std::string>& lines) {
    std::string script = start_;
    for (const std::string& line : lines) absl::StrAppend(&script, "#! ", line, "\n");
    WriteAll(options_.config_path, script);
  }
  std::string Fifo(const std::string& name) {
    EXPECT_EQ(mkfifo((folder_ / name).c_str(), 0600), 0);
    return folder_ / name;
  }
  static void Tell(const std::string& fifo) { close(open(fifo.c_str(), O_WRONLY)); }
  static void Await(const std::string& fifo) { close(open(fifo.c_str(), O_RDONLY)); }

  TempFolder folder_;
  std::string start_ = absl::StrCat("#! coordinator: folder ", folder_ / "run",
                                    "\n#! coordinator: address 127.0.0.1:4711\n");
  std::ostringstream messages_;
  LocalClusterOptions options_;
  StopSignals signals_;
};

// ---- Start
// ----------------------------------------------------------------------------------------------------------

TEST_F(LocalClusterTest, Start_CoordinatorRefuses_ItsMessageAsItIs) {
  start_ = "";
  const absl::Status status =
      Run({"coordinator: err run.dir = \"run\": the folder exists", "coordinator: exit 1"});
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(status.message(), "run.dir = \"run\": the folder exists");
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(LocalClusterTest, Start_CoordinatorCrashes_SaysHow) {
  start_ = "";
  const absl::Status status = Run({"coordinator: err half a sentence", "coordinator: raise 9"});
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("signal 9"), HasSubstr("half a sentence")));
}

TEST_F(LocalClusterTest, Start_CoordinatorEndsInSilence_SaysSo) {
  start_ = "";
  const absl::Status status = Run({"coordinator: exit 0"});
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("exit status 0"), HasSubstr("it logged nothing")));
}

TEST_F(LocalClusterTest, Start_NoAddress_EndsAtTheDeadline) {
  start_ = "";
  options_.start_timeout = absl::Milliseconds(100);
  const absl::Status status = Run({"coordinator: err thinking", "coordinator: pause"});
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("100ms"), HasSubstr("thinking")));
}

TEST_F(LocalClusterTest, Start_Interrupted_EndsAtOnce) {
  start_ = "";
  const absl::Status status = Run({"coordinator: interrupt-parent", "coordinator: pause"});
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
}

TEST_F(LocalClusterTest, Start_ProgramMissing_NamesItAndStartsNothing) {
  fs::remove(folder_ / "bin/sdp-worker");
  const absl::Status status = Run({});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("bin/sdp-worker"));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(LocalClusterTest, Start_MemberCannotBeExecuted_EndsTheOthers) {
  fs::remove(folder_ / "bin/sdp-worker");
  WriteAll(folder_ / "bin/sdp-worker", "not a program");
  fs::permissions(folder_ / "bin/sdp-worker", fs::perms::owner_all);
  const absl::Status status = Run({"coordinator: pause", "shard-0: pause"});
  EXPECT_THAT(std::string(status.message()), HasSubstr("bin/sdp-worker"));
  EXPECT_THAT(messages_.str(), HasSubstr("ended coordinator, shard-0"));
}

TEST_F(LocalClusterTest, Start_EveryRoleGetsWhatItNeeds) {
  options_.sets = {"train.lr=1", "run.dir=a b"};
  options_.coordinator_args = {"--init", "weights.safetensors"};
  ASSERT_EQ(Run({"coordinator: args " + folder_ / "c", "shard-0: args " + folder_ / "s",
                 "worker-1: args " + folder_ / "w"}),
            absl::OkStatus());
  const std::string common = absl::StrCat("--config\n", options_.config_path, "\n--name\n");
  const std::string sets = "--die-with-parent\n--set\ntrain.lr=1\n--set\nrun.dir=a b\n";
  EXPECT_THAT(ReadAll(folder_ / "c"),
              ::testing::AllOf(
                  ::testing::StartsWith(absl::StrCat(common, "coordinator\n", sets,
                                                     "--listen\n127.0.0.1:0\n--address-file\n")),
                  ::testing::EndsWith("\n--init\nweights.safetensors\n")));
  EXPECT_EQ(ReadAll(folder_ / "s"),
            absl::StrCat(common, "shard-0\n", sets, "--coordinator\n127.0.0.1:4711\n",
                         "--listen\n127.0.0.1:0\n"));
  EXPECT_EQ(ReadAll(folder_ / "w"),
            absl::StrCat(common, "worker-1\n", sets, "--coordinator\n127.0.0.1:4711\n",
                         "--listen\n127.0.0.1:0\n"));
}

TEST_F(LocalClusterTest, Start_UnixSockets_EachRoleHasItsOwn) {
  options_.socket_dir = folder_.path();
  ASSERT_EQ(Run({"coordinator: args " + folder_ / "c", "shard-0: args " + folder_ / "s"}),
            absl::OkStatus());
  EXPECT_THAT(ReadAll(folder_ / "c"),
              HasSubstr(absl::StrCat("--listen\nunix:", folder_ / "coordinator\n")));
  EXPECT_THAT(ReadAll(folder_ / "s"),
              HasSubstr(absl::StrCat("--listen\nunix:", folder_ / "shard-0\n")));
}

// ---- The end of a run
// -----------------------------------------------------------------------------------------------

TEST_F(LocalClusterTest, Run_AllFinish_IsOkAndKeepsLogsAndAddress) {
  EXPECT_EQ(Run({"coordinator: err one", "shard-0: out two", "shard-0: err three"}),
            absl::OkStatus());
  EXPECT_EQ(ReadAll(folder_ / "run/logs/coordinator.log"), "one\n");
  EXPECT_EQ(ReadAll(folder_ / "run/logs/shard-0.log"), "two\nthree\n");
  EXPECT_EQ(ReadAll(folder_ / "run/coordinator.address"), "127.0.0.1:4711\n");
}

TEST_F(LocalClusterTest, Run_MembersLeaveFirst_IsOk) {
  const std::string fifo = Fifo("fifo");
  EXPECT_EQ(Run({"coordinator: await " + fifo, "worker-0: tell " + fifo}), absl::OkStatus());
}

TEST_F(LocalClusterTest, Run_MemberStaysBehind_IsEndedAndNamed) {
  options_.leave_timeout = absl::Milliseconds(100);
  EXPECT_EQ(Run({"worker-1: pause"}), absl::OkStatus());
  EXPECT_THAT(messages_.str(), HasSubstr("ended worker-1"));
}

TEST_F(LocalClusterTest, Run_CoordinatorStaysBehind_IsAnError) {
  options_.finish_timeout = absl::Milliseconds(100);
  const absl::Status status = Run({"coordinator: pause"});
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the coordinator still runs"));
}

// SIGTERM to one of them, by hand: a member that leaves in order while the run goes on.
TEST_F(LocalClusterTest, Run_MemberIsStopped_EndsTheRunNamingIt) {
  options_.stopped_timeout = absl::Milliseconds(100);
  const absl::Status status = Run({"coordinator: pause", "shard-0: pause", "worker-0: pause",
                                   "worker-1: err ended by SIGTERM", "worker-1: exit 130"});
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("worker-1 was ended"), HasSubstr("ended by SIGTERM")));
}

// SIGTERM to the whole group: every member leaves, and the coordinator would wait for them.
TEST_F(LocalClusterTest, Interrupt_OfTheWholeGroup_IsCancelled) {
  options_.stopped_timeout = absl::Milliseconds(100);
  const std::string stop = Fifo("stop");
  options_.request_stop = [&](const std::string&, const std::string&) { return absl::OkStatus(); };
  const absl::Status status =
      Run({"coordinator: interrupt-parent", "coordinator: pause", "shard-0: exit 130",
           "worker-0: exit 130", "worker-1: exit 130"});
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

TEST_F(LocalClusterTest, Run_CoordinatorFails_ItsLastLinesAndNobodyLeft) {
  const std::string fifo = Fifo("fifo");
  const absl::Status status = Run({"shard-0: pause", "worker-0: pause", "worker-1: tell " + fifo,
                                   "worker-1: pause", "coordinator: await " + fifo,
                                   "coordinator: err worker-1 is lost", "coordinator: exit 1"});
  EXPECT_EQ(
      status.message(),
      absl::StrCat("coordinator ended before the run was over: exit status 1; its last log lines (",
                   folder_ / "run/logs/coordinator.log", "):\n    worker-1 is lost"));
  EXPECT_THAT(messages_.str(), HasSubstr("ended shard-0, worker-0, worker-1"));
}

TEST_F(LocalClusterTest, Run_WorkerExits_NamedWithStatusAndLastLogLines) {
  const absl::Status status = Run({"coordinator: pause", "shard-0: pause", "worker-0: pause",
                                   "worker-1: err no such file: a.txt", "worker-1: exit 7"});
  EXPECT_EQ(
      status.message(),
      absl::StrCat("worker-1 ended before the run was over: exit status 7; its last log lines (",
                   folder_ / "run/logs/worker-1.log", "):\n    no such file: a.txt"));
  EXPECT_THAT(messages_.str(), HasSubstr("ended coordinator, shard-0, worker-0"));
}

TEST_F(LocalClusterTest, Run_ShardIsKilled_NamedWithSignal) {
  const absl::Status status =
      Run({"coordinator: pause", "worker-0: pause", "worker-1: pause", "shard-0: raise 9"});
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("shard-0 ended before the run was over: signal 9 (Killed)"),
                    HasSubstr("logged nothing")));
}

// The coordinator ends while it is asked about the shard; the next one does not listen yet.
TEST_F(LocalClusterTest, Run_ShardAndThenTheCoordinatorAreKilled_BothAreStartedAgain) {
  options_.leave_timeout = absl::Milliseconds(100);
  const std::string first = Fifo("first"), second = Fifo("second");
  int asked = 0;
  options_.goes_on_without = [&](const std::string&, const std::string& member,
                                 bool killed) -> absl::StatusOr<bool> {
    EXPECT_EQ(member, "shard-0");
    EXPECT_TRUE(killed);
    if (++asked == 4) {
      Tell(second);
      return true;
    }
    if (asked > 1) return absl::UnavailableError("it does not listen");
    // What they do when they are started again; the workers may not have read theirs yet.
    WriteAll(options_.config_path, absl::StrCat("#! coordinator: await ", second,
                                                "\n#! worker-0: pause\n#! worker-1: pause\n"));
    Tell(first);
    return absl::UnavailableError("it is gone");
  };
  EXPECT_EQ(Run({"coordinator: await " + first, "coordinator: raise 9", "shard-0: raise 9",
                 "worker-0: pause", "worker-1: pause"}),
            absl::OkStatus());
  EXPECT_EQ(asked, 4);
  EXPECT_THAT(messages_.str(),
              AllOf(HasSubstr("coordinator ended: signal 9 (Killed); it is started again"),
                    HasSubstr("shard-0 ended: signal 9 (Killed); it is started again")));
}

TEST_F(LocalClusterTest, Run_ShardIsKilled_AndTheCoordinatorIsNeverHeard_EndsByItsDeadline) {
  options_.start_timeout = absl::Seconds(1);  // Also of its start.
  options_.goes_on_without = [](const std::string&, const std::string&, bool) {
    return absl::UnavailableError("it does not listen");
  };
  options_.settle_timeout = absl::Milliseconds(1);
  const absl::Status status =
      Run({"coordinator: pause", "worker-0: pause", "worker-1: pause", "shard-0: raise 9"});
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("shard-0 ended before the run was over: signal 9 (Killed)"));
}

TEST_F(LocalClusterTest, Run_ShardIsKilled_AndTheCoordinatorRefusesToSay_IsAskedOnce) {
  int asked = 0;
  options_.goes_on_without = [&](const std::string&, const std::string&, bool) {
    ++asked;
    return absl::PermissionDeniedError("another run's token");
  };
  options_.settle_timeout = absl::Milliseconds(1);
  const absl::Status status =
      Run({"coordinator: pause", "worker-0: pause", "worker-1: pause", "shard-0: raise 9"});
  EXPECT_THAT(std::string(status.message()), HasSubstr("shard-0 ended before the run was over"));
  EXPECT_EQ(asked, 1);
}

TEST_F(LocalClusterTest, Run_WorkerEndsFirst_WhatTheCoordinatorKnowsIsShown) {
  options_.settle_timeout = absl::Seconds(30);
  const std::string fifo = Fifo("fifo");
  const absl::Status status = Run({"shard-0: pause", "worker-0: pause", "worker-1: hold " + fifo,
                                   "worker-1: exit 1", "coordinator: drain " + fifo,
                                   "coordinator: err step 3: loss is nan", "coordinator: exit 1"});
  // Whether the worker is shown too depends on whose end is seen first.
  EXPECT_THAT(std::string(status.message()), HasSubstr("step 3: loss is nan"));
}

TEST_F(LocalClusterTest, Run_ProcessIgnoresSigterm_IsKilled) {
  options_.end_timeout = absl::Milliseconds(100);
  const std::string fifo = Fifo("fifo");
  const absl::Status status =
      Run({"coordinator: pause", "worker-0: ignore-term", "worker-0: tell " + fifo,
           "worker-0: pause", "worker-1: await " + fifo, "worker-1: exit 7", "shard-0: pause"});
  EXPECT_THAT(std::string(status.message()), HasSubstr("worker-1"));
  EXPECT_THAT(messages_.str(), HasSubstr("with SIGKILL: worker-0"));
}

TEST_F(LocalClusterTest, Run_MemberFailsAfterTheEnd_IsOkButMentioned) {
  options_.settle_timeout = absl::Seconds(30);  // Its end may be seen before the coordinator's.
  const std::string fifo = Fifo("fifo");
  EXPECT_EQ(Run({"coordinator: hold " + fifo, "shard-0: drain " + fifo, "shard-0: exit 5"}),
            absl::OkStatus());
  EXPECT_THAT(messages_.str(), HasSubstr("shard-0 ended with exit status 5 when the run was over"));
}

// ---- Interrupted
// ----------------------------------------------------------------------------------------------------

TEST_F(LocalClusterTest, Interrupt_Once_StopsThroughTheCoordinator) {
  const std::string stop = Fifo("stop");
  std::string asked;
  options_.request_stop = [&](const std::string& address, const std::string& reason) {
    asked = absl::StrCat(address, " ", reason);
    Tell(stop);
    return absl::OkStatus();
  };
  const absl::Status status = Run({"worker-0: interrupt-parent", "worker-0: exit 130",
                                   "coordinator: await " + stop, "coordinator: exit 130"});
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(asked, "127.0.0.1:4711 interrupted");
  EXPECT_THAT(messages_.str(), HasSubstr("press Ctrl-C again"));
}

TEST_F(LocalClusterTest, Interrupt_Twice_EndsAtOnce) {
  options_.request_stop = [&](const std::string&, const std::string&) {
    kill(getpid(), SIGINT);  // The second one, while the coordinator does not get on.
    return absl::OkStatus();
  };
  const absl::Status status = Run({"worker-0: interrupt-parent", "worker-0: pause",
                                   "worker-1: pause", "shard-0: pause", "coordinator: pause"});
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(messages_.str(), AllOf(HasSubstr("interrupted again"),
                                     HasSubstr("ended coordinator, shard-0, worker-0, worker-1")));
}

TEST_F(LocalClusterTest, Interrupt_CoordinatorUnreachable_EndsAtOnce) {
  options_.request_stop = [&](const std::string&, const std::string&) {
    return absl::UnavailableError("connection refused");
  };
  const absl::Status status =
      Run({"worker-0: interrupt-parent", "worker-0: pause", "coordinator: pause"});
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(messages_.str(), HasSubstr("connection refused"));
}

TEST_F(LocalClusterTest, Interrupt_RunDoesNotStop_EndsAtTheDeadline) {
  options_.stop_timeout = absl::Milliseconds(100);
  options_.request_stop = [](const std::string&, const std::string&) { return absl::OkStatus(); };
  const absl::Status status =
      Run({"worker-0: interrupt-parent", "worker-0: pause", "coordinator: pause"});
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(messages_.str(), HasSubstr("not stopped after 100ms"));
}

TEST_F(LocalClusterTest, Interrupt_WorkerFailsMeanwhile_IsAFailure) {
  options_.request_stop = [](const std::string&, const std::string&) { return absl::OkStatus(); };
  const absl::Status status =
      Run({"worker-0: interrupt-parent", "worker-0: exit 7", "coordinator: pause"});
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
}

TEST_F(LocalClusterTest, Interrupt_WholeGroup_IsNoFailureOfWhoDiesOfIt) {
  options_.request_stop = [](const std::string&, const std::string&) { return absl::OkStatus(); };
  const absl::Status status =
      Run({"worker-0: interrupt-parent", "worker-0: raise 15", "coordinator: pause"});
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
}

TEST_F(LocalClusterTest, Stop_BySomeoneElse_IsCancelled) {
  EXPECT_EQ(Run({"coordinator: exit 130"}).code(), absl::StatusCode::kCancelled);
}

// ---- Killed
// ---------------------------------------------------------------------------------------------------------

TEST_F(LocalClusterTest, LauncherIsKilled_AllChildrenEnd) {
  const std::vector<std::string> fifos = {Fifo("f0"), Fifo("f1"), Fifo("f2"), Fifo("f3")};
  WriteScript({"coordinator: tell " + fifos[0], "coordinator: pause", "shard-0: tell " + fifos[1],
               "shard-0: pause", "worker-0: tell " + fifos[2], "worker-0: pause",
               "worker-1: tell " + fifos[3], "worker-1: pause"});
  prctl(PR_SET_CHILD_SUBREAPER, 1);  // Orphans become our children, so their end can be awaited.
  const pid_t launcher = fork();
  if (launcher == 0) {
    (void)RunLocalCluster(options_, signals_);
    _exit(1);
  }
  for (const std::string& fifo : fifos) Await(fifo);  // All run.
  kill(launcher, SIGKILL);
  for (int i = 0; i < 5; ++i) {
    int status = 0;
    ASSERT_GT(waitpid(-1, &status, 0), 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  }
  prctl(PR_SET_CHILD_SUBREAPER, 0);
  for (const auto& entry : fs::directory_iterator(folder_.path())) {
    if (entry.path().string().find("starting") != std::string::npos) fs::remove_all(entry.path());
  }
}

TEST(ThreadsPerWorkerTest, IsAtLeastOne) {
  EXPECT_GE(ThreadsPerWorker(1), 1);
  EXPECT_EQ(ThreadsPerWorker(1000000), 1);
}

}  // namespace
}  // namespace sdp
