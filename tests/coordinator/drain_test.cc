// Shards that leave: what is bound for them, when they may go, and what the run goes on with.
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/coordinator/logic/coordinator.h"
#include "tests/coordinator/fixture.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class DrainTest : public CoordinatorTest {
 protected:
  CoordinatorActions LeaveShard(Coordinator& c) {
    return Settle(c, c.LeaveShard(ShardId(0), now_));
  }

  // The shard has version `step`, hashed and written, or why not; and the manifest is on the disk.
  CoordinatorActions Checkpointed(Coordinator& c, Step step, const std::string& error = "") {
    StateHashes hashes{ShardId(0), step, {}};
    hashes.hashes.resize(static_cast<size_t>(layout_.fragments()));
    CoordinatorActions all = Settle(c, c.OnStateHashes(hashes, now_));
    CheckpointPart part;
    part.step = step;
    part.error = error;
    all.Append(Settle(c, c.OnCheckpointPart(part, now_)));
    if (error.empty()) all.Append(Settle(c, c.CheckpointStored(step, absl::OkStatus(), now_)));
    return all;
  }
  CoordinatorActions Gone(Coordinator& c) { return Settle(c, c.ShardFinished(ShardId(0), now_)); }
};

TEST_F(DrainTest, ACheckpointIsBoundAtTheNextStep_AndNothingAfterIt) {
  options_.eval_every = 0;
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 3);
  CoordinatorActions actions = LeaveShard(c);
  ASSERT_EQ(actions.events.size(), 1u);
  EXPECT_EQ(EventText(actions.events[0]),
            "shard-0 leaves; the next generation begins with version 3");
  EXPECT_EQ(actions.events[0].shard, "shard-0");
  ASSERT_EQ(actions.bind_shards.size(), 1u);
  const ShardBinding& binding = actions.bind_shards[0].binding;
  EXPECT_EQ(binding.step, 3);
  EXPECT_TRUE(binding.checkpoint && binding.closing && !binding.evaluate);
  actions = Begin(c, 1, 3);
  ASSERT_EQ(actions.bind_workers.size(), 1u);
  EXPECT_TRUE(actions.bind_workers[0].binding.closing);
  EXPECT_THAT(actions.bind_workers[0].binding.portion, IsEmpty());
  actions = Begin(c, 1, 4);
  EXPECT_TRUE(actions.bind_workers.empty() && actions.bind_shards.empty());
  EXPECT_THAT(c.WaitingFor(), HasSubstr("; then shard-0 may leave"));
  EXPECT_THAT(LeaveShard(c).events, IsEmpty());  // twice
}

TEST_F(DrainTest, ItMayGo_WhenTheCheckpointIsComplete_AndTheNextGenerationBegins) {
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 3);
  LeaveShard(c);
  const CoordinatorActions whole = Checkpointed(c, 3);
  EXPECT_THAT(whole.finish_shards, ElementsAre(ShardId(0)));
  EXPECT_FALSE(whole.go_back.has_value() || whole.stop.has_value());
  EXPECT_EQ(c.WaitingFor(), "shard-0 to leave");
  EXPECT_EQ(c.status(now_).phase, "training");
  const CoordinatorActions gone = Gone(c);
  EXPECT_EQ(gone.go_back, "shard-0 has left");
  EXPECT_FALSE(gone.stop.has_value());
  EXPECT_THAT(gone.metrics, IsEmpty());  // the closing step is not the run's
}

TEST_F(DrainTest, NothingWasTrainedYet_ItMayGoAtOnce) {
  Coordinator c(options_);
  Gather(c);
  const CoordinatorActions actions = LeaveShard(c);
  EXPECT_THAT(actions.finish_shards, ElementsAre(ShardId(0)));
  EXPECT_THAT(Begin(c, 1, 0).bind_shards, IsEmpty());
  EXPECT_TRUE(Gone(c).go_back.has_value());
}

TEST_F(DrainTest, WhileShardsLoadTheirStartValues_ItMayGoAtOnce) {
  Coordinator c(options_);
  c.Start(now_);
  absl::Status error;
  Settle(c, c.Drain("shard-0", now_, &error));
  EXPECT_TRUE(absl::IsNotFound(error)) << error;
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  const CoordinatorActions actions = Settle(c, c.Drain("shard-0", now_, &error));
  EXPECT_EQ(error, absl::OkStatus());
  EXPECT_THAT(actions.finish_shards, ElementsAre(ShardId(0)));
  EXPECT_TRUE(Gone(c).go_back.has_value());
}

