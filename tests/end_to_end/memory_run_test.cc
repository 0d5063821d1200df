// Real processes: recomputation, the ledger of memory, and a coverage that fits it.
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/end_to_end/train_fixture.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

class MemoryRunTest : public TrainFixture {};

int64_t Sum(const Json& kinds) {
  int64_t sum = 0;
  for (const auto& kind : kinds.items()) sum += kind.value().get<int64_t>();
  return sum;
}

TEST_F(MemoryRunTest, Recompute_SameBits_AndTheLedgerAddsUp) {
  ASSERT_EQ(Train("stored").exit_status, 0);
  const Outcome outcome = Train("recomputed", "--set train.recompute=true");
  ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
  ASSERT_NE(StateHash("stored"), "");
  EXPECT_EQ(StateHash("recomputed"), StateHash("stored"));
  for (const std::string run : {"stored", "recomputed"}) {
    const Json last = Metrics(run).back();
    const Json& worker = last["largest_worker"];
    EXPECT_EQ(Sum(worker["peak_bytes"]), last["max_worker_allocated_bytes"].get<int64_t>());
    EXPECT_GT(worker["peak_bytes"]["parameters"], 0);
    EXPECT_GT(worker["peak_bytes"]["activations"], 0);
    EXPECT_GT(last["predicted_worker_allocated_bytes"], 0);
  }
  EXPECT_THAT(outcome.output, HasSubstr(" at its peak: parameters "));
}

// What was chosen is in the run folder, so the run is the one with these numbers.
TEST_F(MemoryRunTest, CoverageAuto_IsResolvedBeforeProcessesStart) {
  const std::string plan = Program("sdp") + " plan " + Config() + " --set sdp.coverage=auto";
  const Outcome refused = Shell(plan + " --memory 1KiB");
  EXPECT_EQ(refused.exit_status, 2) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("nothing fits worker.memory"));
  const Outcome outcome = Train("fitted", "--memory 130KiB --set sdp.coverage=auto");
  ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr(" taken"));
  EXPECT_THAT(outcome.output, HasSubstr(" too much"));
  std::ifstream file(RunDir("fitted") / "config.toml");
  const std::string config((std::istreambuf_iterator<char>(file)), {});
  EXPECT_THAT(config, ::testing::Not(HasSubstr("auto\"")));
  const Json last = Metrics("fitted").back();
  EXPECT_LE(last["predicted_worker_allocated_bytes"], 130 * 1024);
}

}  // namespace
}  // namespace sdp
