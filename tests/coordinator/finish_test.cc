// How a run ends before its steps are done: stopped, stuck, or never complete.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/coordinator/logic/coordinator.h"
#include "tests/coordinator/fixture.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

class FinishTest : public CoordinatorTest {};

// Everybody waits: nobody is to blame, and the run says for what it waits.
TEST_F(FinishTest, NoProgress_EndsTheRunSayingWhoIsAwaited) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  Begin(c, 2, 0);
  const absl::Time begin = now_;
  CoordinatorActions actions;
  while (!actions.stop.has_value() && now_ < begin + absl::Hours(2)) {
    now_ += absl::Seconds(10);
    Alive(c);
    c.ShardHeartbeat(ShardId(0), "", 1, now_);
    actions = c.Tick(now_);
  }
  ASSERT_TRUE(actions.stop.has_value());
  EXPECT_LE(now_ - begin, options_.first_step_timeout + absl::Seconds(30));
  EXPECT_THAT(std::string(actions.stop->message()), HasSubstr("step 0 waits for worker-"));
}

TEST_F(FinishTest, Stop_BeforeTheFirstStep_IsAtOnce) {
  Coordinator c(options_);
  Gather(c);
  EXPECT_TRUE(absl::IsCancelled(*c.Stop("Ctrl-C", now_).stop));
}

TEST_F(FinishTest, Stop_ThatTakesTooLong_EndsByItsDeadline) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  EXPECT_FALSE(c.Stop("Ctrl-C", now_).stop.has_value());
  now_ += options_.first_step_timeout + absl::Seconds(1);
  EXPECT_TRUE(c.Tick(now_).stop.has_value());
}

TEST_F(FinishTest, Gathering_ThatNobodyJoins_EndsSayingWhoIsMissing) {
  Coordinator c(options_);
  c.Start(now_);
  now_ += options_.gather_timeout - absl::Seconds(1);
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  Settle(c, c.OnStepDone({ShardId(0), -1, 0}, now_));
  now_ += options_.gather_timeout - absl::Seconds(1);
  c.ShardHeartbeat(ShardId(0), "", 1, now_);
  EXPECT_FALSE(c.Tick(now_).stop.has_value());
  now_ += absl::Seconds(2);
  c.ShardHeartbeat(ShardId(0), "", 1, now_);
  const CoordinatorActions actions = c.Tick(now_);
  ASSERT_TRUE(actions.stop.has_value());
  EXPECT_THAT(std::string(actions.stop->message()), HasSubstr("0 of 2 workers are ready"));
}

// The whole machine slept, or the coordinator alone: nobody is to blame for the silence.
TEST_F(FinishTest, Stall_OfTheCoordinator_BlamesNobody) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  EXPECT_FALSE(c.Tick(now_).stop.has_value());
  now_ += absl::Hours(9);
  EXPECT_FALSE(c.Tick(now_).stop.has_value());
  // But then silence counts again: of everybody, so that it takes three leases.
  for (int i = 0; i < 70 && !c.Tick(now_).stop.has_value(); ++i) now_ += absl::Seconds(1);
  EXPECT_EQ(c.status(now_).phase, "over");
}

TEST_F(FinishTest, Stop_WhenAllStepsAreDone_IsNotNeeded) {
  options_.steps = 1;
  options_.validation = false;
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 1);
  Begin(c, 1, 1);  // the closing binding
  EXPECT_FALSE(c.Stop("Ctrl-C", now_).stop.has_value());
  c.OnCheckpointPart({ShardId(0), 1, "", {}}, now_);
  c.CheckpointStored(1, absl::OkStatus(), now_);
  Begin(c, 1, 2);
  Begin(c, 2, 2);
  c.OnStateHashes({ShardId(0), 1, std::vector<uint64_t>(static_cast<size_t>(layout_.fragments()))},
                  now_);
  const CoordinatorActions end = c.ShardFinished(ShardId(0), now_);
  ASSERT_TRUE(end.stop.has_value());
  EXPECT_EQ(*end.stop, absl::OkStatus());
}

TEST_F(FinishTest, Stop_DuringTheFirstStep_WaitsAsLongAsAFirstStepMayTake) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  EXPECT_FALSE(c.Stop("Ctrl-C", now_).stop.has_value());
  const auto alive = [&] {
    Alive(c);
    c.ShardHeartbeat(ShardId(0), "", 1, now_);
  };
  for (int i = 0; i < 30; ++i) {
    now_ += absl::Seconds(9);
    alive();
    ASSERT_FALSE(c.Tick(now_).stop.has_value()) << i;
  }
}

}  // namespace
}  // namespace sdp
