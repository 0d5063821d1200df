// Processes with --supervised, which something starts again whenever they end: here this test.
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/end_to_end/train_fixture.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

class SupervisedRunTest : public TrainFixture {
 protected:
  // Words of the scripts below: start ROLE NAME; ends NAME prints how it ended; lines N waits for
  // lines of metrics.jsonl. Every worker holds everything, so that one alone can go on.
  std::string Words() const {
    return absl::StrCat(
        "declare -A pid; lines() { for i in $(seq 800); do [ $(cat run/metrics.jsonl 2> /dev/null "
        "| wc -l) -ge $1 ] && return; sleep 0.1; done; echo no $1 lines; }; "
        "start() { case $1 in coordinator) more=\"--listen unix:$PWD/coordinator\";; "
        "*) more=\"--coordinator unix:$PWD/coordinator --listen unix:$PWD/$2 --grace 60\";; esac; ",
        BinFolder().string(),
        "/sdp-$1 --config run.toml --supervised --name $2 $more --set run.dir=run --set "
        "train.steps=800 --set train.eval_every=0 --set cluster.workers=2 --set "
        "sdp.coverage=1 --set checkpoint.every=50 & pid[$2]=$!; }; "
        "ends() { wait ${pid[$1]}; echo $1 ended with $?; }; ");
  }
  Outcome Bash(const std::string& script) const {
    std::ofstream(folder_ / "script") << Words() << script;
    return Shell("bash script");
  }
};

TEST_F(SupervisedRunTest, SignalsEndProcesses_TheRunEndsWhenItIsDone) {
  const std::string sdp = Program("sdp");
  const Outcome outcome = Bash(absl::StrCat(
      "start coordinator c; start shard shard-0; start shard shard-1; start worker w-a; start "
      "worker w-b; lines 10; ",
      // A coordinator that is asked to end leaves the run as it is.
      "kill -TERM ${pid[c]}; ends c; start coordinator c; lines 30; ",
      // A worker that leaves has not done the work, whoever wanted it to.
      "kill -TERM ${pid[w-a]}; ends w-a; start worker w-a; lines 50; ", sdp,
      " drain unix:$PWD/coordinator w-b; ends w-b; start worker w-b; lines 70; ",
      // A shard comes back into the next generation.
      "kill -TERM ${pid[shard-1]}; ends shard-1; start shard shard-1; ",
      "ends w-a; ends w-b; ends shard-0; ends shard-1; echo THE END; ",
      // The status is still there, and whoever is started again finds that nothing is left to do.
      sdp, " status unix:$PWD/coordinator; start worker w-c; ends w-c; ",
      "start shard shard-0; for i in $(seq 100); do ", sdp,
      " probe --ready unix:$PWD/shard-0 && break; sleep 0.1; done; ",
      "kill -TERM ${pid[shard-0]}; ends shard-0; kill -TERM ${pid[c]}; ends c; ",
      // Neither is the coordinator's end that of a finished run's status.
      "start coordinator c; for i in $(seq 100); do ", sdp,
      " status unix:$PWD/coordinator > again && break; sleep 0.1; done; cat again; ",
      "kill -TERM ${pid[c]}; ends c; "));
  const size_t end = outcome.output.find("THE END");
  ASSERT_NE(end, std::string::npos) << outcome.output;
  const std::string during = outcome.output.substr(0, end), after = outcome.output.substr(end);
  for (const char* line :
       {"c ended with 130", "w-a ended with 130", "w-b ended with 130", "shard-1 ended with 0",
        "w-a ended with 0", "w-b ended with 0", "shard-0 ended with 0"}) {
    EXPECT_THAT(during, HasSubstr(line));
  }
  for (const char* line : {"w-c ended with 0", "shard-0 is ready", "shard-0 ended with 130",
                           "c ended with 0", "finished"}) {
    EXPECT_THAT(after, HasSubstr(line));
  }
  EXPECT_EQ(Metrics("run").back().value("step", 0), 800) << outcome.output;
  EXPECT_NE(StateHash("run"), "") << outcome.output;
  const Outcome audit = Shell(absl::StrCat(sdp, " audit run"));
  EXPECT_EQ(audit.exit_status, 0) << audit.output;
}

// As deploy/README.md says: the run folder while the coordinator is away, and what was done after
// that is done again, by members that know nothing of it.
TEST_F(SupervisedRunTest, ABackupTakesThePlaceOfALostRun_ItGoesOn) {
  const Outcome outcome = Bash(absl::StrCat(
      "all() { start coordinator c; for i in 0 1; do start shard shard-$i; done; "
      "start worker w-a; start worker w-b; }; all; lines 60; ",
      "kill -TERM ${pid[c]}; ends c; cp -r run backup; start coordinator c; lines 120; ",
      "kill -KILL ${pid[@]}; wait; ",
      "[ $(wc -l < backup/metrics.jsonl) -lt $(wc -l < run/metrics.jsonl) ] && echo steps are "
      "lost; ",
      "rm -rf run; mv backup run; all; ends w-a; ends w-b; kill -TERM ${pid[c]}; ends c; "));
  EXPECT_THAT(outcome.output, HasSubstr("steps are lost"));
  EXPECT_THAT(outcome.output, HasSubstr("w-a ended with 0")) << outcome.output;
  EXPECT_EQ(Metrics("run").back().value("step", 0), 800) << outcome.output;
  EXPECT_NE(StateHash("run"), "") << outcome.output;
  const Outcome audit = Shell(absl::StrCat(Program("sdp"), " audit run"));
  EXPECT_EQ(audit.exit_status, 0) << audit.output << outcome.output;
}

TEST_F(SupervisedRunTest, Resume_IsForPeople) {
  const Outcome outcome = Shell(
      absl::StrCat(Program("sdp-coordinator"), " --config run.toml --supervised --resume latest"));
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("--supervised takes up the run as --recover"));
}

}  // namespace
}  // namespace sdp
