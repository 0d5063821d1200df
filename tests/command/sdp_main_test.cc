// The `sdp` program itself, with fakes (tests/cluster_process/fake_role.cc) beside it in place of
// the role programs.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "deploy/cluster/process.h"
#include "tests/cluster_process/temp_folder.h"
#include "tests/command/fake_coordinator.h"
#include "tests/places/places.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class SdpMainTest : public ::testing::Test {
 protected:
  SdpMainTest() {
    fs::create_directory(folder_ / "bin");
    fs::copy_file(BinFolder() / "sdp",
                  folder_ / "bin/sdp");  // A copy: it looks for the roles where it is.
    for (const char* role : {"sdp-coordinator", "sdp-shard", "sdp-worker"}) {
      fs::create_symlink(TestBinFolder() / "fake_role", folder_ / "bin/" + role);
    }
    WriteAll(folder_ / "text", std::string(100, 'a'));
  }

  std::unique_ptr<Process> Start(const std::vector<std::string>& args) {
    auto process = Process::Start({.name = "sdp",
                                   .program = folder_ / "bin/sdp",
                                   .args = args,
                                   .stdout_path = folder_ / "out",
                                   .stderr_path = folder_ / "err"});
    EXPECT_TRUE(process.ok()) << process.status();
    return *std::move(process);
  }
  static ExitStatus End(Process& process) {
    return process.WaitUntil(absl::Now() + absl::Seconds(50)).value_or(ExitStatus{.code = -1});
  }
  int Run(const std::vector<std::string>& args) {
    const ExitStatus status = End(*Start(args));
    EXPECT_EQ(status.signal, 0);
    return status.code;
  }
  std::string Out() { return ReadAll(folder_ / "out"); }
  std::string Err() { return ReadAll(folder_ / "err"); }

  // A config that is also a script for the fakes.
  std::string Config(const std::vector<std::string>& lines) {
    std::string text = absl::StrCat(
        "[model]\npreset = \"llama-tiny\"\n[data]\nkind = \"text\"\nseq_len = 8\ntrain = [\"",
        folder_ / "text", "\"]\nvalidation = [\"", folder_ / "text",
        "\"]\n[sdp]\ncoverage = 1.0\n[cluster]\nworkers = 2\nshards = 1\n[run]\ndir = \"",
        folder_ / "run", "\"\n");
    for (const std::string& line : lines) absl::StrAppend(&text, "#! ", line, "\n");
    WriteAll(folder_ / "run.toml", text);
    return folder_ / "run.toml";
  }
  std::string Starts(const std::string& address) {
    return absl::StrCat("coordinator: folder ", folder_ / "run", "\n#! coordinator: address ",
                        address);
  }
  std::string Fifo(const std::string& name) {
    EXPECT_EQ(mkfifo((folder_ / name).c_str(), 0600), 0);
    return folder_ / name;
  }

  TempFolder folder_;
};

// ---- Usage
// ----------------------------------------------------------------------------------------------------------

TEST_F(SdpMainTest, NoCommand_IsAUsageError) {
  EXPECT_EQ(Run({}), 2);
  EXPECT_THAT(Err(), StartsWith("sdp: "));
}

TEST_F(SdpMainTest, UnknownCommandOrOption_IsAUsageError) {
  EXPECT_EQ(Run({"trian", "run.toml"}), 2);
  EXPECT_EQ(Run({"train", "run.toml", "--resume"}),
            2);  // Not built yet, so there is no such option.
  EXPECT_EQ(Run({"train"}), 2);
}

TEST_F(SdpMainTest, Help_NamesCommandsAndAnExample) {
  EXPECT_EQ(Run({"--help"}), 0);
  EXPECT_THAT(Out(), AllOf(HasSubstr("train"), HasSubstr("plan"), HasSubstr("status"),
                           HasSubstr("Example: ")));
}

TEST_F(SdpMainTest, Version_IsPrinted) {
  EXPECT_EQ(Run({"--version"}), 0);
  EXPECT_THAT(Out(), StartsWith("sdp "));
}

// ---- Refused before a process starts
// ----------------------------------------------------------------------------------

TEST_F(SdpMainTest, Train_NoConfig_OneLineAndStatus2) {
  EXPECT_EQ(Run({"train", folder_ / "none.toml"}), 2);
  EXPECT_THAT(Err(), AllOf(StartsWith("sdp: "), HasSubstr("none.toml")));
}