// Loading may take minutes, in which it hears nothing.
TEST_F(DrainTest, WhileItLoads_ItIsNotLate_AndTheNextGenerationKnows) {
  Coordinator c(options_);
  c.Start(now_);
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  EXPECT_THAT(LeaveShard(c).finish_shards, ElementsAre(ShardId(0)));
  CoordinatorActions all;
  const auto until = [&](absl::Duration time) {
    for (const absl::Time end = now_ + time; now_ <= end; now_ += absl::Seconds(1)) {
      c.ShardHeartbeat(ShardId(0), "", 1, now_);
      all.Append(Settle(c, c.Tick(now_)));
    }
  };
  until(3 * options_.stop_timeout);
  EXPECT_FALSE(all.go_back.has_value());
  EXPECT_THAT(c.NextStart().leaving, ElementsAre(5));
  Settle(c, c.OnStepDone({ShardId(0), -1, 0}, now_));
  EXPECT_THAT(c.NextStart().leaving, IsEmpty());  // it was told, and may not want to
  until(2 * options_.stop_timeout);
  EXPECT_EQ(all.go_back, "shard-0: told to leave, and still here");
}

TEST_F(DrainTest, WhileTheRunGoesBack_ItIsRefused) {
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 3);
  absl::Status error;
  Settle(c, c.ProcessEnded("shard-0", now_, &error));
  for (const std::string member : {"shard-0", "worker-1"}) {
    EXPECT_THAT(c.Drain(member, now_, &error).events, IsEmpty());
    EXPECT_TRUE(absl::IsFailedPrecondition(error)) << error;
    EXPECT_THAT(std::string(error.message()), HasSubstr("goes back to a checkpoint"));
  }
}

TEST_F(DrainTest, BeforeAllShardsAreThere_ItIsSaid) {
  options_.shards = 2;
  Coordinator c(options_);
  c.Start(now_);
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  absl::Status error;
  c.Drain("shard-0", now_, &error);
  EXPECT_TRUE(absl::IsFailedPrecondition(error)) << error;
  EXPECT_THAT(std::string(error.message()),
              AllOf(HasSubstr("shard-0 has no parameters yet"), HasSubstr("1 of 2 shards")));
}

TEST_F(DrainTest, ItsCheckpointCannotBeWritten_ItGoesAllTheSame) {
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 3);
  LeaveShard(c);
  const CoordinatorActions actions = Checkpointed(c, 3, "no space");
  EXPECT_THAT(actions.finish_shards, ElementsAre(ShardId(0)));
  EXPECT_TRUE(Gone(c).go_back.has_value());
}

TEST_F(DrainTest, NoCheckpointInTime_ItGoes_AndIsHeldToBeGoneIfItDoesNot) {
  options_.first_step_timeout = options_.min_step_timeout;
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 3);
  LeaveShard(c);
  CoordinatorActions all;
  const auto until = [&](absl::Duration time) {
    for (const absl::Time end = now_ + time; now_ <= end; now_ += absl::Seconds(1)) {
      c.ShardHeartbeat(ShardId(0), "", 1, now_);
      Alive(c);
      all.Append(Settle(c, c.Tick(now_)));
    }
  };
  until(options_.min_step_timeout + absl::Seconds(1));  // of a checkpoint that is being written
  EXPECT_THAT(all.finish_shards, ElementsAre(ShardId(0)));
  EXPECT_FALSE(all.go_back.has_value() || all.stop.has_value());
  until(options_.stop_timeout + absl::Seconds(1));
  EXPECT_EQ(all.go_back, "shard-0: told to leave, and still here");
  EXPECT_FALSE(all.stop.has_value());
}

TEST_F(DrainTest, ItsProcessEndsBeforeItMay_ItIsLost) {
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 3);
  LeaveShard(c);
  absl::Status error;
  EXPECT_EQ(Settle(c, c.ProcessEnded("shard-0", now_, &error)).go_back,
            "shard-0: its process has ended");
}

TEST_F(DrainTest, WhenTheRunEnds_ItLeavesWithTheOthers) {
  Coordinator stopping(options_), ending(options_);
  for (Coordinator* const c : {&stopping, &ending}) Gather(*c);
  Train(stopping, 0, 3);
  stopping.Stop("Ctrl-C", now_);
  Train(ending, 0, options_.steps);
  for (Coordinator* const c : {&stopping, &ending}) {
    const CoordinatorActions actions = LeaveShard(*c);
    EXPECT_TRUE(actions.events.empty() && actions.store.empty());
    EXPECT_THAT(actions.log, ElementsAre(HasSubstr("shard-0 leaves with the others")));
  }
}

TEST_F(DrainTest, TheRunIsStoppedMeanwhile_ItEndsWithThatCheckpoint) {
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 3);
  LeaveShard(c);
  Begin(c, 1, 3);
  Begin(c, 2, 3);
  CoordinatorActions all = Settle(c, c.Stop("Ctrl-C", now_));
  all.Append(Checkpointed(c, 3));
  EXPECT_THAT(all.finish_shards, ElementsAre(ShardId(0)));
  all.Append(Gone(c));
  for (const int64_t worker : {1, 2}) all.Append(Begin(c, worker, 4));
  EXPECT_FALSE(all.go_back.has_value());
  ASSERT_TRUE(all.stop.has_value());
  EXPECT_EQ(*all.stop, absl::CancelledError("stopped at step 3: Ctrl-C"));
}

