// A shard is lost: the generation is over, and what the next one begins with.
#include <string>
#include <variant>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/coordinator/logic/coordinator.h"
#include "tests/coordinator/fixture.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

class LostShardTest : public CoordinatorTest {
 protected:
  CoordinatorActions TickAfter(Coordinator& c, absl::Duration time) {
    now_ += time;
    Alive(c);
    return Settle(c, c.Tick(now_));
  }
};

TEST_F(LostShardTest, Silence_EndsTheGeneration_NotTheRun) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  const CoordinatorActions actions = TickAfter(c, options_.lease + absl::Seconds(1));
  ASSERT_TRUE(actions.go_back.has_value());
  EXPECT_THAT(*actions.go_back, HasSubstr("shard-0 is lost: no heartbeat for 21s"));
  EXPECT_FALSE(actions.stop.has_value());
  EXPECT_FALSE(TickAfter(c, absl::Seconds(1)).go_back.has_value());  // once
}

// It would go back for nothing: shards that it cannot hear have all that they had.
TEST_F(LostShardTest, EverybodyIsSilent_TheCoordinatorWaits_ThenGoesBack) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  CoordinatorActions actions;
  for (absl::Duration silence; silence <= 3 * options_.lease; silence += absl::Seconds(1)) {
    EXPECT_FALSE(actions.go_back.has_value()) << silence;
    now_ += absl::Seconds(1);
    actions = Settle(c, c.Tick(now_));
  }
  EXPECT_TRUE(actions.go_back.has_value());
}

TEST_F(LostShardTest, WorkersAreHeardAgainFirst_ShardsGetANewLease) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  CoordinatorActions actions;
  for (int i = 0; i < 8; ++i) {
    now_ += options_.lease / 4;
    actions.Append(c.Tick(now_));
  }
  actions.Append(TickAfter(c, options_.lease / 4));  // the workers
  for (int i = 0; i < 4; ++i) actions.Append(TickAfter(c, options_.lease / 4));
  EXPECT_FALSE(actions.go_back.has_value());
  EXPECT_TRUE(TickAfter(c, options_.lease / 4).go_back.has_value());
}

TEST_F(LostShardTest, TheNextGeneration_UsesNoNumberAgain) {
  options_.start.generation = Generation(3);
  options_.start.state.init_path = "/init";
  options_.start.init_checksum = 9;
  Coordinator c(options_);
  Gather(c);
  const GenerationStart next = c.NextStart();
  EXPECT_EQ(next.generation, Generation(4));
  EXPECT_EQ(next.last_incarnation, Incarnation(2));
  EXPECT_EQ(next.last_view, ViewId(1));
  EXPECT_EQ(next.state.init_path, "/init");
  EXPECT_EQ(next.init_checksum, 9u);
  EXPECT_EQ(next.state.step, 0);
  ASSERT_TRUE(next.data.has_value());
  EXPECT_EQ(next.data->train_samples, 100);
}

TEST_F(LostShardTest, ItsProcessEnded_IsKnownAtOnce) {
  Coordinator c(options_);
  Gather(c);
  absl::Status error;
  c.ProcessEnded("shard-7", now_, &error);
  EXPECT_TRUE(absl::IsNotFound(error));
  EXPECT_TRUE(Settle(c, c.ProcessEnded("shard-0", now_, &error)).go_back.has_value());
  EXPECT_EQ(error, absl::OkStatus());
}

// Else a process that comes after this one would take up what the members have left.
TEST_F(LostShardTest, TheEndIsStored_BeforeAnybodyIsTold) {
  Coordinator c(options_);
  Gather(c);
  absl::Status error;
  const CoordinatorActions lost = c.ProcessEnded("shard-0", now_, &error);
  EXPECT_FALSE(lost.go_back.has_value());
  EXPECT_TRUE(lost.events.empty());
  ASSERT_EQ(lost.store.size(), 1u);
  const auto* end = std::get_if<GenerationEndRecord>(&lost.store[0].record);
  ASSERT_NE(end, nullptr);
  EXPECT_EQ(end->generation, options_.start.generation);
  EXPECT_EQ(end->reason, "shard-0: its process has ended");
  // Who comes meanwhile asks again, and is let into the next generation.
  EXPECT_TRUE(c.RegisterWorker({"worker-9", "cafe", 19}, now_).admit_workers.empty());
  EXPECT_TRUE(c.RegisterShard({"shard-0", "there:2", "cafe", 77}, now_).admit_shards.empty());
  const CoordinatorActions stored = c.Stored(lost.store[0].id, now_);
  EXPECT_EQ(stored.go_back, end->reason);
  ASSERT_EQ(stored.events.size(), 1u);
  EXPECT_EQ(stored.events[0].kind, RunEvent::Kind::kGoBack);
}

