#include "worker/service/worker_board.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace sdp {
namespace {

using ::testing::HasSubstr;

const absl::Time kNow = absl::UnixEpoch() + absl::Hours(1);

TEST(WorkerBoardTest, BeforeItRegisters_ItLivesAndIsNotReady) {
  WorkerBoard board("worker-0");
  EXPECT_EQ(board.Alive(kNow), absl::OkStatus());
  const absl::Status ready = board.Ready(kNow);
  EXPECT_EQ(ready.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ready.message(), "worker-0: starting");
}

TEST(WorkerBoardTest, LoopThatSaysNothing_HangsAfterAMinute) {
  WorkerBoard board("worker-0");
  board.Begin(kNow);
  EXPECT_EQ(board.Alive(kNow + absl::Seconds(59)), absl::OkStatus());
  const absl::Status hangs = board.Alive(kNow + absl::Seconds(61));
  EXPECT_THAT(std::string(hangs.message()), HasSubstr("hangs for 1m1s"));
  EXPECT_EQ(board.Ready(kNow + absl::Seconds(61)), hangs);
}

TEST(WorkerBoardTest, NotReady_SaysWhatItWaitsFor) {
  WorkerBoard board("worker-0");
  proto::WorkerStatus status;
  status.add_waits()->set_for_what("its shards");
  board.HangUp(status, kNow);
  EXPECT_EQ(board.Ready(kNow).message(), "worker-0: waits for its shards");
  status.set_ready(true);
  board.HangUp(status, kNow);
  EXPECT_EQ(board.Ready(kNow), absl::OkStatus());
}

TEST(WorkerBoardTest, NameAddressesAndTotals_OutliveAMembership) {
  WorkerBoard board("worker-0");
  board.SetAddresses("127.0.0.1:1", "127.0.0.1:2");
  for (int life = 1; life <= 2; ++life) {
    board.Begin(kNow);
    StepReport report;
    report.terms = 5;
    report.pull = absl::Seconds(2);
    board.Count(report);
    proto::WorkerStatus status;
    status.set_incarnation(life);
    board.HangUp(status, kNow);
  }
  const proto::WorkerStatus status = board.Status(kNow + absl::Seconds(3));
  EXPECT_EQ(status.name(), "worker-0");
  EXPECT_EQ(status.address(), "127.0.0.1:1");
  EXPECT_EQ(status.metrics_address(), "127.0.0.1:2");
  EXPECT_EQ(status.incarnation(), 2);
  EXPECT_EQ(status.totals().lives(), 2);
  EXPECT_EQ(status.totals().loss_terms(), 10);
  EXPECT_EQ(status.totals().pull_sec(), 4);
  EXPECT_EQ(status.snapshot_age_sec(), 3);
}

}  // namespace
}  // namespace sdp