TEST_F(SdpMainTest, Train_BadKey_StartsNothing) {
  EXPECT_EQ(Run({"train", Config({}), "--set", "train.stesp=3"}), 2);
  EXPECT_THAT(Err(), HasSubstr("steps"));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(SdpMainTest, Train_ImpossiblePlan_StartsNothing) {
  EXPECT_EQ(Run({"train", Config({}), "--set", "sdp.coverage=0.1"}), 2);
  EXPECT_THAT(Err(), HasSubstr("coverage"));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(SdpMainTest, Train_MissingData_StartsNothing) {
  EXPECT_EQ(
      Run({"train", Config({}), "--set", absl::StrCat("data.train=[\"", folder_ / "none", "\"]")}),
      2);
  EXPECT_THAT(Err(), AllOf(HasSubstr("data.train (--set)"), HasSubstr("none")));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(SdpMainTest, Train_MissingInit_StartsNothing) {
  EXPECT_EQ(Run({"train", Config({}), "--init", folder_ / "none"}), 2);
  EXPECT_THAT(Err(), HasSubstr("--init"));
}

// ---- Runs
// -----------------------------------------------------------------------------------------------------------

TEST_F(SdpMainTest, Train_CoordinatorRefuses_ItsMessageAndStatus1) {
  EXPECT_EQ(Run({"train", Config({"coordinator: err run folder runs/a holds a run",
                                  "coordinator: exit 1"})}),
            1);
  EXPECT_EQ(Err(), "sdp: run folder runs/a holds a run\n");
}

TEST_F(SdpMainTest, Train_WorkerDies_NamedAndStatus1) {
  EXPECT_EQ(
      Run({"train", Config({Starts("127.0.0.1:1"), "coordinator: pause", "shard-0: pause",
                            "worker-0: pause", "worker-1: err out of luck", "worker-1: exit 3"})}),
      1);
  EXPECT_THAT(Err(), AllOf(HasSubstr("worker-1 ended before the run was over: exit status 3"),
                           HasSubstr("out of luck")));
}

TEST_F(SdpMainTest, Train_Finishes_StepLinesComparisonAndNextCommands) {
  EXPECT_EQ(Run({"train", Config({Starts("127.0.0.1:1"), "coordinator: out step 1/1  loss 2.5",
                                  "coordinator: write " + folder_ / "run/metrics.jsonl" +
                                      " {\"full_loss\": 2.25}",
                                  "worker-0: args " + folder_ / "worker"})}),
            0)
      << Err();
  EXPECT_THAT(
      Out(),
      AllOf(
          StartsWith("step 1/1  loss 2.5\nvalidation: unigram 0.0000  bigram 0.0000  model 2.2500"),
          HasSubstr("bin/sdp plan ")));
  EXPECT_THAT(ReadAll(folder_ / "worker"), HasSubstr("--set\nworker.threads="));
}

TEST_F(SdpMainTest, Train_ThreadsAreConfigured_AreKept) {
  EXPECT_EQ(Run({"train", Config({Starts("127.0.0.1:1"), "worker-0: args " + folder_ / "worker"}),
                 "--set", "worker.threads=3"}),
            0)
      << Err();
  EXPECT_THAT(ReadAll(folder_ / "worker"), HasSubstr("--set\nworker.threads=3\n--coordinator"));
}

TEST_F(SdpMainTest, Train_UnixSockets_AreGoneAfterwards) {
  EXPECT_EQ(Run({"train", "--unix-sockets",
                 Config({Starts("unix:/a"), "coordinator: args " + folder_ / "args"})}),
            0)
      << Err();
  const std::string args = ReadAll(folder_ / "args");
  const size_t begin = args.find("unix:") + 5;
  const std::string socket = args.substr(begin, args.find('\n', begin) - begin);
  EXPECT_THAT(socket, StartsWith("/tmp/sdp-"));
  EXPECT_FALSE(fs::exists(fs::path(socket).parent_path()));
}

TEST_F(SdpMainTest, Train_Interrupted_AsksTheCoordinatorAndExits130) {
  FakeRun run;
  const std::string stop = Fifo("stop");
  const std::string up = Fifo("up");
  std::string reason;
  run.OnStop([&](const std::string& why) {
    reason = why;
    close(open(stop.c_str(), O_WRONLY));
  });
  const auto sdp = Start(
      {"train", Config({Starts(run.address()), "coordinator: await " + stop,
                        "coordinator: exit 130", "worker-0: tell " + up, "worker-0: exit 130"})});
  close(open(up.c_str(), O_RDONLY));
  sdp->Signal(SIGTERM);  // As Ctrl-C; SIGINT is ignored by what Process starts.
  EXPECT_EQ(End(*sdp), ExitStatus{.code = 130}) << Err();
  EXPECT_EQ(reason, "interrupted");
  EXPECT_THAT(Err(), HasSubstr("press Ctrl-C again"));
}

TEST_F(SdpMainTest, Train_InterruptedButCoordinatorUnreachable_EndsAllAndExits130) {
  const std::string up = Fifo("up");
  const auto sdp =
      Start({"train", Config({Starts(absl::StrCat("unix:", folder_ / "nobody")),
                              "coordinator: pause", "worker-0: tell " + up, "worker-0: pause"})});
  close(open(up.c_str(), O_RDONLY));
  sdp->Signal(SIGTERM);
  EXPECT_EQ(End(*sdp), ExitStatus{.code = 130});
  EXPECT_THAT(Err(), HasSubstr("could not ask the coordinator to stop"));
}

TEST_F(SdpMainTest, Train_PrintConfig_StartsNothing) {
  EXPECT_EQ(Run({"train", Config({}), "--print-config", "--set", "train.steps=7"}), 0);
  EXPECT_THAT(Out(), HasSubstr("steps = 7"));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

// ---- Other commands
// -------------------------------------------------------------------------------------------------

TEST_F(SdpMainTest, Plan_PrintsTableOrJson) {
  EXPECT_EQ(Run({"plan", Config({}), "--workers", "4", "--json"}), 0) << Err();
  EXPECT_THAT(Out(), AllOf(StartsWith("{"), HasSubstr("worker-3")));
}

TEST_F(SdpMainTest, Status_OfARunAndOfNothing) {
  FakeRun run;
  EXPECT_EQ(Run({"status", run.address(), "--json"}), 0) << Err();
  EXPECT_THAT(Out(), HasSubstr("\"running\": true"));
  EXPECT_EQ(Run({"status", folder_ / "none"}), 2);
  EXPECT_EQ(Run({"status", absl::StrCat("unix:", folder_ / "nobody")}), 1);
}

}  // namespace
}  // namespace sdp