TEST_F(DrainTest, AWorkerThatLeavesToo_NeedsNotSeeTheEnd) {
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 3);
  LeaveShard(c);
  Begin(c, 2, 3);
  Begin(c, 2, 4);
  const CoordinatorActions actions = Settle(c, c.Leave(Incarnation(2), now_));
  ASSERT_EQ(actions.bind_workers.size(), 1u);
  EXPECT_TRUE(actions.bind_workers[0].binding.finished);
}

// Its process goes on with a new life, which nobody would ask again.
TEST_F(DrainTest, TheGenerationEndsOtherwise_ItGoesAsTheNextBegins) {
  options_.shards = 2;
  Coordinator c(options_);
  c.Start(now_);
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  Settle(c, c.RegisterShard({"shard-1", "here:2", "cafe", 6}, now_));
  for (const int shard : {0, 1}) Settle(c, c.OnStepDone({ShardId(shard), -1, 0}, now_));
  Register(c, "worker-1", 11);
  Register(c, "worker-0", 10);
  for (const int64_t worker : {1, 2}) EXPECT_EQ(Ready(c, worker), absl::OkStatus());
  Begin(c, 1, 0);
  absl::Status error;
  Settle(c, c.Drain("shard-1", now_, &error));
  EXPECT_EQ(Settle(c, c.ProcessEnded("shard-0", now_, &error)).go_back,
            "shard-0: its process has ended");

  options_.start = c.NextStart();
  Coordinator next(options_);
  next.Start(now_);
  CoordinatorActions all = Settle(next, next.RegisterShard({"shard-0", "here:3", "cafe", 7}, now_));
  all.Append(Settle(next, next.RegisterShard({"shard-1", "here:2", "cafe", 8, 6}, now_)));
  EXPECT_EQ(all.admit_shards.size(), 2u);
  EXPECT_THAT(all.finish_shards, ElementsAre(ShardId(1)));
  all = Settle(next, next.ShardFinished(ShardId(1), now_));
  EXPECT_EQ(all.go_back, "shard-1 has left");
  EXPECT_THAT(next.NextStart().leaving, IsEmpty());  // it was let go of

  Coordinator other(options_);
  other.Start(now_);
  all = Settle(other, other.RegisterShard({"shard-0", "here:3", "cafe", 7}, now_));
  all.Append(Settle(other, other.RegisterShard({"shard-1", "here:4", "cafe", 9}, now_)));
  EXPECT_EQ(all.admit_shards.size(), 2u);
  EXPECT_THAT(all.finish_shards, IsEmpty());  // another process
}

// Who asked for it need not ask again.
TEST_F(DrainTest, TheCoordinatorIsLostMeanwhile_TheNextOneLetsItGo) {
  Coordinator c(options_);
  CoordinatorActions start = c.Start(now_);
  start.Append(c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  Settle(c, std::move(start));
  Settle(c, c.OnStepDone({ShardId(0), -1, 0}, now_));
  absl::Status error;
  for (const uint64_t worker : {1, 2})
    Settle(c, c.RegisterWorker({absl::StrCat("worker-", worker), "cafe", worker}, now_));
  for (const int64_t worker : {1, 2})
    Settle(c, c.Ready(Incarnation(worker), {100, 7, 20, 8}, now_, &error));
  Settle(c, c.BeginStep(Incarnation(1), 0, -1, now_, &error));
  Settle(c, c.LeaveShard(ShardId(0), now_));

  std::vector<Record> records = std::exchange(records_, {});
  Coordinator next(options_);
  Settle(next, next.Restore(records, {}, now_));
  for (const int64_t worker : {1, 2})
    Settle(next, next.OnEvaluation(Evaluated(worker, 0, 1, 10), now_));
  CommitStep(next, 0);
  const CoordinatorActions whole = Checkpointed(next, 1);
  EXPECT_THAT(whole.finish_shards, ElementsAre(ShardId(0)));
  EXPECT_EQ(Gone(next).go_back, "shard-0 has left");

  // Before anything was bound it need not wait for a step.
  records.clear();
  Coordinator fresh(options_);
  CoordinatorActions begin = fresh.Start(now_);
  begin.Append(fresh.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  begin.Append(fresh.LeaveShard(ShardId(0), now_));
  for (const auto& store : begin.store) records.push_back(store.record);
  Coordinator after(options_);
  EXPECT_THAT(Settle(after, after.Restore(records, {}, now_)).finish_shards,
              ElementsAre(ShardId(0)));

  records.push_back(ShardLeaveRecord{options_.start.generation, ShardId(4)});
  const CoordinatorActions damaged = Coordinator(options_).Restore(records, {}, now_);
  ASSERT_TRUE(damaged.stop.has_value());
  EXPECT_THAT(std::string(damaged.stop->message()), HasSubstr("shard 4 of 1 leaves"));
}

}  // namespace
}  // namespace sdp
