// Worker processes of unequal memory and speed.
#include <algorithm>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/end_to_end/disturbed_run.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class UnequalRunTest : public DisturbedRun {
 protected:
  std::string Join(int worker, const std::string& memory) const {
    return absl::StrCat(Program("sdp-worker"),
                        " --config $run/config.toml --coordinator $(cat $run/coordinator.address) "
                        "--name worker-",
                        worker, " --memory ", memory);
  }
  // The reasons of its events of a kind, a line each.
  std::string Reasons(const std::string& run, const std::string& kind) const {
    std::string reasons;
    std::ifstream file(RunDir(run) / "events.jsonl");
    for (std::string line; std::getline(file, line);) {
      const Json event = Json::parse(line);
      if (event["event"] == kind) absl::StrAppend(&reasons, event.value("reason", ""), "\n");
    }
    return reasons;
  }
};

// Most that the worker had at once, by its allocator, is no more than it may have.
TEST_F(UnequalRunTest, Memory_AJoinerWithLess_HoldsLess_AndOneWithTooLittleIsRefused) {
  const std::string sets =
      "--set sdp.coverage=0.5 --set data.validation=[] --set checkpoint.every=0";
  const Outcome plan =
      Shell(absl::StrCat(Program("sdp"), " plan ", Config(), " --json --workers 5 ", sets));
  ASSERT_EQ(plan.exit_status, 0) << plan.output;
  int64_t equal = 0;
  const Json planned = Json::parse(plan.output);
  for (const Json& worker : planned["workers"])
    equal = std::max(equal, worker["memory_bytes"].get<int64_t>());
  const int64_t less = equal * 9 / 10;
  const Outcome outcome =
      During(absl::StrCat("lines 5; ", Join(8, "1KiB"), "; echo refused=$?; ",
                          Join(9, absl::StrCat(less, "B")), " --grace 60 & workers 5; sleep 0.5; ",
                          Program("sdp"), " status $run --json > status.json; kill -INT $top; "),
             absl::StrCat(sets, " --set train.steps=1000000"));
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("worker-8 has 1024 bytes of memory"),
                                    HasSubstr("refused=1"), HasSubstr("exit=130")));
  EXPECT_THAT(Reasons("run", "replan"),
              HasSubstr("too little memory for an equal share of the units, so others hold more: "
                        "worker-9"));
  std::ifstream file(RunDir("status.json"));
  const Json status = Json::parse(file, nullptr, false);
  ASSERT_TRUE(status.is_object()) << outcome.output;
  int64_t largest = 0, small = 0;
  for (const Json& member : status["members"]) {
    if (member["role"] != "worker") continue;
    const int64_t peak = member["allocated_peak_bytes"].get<int64_t>();
    if (member["name"] == "worker-9") small = peak;
    largest = std::max(largest, peak);
  }
  EXPECT_GT(small, 0);
  EXPECT_LE(small, less);
  EXPECT_GT(largest, less);
}

// Five samples for each of four workers: twice the batch that lr is meant for.
TEST_F(UnequalRunTest, WorkerBatch_IsTheSameRunAsALargerBatchWithALargerRate) {
  const Outcome fixed = Train("fixed", "--set train.worker_batch=5");
  ASSERT_EQ(fixed.exit_status, 0) << fixed.output;
  const Outcome same =
      Train("same", "--set train.global_batch=20 --set train.lr=0.014142135623730951");
  ASSERT_EQ(same.exit_status, 0) << same.output;
  EXPECT_EQ(StateHash("fixed"), StateHash("same"));
  EXPECT_NE(StateHash("fixed"), "");
}

// It stands still most of the time, in turns that are longer than the others' steps.
TEST_F(UnequalRunTest, Portions_OfASlowWorkerAreSmaller_AndTheAuditAgrees) {
  const Outcome outcome = During(
      absl::StrCat("lines 2; slow=$(pgrep -P $top -f -- \"--name worker-3\"); "
                   "while ! grep -q \"worker-3 computes\" $run/events.jsonl; do kill -STOP $slow; "
                   "sleep 0.6; kill -CONT $slow; sleep 0.06; done; "
                   "kill -INT $top; "),
      "--set train.steps=1000000 --set train.global_batch=64 --set train.micro_batch=4 "
      "--set data.seq_len=31 --set model.dim=64 --set model.ffn_dim=128 "
      "--set cluster.portions=measured --set train.eval_every=0 --set checkpoint.every=0");
  EXPECT_THAT(outcome.output, HasSubstr("exit=130"));
  EXPECT_THAT(Reasons("run", "replan"), HasSubstr("of a step instead of 16"));
  const Outcome audit = Shell(absl::StrCat(Program("sdp"), " audit ", RunDir("run").string()));
  EXPECT_EQ(audit.exit_status, 0) << audit.output;
}

}  // namespace
}  // namespace sdp