// All that counts of it has arrived: nobody's samples are lost.
TEST_F(LostShardTest, AReportOfACommittedStepIsMissing_NobodyIsCalledLost) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  const std::vector<double> squares(static_cast<size_t>(layout_.fragments()), 1.0);
  Settle(c, c.OnReduced({ShardId(0), 0, squares, {}}, now_));
  Settle(c, c.OnStepDone({ShardId(0), 0, 0}, now_));
  absl::Status error;
  const CoordinatorActions actions = Settle(c, c.ProcessEnded("shard-0", now_, &error));
  ASSERT_EQ(actions.metrics.size(), 1u);
  EXPECT_EQ(actions.metrics[0].step, 0);
  EXPECT_TRUE(actions.metrics[0].lost.empty());
}

TEST_F(LostShardTest, AnotherProcessUnderItsName_ShortensItsLease) {
  Coordinator c(options_);
  Gather(c);
  const CoordinatorActions first = c.RegisterShard({"shard-0", "there:2", "cafe", 77}, now_);
  EXPECT_TRUE(first.admit_shards.empty());  // it waits
  EXPECT_FALSE(TickAfter(c, options_.lease_of_replaced).go_back.has_value());
  const CoordinatorActions late = TickAfter(c, absl::Seconds(1));
  ASSERT_TRUE(late.go_back.has_value());
  EXPECT_THAT(*late.go_back, HasSubstr("once another process comes under its name"));
}

TEST_F(LostShardTest, AnotherProcessUnderTheNameOfOneThatLives_IsRefused) {
  Coordinator c(options_);
  Gather(c);
  c.RegisterShard({"shard-0", "there:2", "cafe", 77}, now_);
  CoordinatorActions all;
  for (absl::Duration time; time <= options_.lease + absl::Seconds(2); time += absl::Seconds(1)) {
    c.ShardHeartbeat(ShardId(0), "", 1, now_);
    c.RegisterShard({"shard-0", "there:2", "cafe", 77}, now_);  // long polls ask again
    all.Append(TickAfter(c, absl::Seconds(1)));
  }
  EXPECT_FALSE(all.go_back.has_value());
  ASSERT_FALSE(all.admit_shards.empty());
  EXPECT_EQ(all.admit_shards[0].instance, 77u);
  EXPECT_THAT(std::string(all.admit_shards[0].admission.status().message()),
              HasSubstr("a shard of the name shard-0 is in the run and lives"));
}

TEST_F(LostShardTest, WhileTheRunIsBeingStopped_ItEnds) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  c.Stop("Ctrl-C", now_);
  absl::Status error;
  const CoordinatorActions actions = c.ProcessEnded("shard-0", now_, &error);
  EXPECT_FALSE(actions.go_back.has_value());
  ASSERT_TRUE(actions.stop.has_value());
  EXPECT_THAT(std::string(actions.stop->message()), HasSubstr("shard-0: its process has ended"));
}

TEST_F(LostShardTest, WorkersKnownToBeGone_AreNotWaitedFor) {
  options_.workers = 3;
  Coordinator c(options_);
  Gather(c);
  EXPECT_EQ(c.status(now_).phase, "waiting for workers");
  absl::Status error;
  Settle(c, c.ProcessEnded("worker-7", now_, &error));  // it had not come yet
  EXPECT_EQ(c.status(now_).phase, "training");
  EXPECT_EQ(c.members(), 2);
  c.ProcessEnded("shard-0", now_, &error);
  c.ProcessEnded("worker-0", now_, &error);  // while a checkpoint is looked for
  EXPECT_EQ(c.members(), 1);
}

// It is killed again before it has registered with the next generation, and its name says nothing.
TEST_F(LostShardTest, KilledBeforeItHasRegistered_NoWorkerLessIsWaitedFor) {
  options_.workers = 3;
  for (const bool worker_too : {false, true}) {
    Coordinator c(options_);
    absl::Status error;
    c.ProcessEnded("shard-0", now_, &error);
    if (worker_too) c.ProcessEnded("worker-2", now_, &error);
    EXPECT_TRUE(absl::IsNotFound(error));
    Gather(c);
    EXPECT_EQ(c.status(now_).phase, worker_too ? "training" : "waiting for workers");
  }
}

TEST_F(LostShardTest, FewerWorkersComeBack_TheFirstViewIsMadeWithThemAfterAWhile) {
  options_.workers = 3;
  Coordinator c(options_);
  Gather(c);
  EXPECT_EQ(c.status(now_).phase, "waiting for workers");
  c.ShardHeartbeat(ShardId(0), "", 1, now_ + options_.view_timeout);
  TickAfter(c, options_.view_timeout);
  EXPECT_EQ(c.status(now_).phase, "waiting for workers");
  Settle(c, TickAfter(c, absl::Seconds(1)));
  EXPECT_EQ(c.status(now_).phase, "training");
  EXPECT_EQ(c.members(), 2);
}

}  // namespace
}  // namespace sdp
