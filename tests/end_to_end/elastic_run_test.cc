// Worker processes that come and go while a run trains.
#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/end_to_end/disturbed_run.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

class ElasticRunTest : public DisturbedRun {
 protected:
  std::string Join(int worker) const {
    return absl::StrCat(Program("sdp-worker"),
                        " --config $run/config.toml --coordinator $(cat $run/coordinator.address) "
                        "--name worker-",
                        worker, " --grace 60 & joined=$!; ");
  }
  // Their kinds, in order; several of one kind in a row once, and who joins while others are ready.
  std::string Events(const std::string& run) const {
    std::vector<std::string> kinds;
    std::ifstream file(RunDir(run) / "events.jsonl");
    for (std::string line; std::getline(file, line);) {
      const std::string kind = Json::parse(line)["event"].get<std::string>();
      if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end() || kind == "replan")
        kinds.push_back(kind);
    }
    return absl::StrJoin(kinds, " ");
  }
  int Workers(size_t line) const { return Metrics("run").at(line)["workers"].get<int>(); }
};

TEST_F(ElasticRunTest, KilledWorker_TheRunGoesOnWithoutIt) {
  const Outcome outcome =
      During(absl::StrCat("lines 20; ", Kill("KILL", "worker-2")),
             "--set checkpoint.every=0 --set train.eval_every=0 --set train.steps=300");
  EXPECT_THAT(outcome.output, HasSubstr("worker-2 ended: signal 9"));
  EXPECT_THAT(outcome.output, HasSubstr("the run goes on without it"));
  EXPECT_THAT(outcome.output, HasSubstr("exit=0"));
  ASSERT_EQ(Metrics("run").size(), 301u) << outcome.output;
  EXPECT_EQ(Workers(0), 4);
  EXPECT_EQ(Workers(299), 3);
  EXPECT_EQ(Events("run"), "start join ready replan exclude replan checkpoint end");
  const Outcome audit = Shell(absl::StrCat(Program("sdp"), " audit ", RunDir("run").string()));
  EXPECT_EQ(audit.exit_status, 0) << audit.output;
  EXPECT_THAT(audit.output, HasSubstr("all samples were used as promised"));
  EXPECT_THAT(audit.output, HasSubstr("1 exclusions"));
}

TEST_F(ElasticRunTest, JoinsAndLeaves_ByHand) {
  const Outcome outcome =
      During(absl::StrCat("lines 5; ", Join(9),
                          "workers 5; kill -TERM $joined; wait $joined; "
                          "echo left=$?; workers 4; kill -INT $top; "),
             "--set checkpoint.every=0 --set train.eval_every=0 --set train.steps=1000000");
  EXPECT_THAT(outcome.output, HasSubstr("left=0"));
  EXPECT_THAT(outcome.output, HasSubstr("exit=130"));
  int most = 0;
  for (const Json& line : Metrics("run")) most = std::max(most, line.value("workers", 0));
  EXPECT_EQ(most, 5);
}

TEST_F(ElasticRunTest, Drain_EndsTheWorkersProcess_NotTheRun) {
  const Outcome outcome =
      During(absl::StrCat("lines 5; ", Program("sdp"), " drain $run worker-1; echo drained=$?; ",
                          "workers 3; ", Program("sdp"), " drain $run worker-7; "),
             "--set checkpoint.every=0 --set train.eval_every=0 --set train.steps=400");
  EXPECT_THAT(outcome.output, HasSubstr("drained=0"));
  EXPECT_THAT(outcome.output, HasSubstr("worker-1 has left the run; the run goes on without it"));
  EXPECT_THAT(outcome.output, HasSubstr("no member of the name worker-7"));
  EXPECT_THAT(outcome.output, HasSubstr("exit=0"));
  EXPECT_EQ(Metrics("run").size(), 401u) << outcome.output;
}

TEST_F(ElasticRunTest, TooFewWorkers_PausesAndSaysSo_UntilOneComes) {
  const Outcome outcome =
      During(absl::StrCat("lines 5; ", Kill("KILL", "worker-0"), "for i in $(seq 200); do ",
                          Program("sdp"),
                          " status $run | grep -q \"at least 4\" && break; sleep 0.1; done; ",
                          Program("sdp"), " status $run; ", Join(0), ""),
             "--set checkpoint.every=0 --set train.eval_every=0 --set train.steps=200 --set "
             "cluster.min_workers=4");
  EXPECT_THAT(outcome.output, HasSubstr("3 workers, at least 4 are needed (cluster.min_workers)"));
  EXPECT_THAT(outcome.output, HasSubstr("exit=0"));
  EXPECT_EQ(Metrics("run").size(), 201u) << outcome.output;
}

}  // namespace
}  // namespace sdp
