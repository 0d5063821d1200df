// Shards and coordinators that are killed, and shards that leave, while a run trains.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/end_to_end/disturbed_run.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class LostServerRunTest : public DisturbedRun {
 protected:
  // Each step has one line, and the closing one the bits of the other run.
  void ExpectEachStepOnce(size_t steps, const std::string& undisturbed) const {
    const std::vector<Json> lines = Metrics("run");
    ASSERT_EQ(lines.size(), steps + 1);
    for (size_t step = 0; step < lines.size(); ++step) EXPECT_EQ(lines[step]["step"], step);
    EXPECT_EQ(lines.back()["generation"], 2);
    EXPECT_EQ(StateHash("run"), StateHash(undisturbed));
  }
};

// The work that is lost is bounded by the distance of checkpoints, and the bits are the same.
TEST_F(LostServerRunTest, KilledShard_IsStartedAgain_AndTheRunEndsWithTheSameBits) {
  const std::string steps = "--set train.steps=60 --set checkpoint.every=10";
  ASSERT_EQ(Train("undisturbed", steps).exit_status, 0);
  const Outcome outcome = During(absl::StrCat("lines 25; ", Kill("KILL", "shard-1")), steps);
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr("shard-1 ended: signal 9"), HasSubstr("it is started again")));
  EXPECT_THAT(outcome.output, HasSubstr("exit=0"));
  EXPECT_EQ(StateHash("run"), StateHash("undisturbed")) << outcome.output;
  // Each step's newest generation counts; the second one begins at a checkpoint.
  int64_t first_again = -1, reached = -1;
  for (const Json& line : Metrics("run")) {
    const auto step = line["step"].get<int64_t>();
    if (line["generation"] == 1) {
      reached = step;
    } else if (first_again < 0) {
      first_again = step;
      EXPECT_EQ(line["generation"], 2);
    }
  }
  EXPECT_EQ(first_again % 10, 0);
  EXPECT_GE(reached + 1, first_again);
  EXPECT_LE(reached + 1 - first_again, 10 + 2);  // two steps are in flight
}

// What it had stored is enough: no step is done again, none has two lines, and the bits are the
// same.
TEST_F(LostServerRunTest, KilledCoordinator_IsStartedAgain_AndNothingIsDoneTwice) {
  const std::string steps =
      "--set train.steps=60 --set train.eval_every=7 --set checkpoint.every=10";
  ASSERT_EQ(Train("undisturbed", steps).exit_status, 0);
  const Outcome outcome = During(absl::StrCat("lines 15; ", Kill("KILL", "coordinator"),
                                              "lines 35; ", Kill("KILL", "coordinator")),
                                 steps);
  EXPECT_THAT(outcome.output, HasSubstr("coordinator ended: signal 9"));
  EXPECT_THAT(outcome.output, HasSubstr("exit=0"));
  EXPECT_EQ(StateHash("run"), StateHash("undisturbed")) << outcome.output;
  const std::vector<Json> lines = Metrics("run"), undisturbed = Metrics("undisturbed");
  ASSERT_EQ(lines.size(), 61u);
  for (size_t step = 0; step < lines.size(); ++step) {
    EXPECT_EQ(lines[step]["step"], step);
    EXPECT_EQ(lines[step]["generation"], 1);
    EXPECT_EQ(lines[step].value("loss", 0.0), undisturbed[step].value("loss", 0.0));
    EXPECT_EQ(lines[step].value("full_loss", 0.0), undisturbed[step].value("full_loss", 0.0));
  }
}

TEST_F(LostServerRunTest, ACheckpointOnRequest_IsWhereTheRunGoesBackTo) {
  const Outcome outcome =
      During(absl::StrCat("lines 10; ", Program("sdp"), " checkpoint $run; echo asked=$?; ",
                          Kill("KILL", "shard-0")),
             "--set train.steps=80 --set checkpoint.every=0");
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("is complete"), HasSubstr("asked=0")));
  EXPECT_THAT(outcome.output, HasSubstr("exit=0"));
  int64_t first_again = -1;
  for (const Json& line : Metrics("run")) {
    if (line["generation"] == 2 && first_again < 0) first_again = line["step"].get<int64_t>();
  }
  EXPECT_GE(first_again, 9) << outcome.output;
}

TEST_F(LostServerRunTest, DrainedShard_LeavesWithACheckpoint_AndNoStepIsDoneTwice) {
  const std::string steps = "--set train.steps=200 --set checkpoint.every=0";
  ASSERT_EQ(Train("undisturbed", steps).exit_status, 0);
  const Outcome outcome = During(
      absl::StrCat("lines 10; ", Program("sdp"), " drain $run shard-1; echo drained=$?; "), steps);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("drained=0"),
                                    HasSubstr("shard-1 has left the run; it is started again"),
                                    HasSubstr("exit=0")));
  ExpectEachStepOnce(200, "undisturbed");
  const Outcome events = Shell(absl::StrCat("cat ", RunDir("run").string(), "/events.jsonl"));
  EXPECT_THAT(events.output, AllOf(HasSubstr("\"shard\":\"shard-1\""),
                                   HasSubstr("generation 1 is over: shard-1 has left")));
}

// By hand: it ends in order, and another process comes in its place.
TEST_F(LostServerRunTest, AShardThatGetsSigterm_LeavesWithinItsGrace) {
  const std::string steps = "--set train.steps=200 --set checkpoint.every=0";
  ASSERT_EQ(Train("undisturbed", steps).exit_status, 0);
  const std::string shard = Program("sdp-shard"), worker = Program("sdp-worker");
  const Outcome outcome = Shell(absl::StrCat(
      "bash -c 'run=", RunDir("run").string(), "; given=\"--config ", Config(),
      " --set run.dir=$run ", steps, "\"; ", Program("sdp-coordinator"), " $given & top=$!; ",
      "await() { for i in $(seq 600); do eval \"$1\" && break; sleep 0.05; done; }; ",
      "await \"test -s $run/coordinator.address\"; ",
      "given=\"$given --coordinator $(cat $run/coordinator.address)\"; ", shard,
      " $given --name shard-0 & ", shard, " $given --name shard-1 --grace 60 & leaver=$!; ",
      "for i in 0 1 2 3; do ", worker, " $given --name worker-$i & done; ",
      "await \"test \\$(cat $run/metrics.jsonl 2>/dev/null | wc -l) -ge 10\"; ",
      "kill -TERM $leaver; wait $leaver; echo left=$?; ", shard, " $given --name shard-1 & ",
      "wait $top; echo exit=$?; wait'"));
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("left=0"), HasSubstr("exit=0")));
  ExpectEachStepOnce(200, "undisturbed");
}

TEST_F(LostServerRunTest, AShardThatIsKilledAgainAndAgain_EndsTheRun) {
  const std::string kills = absl::StrCat(
      "lines 5; for k in 1 2 3 4; do ", Kill("KILL", "shard-0"),
      "for i in $(seq 600); do grep -q \"\\\"generation\\\":$((k + 1)),\" $run/metrics.jsonl && "
      "break; kill -0 $top 2>/dev/null || break; sleep 0.05; done; done; ");
  const Outcome outcome = During(kills, "--set train.steps=100000 --set checkpoint.every=20");
  EXPECT_THAT(outcome.output, HasSubstr("exit=1"));
  EXPECT_THAT(outcome.output, HasSubstr("shard-0 ended: signal 9"));
}

}  // namespace
}  // namespace sdp
