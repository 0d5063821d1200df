#include "deploy/cluster/process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "tests/cluster_process/temp_folder.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

absl::Time Soon() { return absl::Now() + absl::Seconds(30); }

class ProcessTest : public ::testing::Test {
 protected:
  Process::Options Shell(const std::string& script) {
    return {.name = "child",
            .program = "/bin/sh",
            .args = {"-c", script},
            .stdout_path = folder_ / "out",
            .stderr_path = folder_ / "err"};
  }
  std::unique_ptr<Process> Start(const Process::Options& options) {
    auto process = Process::Start(options);
    EXPECT_TRUE(process.ok()) << process.status();
    return *std::move(process);
  }
  std::string Output() { return ReadAll(folder_ / "out"); }

  TempFolder folder_;
};

TEST_F(ProcessTest, Start_NoSuchProgram_NotFoundNamesIt) {
  const auto process = Process::Start({.name = "a", .program = folder_ / "nothing"});
  EXPECT_EQ(process.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(process.status().message(), HasSubstr(folder_ / "nothing"));
}

TEST_F(ProcessTest, Start_NotExecutable_PermissionDenied) {
  WriteAll(folder_ / "text", "no program");
  const auto process = Process::Start({.name = "a", .program = folder_ / "text"});
  EXPECT_EQ(process.status().code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(ProcessTest, Start_OutputCannotBeWritten_NotFoundNamesIt) {
  Process::Options options = Shell("true");
  options.stderr_path = folder_ / "missing/err";
  const auto process = Process::Start(options);
  EXPECT_EQ(process.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(process.status().message(), HasSubstr("missing/err"));
}

TEST_F(ProcessTest, WaitUntil_StillRuns_NulloptAtTheDeadline) {
  const auto process = Start(Shell("exec sleep 60"));
  EXPECT_EQ(process->WaitUntil(absl::Now() + absl::Milliseconds(20)), std::nullopt);
}

TEST_F(ProcessTest, WaitUntil_Exits_GivesTheStatusAgainAndAgain) {
  const auto process = Start(Shell("exit 3"));
  EXPECT_EQ(process->WaitUntil(Soon()), ExitStatus{.code = 3});
  EXPECT_EQ(process->WaitUntil(Soon()), ExitStatus{.code = 3});
  EXPECT_EQ(process->Ended(), ExitStatus{.code = 3});
  process->Signal(SIGKILL);  // To nobody.
}

TEST_F(ProcessTest, Signal_Kills_IsNamed) {
  const auto process = Start(Shell("exec sleep 60"));
  process->Signal(SIGTERM);
  const auto status = process->WaitUntil(Soon());
  ASSERT_EQ(status, ExitStatus{.signal = SIGTERM});
  EXPECT_EQ(Describe(*status), "signal 15 (Terminated)");
  EXPECT_EQ(Describe(ExitStatus{.code = 3}), "exit status 3");
}

TEST_F(ProcessTest, Child_IgnoresInterrupts) {
  const auto process = Start(Shell("kill -INT $$; exit 4"));
  EXPECT_EQ(process->WaitUntil(Soon()), ExitStatus{.code = 4});
}

TEST_F(ProcessTest, Child_OurSignalsAreBlocked_ItsAreNot) {
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &term, nullptr);
  const auto process = Start(Shell("kill -TERM $$; exit 4"));
  EXPECT_EQ(process->WaitUntil(Soon()), ExitStatus{.signal = SIGTERM});
  pthread_sigmask(SIG_UNBLOCK, &term, nullptr);
}

TEST_F(ProcessTest, Child_StaysInOurProcessGroup) {
  const auto process = Start(Shell("cat /proc/self/stat"));
  ASSERT_EQ(process->WaitUntil(Soon()), ExitStatus{});
  const std::vector<std::string> fields = absl::StrSplit(Output(), ' ');
  ASSERT_GT(fields.size(), 4u);
  EXPECT_EQ(fields[4], absl::StrCat(getpgrp()));
}

TEST_F(ProcessTest, Child_HasNoFileOfOurs) {
  const int leaked = open("/dev/null", O_RDONLY);  // As a library may, without O_CLOEXEC.
  const auto process = Start(Shell("ls /proc/self/fd"));
  ASSERT_EQ(process->WaitUntil(Soon()), ExitStatus{});
  EXPECT_EQ(Output(), "0\n1\n2\n3\n");  // 3 is the folder that ls reads.
  close(leaked);
}

TEST_F(ProcessTest, Child_ReadsNothing) {
  const auto process = Start(Shell("cat; echo end"));
  ASSERT_EQ(process->WaitUntil(Soon()), ExitStatus{});
  EXPECT_EQ(Output(), "end\n");
}

TEST_F(ProcessTest, Output_IsAppended) {
  WriteAll(folder_ / "out", "before\n");
  const auto process = Start(Shell("echo after"));
  ASSERT_EQ(process->WaitUntil(Soon()), ExitStatus{});
  EXPECT_EQ(Output(), "before\nafter\n");
}

TEST_F(ProcessTest, Destructor_EndsTheChild) {
  auto process = Start(Shell("exec sleep 60"));
  const pid_t pid = process->pid();
  process.reset();
  EXPECT_EQ(kill(pid, 0), -1);
}

TEST_F(ProcessTest, EndAll_OneIgnoresSigterm_IsKilledAndNamed) {
  std::vector<std::unique_ptr<Process>> processes;
  Process::Options stubborn = Shell("trap '' TERM; echo ready; while :; do sleep 0.01; done");
  stubborn.name = "stubborn";
  processes.push_back(Start(Shell("exec sleep 60")));
  processes.push_back(Start(stubborn));
  // It must have set its trap. Bounded by the test's timeout.
  while (Output().empty()) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_THAT(EndAll(processes, absl::Milliseconds(100)), ::testing::ElementsAre("stubborn"));
  EXPECT_EQ(processes[0]->Ended(), ExitStatus{.signal = SIGTERM});
  EXPECT_EQ(processes[1]->Ended(), ExitStatus{.signal = SIGKILL});
}

TEST_F(ProcessTest, EndAll_OneWantsToFinish_IsAskedTwice) {
  std::vector<std::unique_ptr<Process>> processes;
  processes.push_back(
      Start(Shell("trap 'if [ -n \"$asked\" ]; then exit 6; fi; asked=1' TERM; echo ready; while "
                  ":; do sleep 0.01; done")));
  while (Output().empty()) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_THAT(EndAll(processes, absl::Seconds(5)), ::testing::IsEmpty());
  EXPECT_EQ(processes[0]->Ended(), ExitStatus{.code = 6});
}

}  // namespace
}  // namespace sdp
