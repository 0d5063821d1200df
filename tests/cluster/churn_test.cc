// Workers that come and go, servers that are lost, one thing after the other. Random ones:
// random_churn_test.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/base/sanitized.h"
#include "tests/cluster/churn_run.h"
#include "tests/cluster/sim_cluster.h"

namespace sdp {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using What = SimCluster::Change::What;

absl::Duration Ms(int64_t ms) { return absl::Milliseconds(ms); }

TEST(ChurnTest, NothingHappens_EverySampleIsUsedOnce) { ChurnRun(ChurnCase{}).Check(); }

TEST(ChurnTest, AJoiner_TakesPartFromAStepOn) {
  const ChurnRun run({.steps = 20, .changes = {{Ms(300), What::kStart, 4, {}}}});
  run.Check();
  EXPECT_EQ(run.cluster().metrics().front().workers, 4);
  EXPECT_EQ(run.cluster().metrics().back().workers, 5);
}

TEST(ChurnTest, ALostWorker_IsExcluded_AndItsSamplesAreDealtAgain) {
  const ChurnRun run({.steps = 20, .changes = {{Ms(300), What::kKill, 2, {}}}});
  run.Check();
  EXPECT_EQ(run.cluster().metrics().back().workers, 3);
  EXPECT_THAT(run.cluster().log(), Contains(HasSubstr("worker-2 (incarnation")));
}

TEST(ChurnTest, ALeaver_FinishesWhatIsBound_AndNothingIsLost) {
  ChurnCase c{.steps = 20, .changes = {{Ms(300), What::kLeave, 1, {}}}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().metrics().back().workers, 3);
  // Each position is in one binding only: none came back.
  std::map<int64_t, int> bound;
  for (const auto& [key, binding] : run.cluster().bindings()) {
    for (const PositionRange& range : binding.portion) {
      for (int64_t p = range.first; p < range.first + range.count; ++p) ++bound[p];
    }
  }
  EXPECT_EQ(bound.size(), static_cast<size_t>(c.steps * c.global_batch));
  for (const auto& [position, times] : bound) EXPECT_EQ(times, 1) << position;
}

TEST(ChurnTest, AFrozenWorker_IsExcluded_AndComesBackAsAnotherIncarnation) {
  const ChurnRun run({.steps = 40, .changes = {{Ms(300), What::kFreeze, 0, Ms(900)}}});
  run.Check();
  EXPECT_EQ(run.cluster().metrics().back().workers, 4);
}

TEST(ChurnTest, ASecondProcessUnderAName_FencesTheFirst) {
  const ChurnRun run({.steps = 30, .changes = {{Ms(300), What::kStart, 3, {}}}});
  run.Check();
  EXPECT_THAT(run.cluster().log(), Contains(HasSubstr("another process has come under its name")));
}

TEST(ChurnTest, TooFewWorkers_PausesUntilOneComes) {
  const ChurnRun run({.steps = 20,
                      .min_workers = 4,
                      .changes = {{Ms(300), What::kKill, 0, {}}, {Ms(5000), What::kStart, 7, {}}}});
  run.Check();
  EXPECT_GT(run.cluster().metrics().back().run_time, absl::Seconds(4));
}

TEST(ChurnTest, EverybodyIsLost_NewOnesGoOn) {
  ChurnCase c{.steps = 20};
  for (int worker = 0; worker < 4; ++worker)
    c.changes.push_back({Ms(300), What::kKill, worker, {}});
  for (int worker = 4; worker < 7; ++worker)
    c.changes.push_back({Ms(4000), What::kStart, worker, {}});
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().metrics().back().workers, 3);
}

TEST(ChurnTest, ALostShard_TheRunGoesBackToItsNewestCheckpoint_AndEndsWithTheSameBits) {
  ChurnCase c{.steps = 20, .checkpoint_every = 4};
  const ChurnRun undisturbed(c);
  c.changes = {{Ms(500), What::kKillShard, 1, Ms(100)}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
  EXPECT_TRUE(run.HasValuesOf(undisturbed));
}

// The steps that have the sample change nothing, and the others what they do without it.
TEST(ChurnTest, ABadSample_ItsStepsAreSkipped) {
  for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
    const ChurnRun run({.steps = 30, .clip_norm = 0.5, .bad_sample = 7, .masking = masking});
    run.Check();
    const auto skipped = absl::c_count_if(
        run.cluster().metrics(), [](const StepMetrics& step) { return !step.skipped.empty(); });
    std::set<int64_t> with_it;
    for (int64_t p = 0; p < 30 * 8; ++p)
      if (SampleOrder(ChurnRun::kSeed, ChurnRun::kSamples, true).Sample(p) == 7)
        with_it.insert(p / 8);
    EXPECT_EQ(skipped, static_cast<int64_t>(with_it.size()));
  }
}

// Nobody is named so. With a change there are heartbeats, by which members hear of a generation.
const SimCluster::Change kHeartbeats = {Ms(1), What::kKill, 99, {}};

// Back to the checkpoint before it, and on with other samples in each step.
TEST(ChurnTest, ASpikeOfTheLoss_GoesBack_AndTheSamplesComeInANewOrder) {
  ChurnCase c{.workers = 2, .steps = 60, .checkpoint_every = 10};
  const ChurnRun undisturbed(c);
  c.spike_at = 47;
  c.changes = {kHeartbeats};
  for (const int spikes : {1, 2}) {
    c.spikes = spikes;
    const ChurnRun run(c);
    run.Check();
    EXPECT_EQ(run.cluster().times_back(), spikes);
    EXPECT_THAT(run.cluster().reshuffles(), testing::Each(40 * c.global_batch));
    EXPECT_EQ(run.cluster().reshuffles().size(), static_cast<size_t>(spikes));
    EXPECT_FALSE(run.HasValuesOf(undisturbed));
  }
}

// The new order is the run's from then on: whoever is lost later, and as often as it is.
TEST(ChurnTest, ASpikeOfTheLoss_ThenLostServers_KeepsTheNewOrder) {
  ChurnCase c{.workers = 2, .steps = 60, .checkpoint_every = 10, .spike_at = 47, .spikes = 1};
  c.changes = {kHeartbeats};
  const ChurnRun undisturbed(c);
  for (int64_t at = 200; at < 5000; at += kSanitized ? 1500 : 500) {
    c.changes = {{Ms(at), What::kKillCoordinator, 0, Ms(20)},
                 {Ms(at + 300), What::kKillShard, 1, Ms(50)}};
    const ChurnRun run(c);
    run.Check();
    EXPECT_TRUE(run.HasValuesOf(undisturbed)) << at;
  }
}

TEST(ChurnTest, ABadSample_TheLossOfAnyServerChangesNoBit) {
  ChurnCase c{.steps = 20, .checkpoint_every = 4, .clip_norm = 0.5, .bad_sample = 7};
  const ChurnRun undisturbed(c);
  for (int64_t at = 100; at < 1000; at += kSanitized ? 300 : 50) {
    c.schedule = static_cast<uint64_t>(at);
    c.changes = {{Ms(at), What::kKillCoordinator, 0, Ms(20)},
                 {Ms(at + 400), What::kKillShard, 1, Ms(50)}};
    const ChurnRun run(c);
    run.Check();
    EXPECT_TRUE(run.HasValuesOf(undisturbed)) << at;
  }
}

TEST(ChurnTest, ALostShard_WithoutACheckpoint_BeginsAgain) {
  ChurnCase c{.steps = 10};
  const ChurnRun undisturbed(c);
  c.changes = {{Ms(300), What::kKillShard, 0, Ms(50)}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
  EXPECT_TRUE(run.HasValuesOf(undisturbed));
}

TEST(ChurnTest, AFrozenShard_IsLost_AndComesBackForTheNextGeneration) {
  const ChurnRun run(
      {.steps = 20, .checkpoint_every = 3, .changes = {{Ms(400), What::kFreezeShard, 0, Ms(900)}}});
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
}

TEST(ChurnTest, ALostCoordinator_IsReplaced_AndNothingIsDoneTwice) {
  ChurnCase c{.steps = 20, .checkpoint_every = 4};
  const ChurnRun undisturbed(c);
  c.changes = {{Ms(400), What::kKillCoordinator, 0, Ms(100)},
               {Ms(900), What::kKillCoordinator, 0, Ms(300)}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().restarts(), 2);
  EXPECT_EQ(run.cluster().times_back(), 0);
  EXPECT_TRUE(run.HasValuesOf(undisturbed));
}

// It may be lost at any moment: while members register, a step is bound, a checkpoint completed, at
// the end.
TEST(ChurnTest, ALostCoordinator_AtAnyMoment_ChangesNoBit) {
  ChurnCase c{.workers = 3, .steps = 10, .checkpoint_every = 3, .clip_norm = 0.5};
  const ChurnRun undisturbed(c);
  for (int64_t at = 0; at < (kSanitized ? 200 : 600); at += 3) {
    c.schedule = static_cast<uint64_t>(at);
    c.changes = {{Ms(at), What::kKillCoordinator, 0, Ms(20)}};
    const ChurnRun run(c);
    run.Check();
    EXPECT_EQ(run.cluster().times_back(), 0);
    ASSERT_TRUE(run.HasValuesOf(undisturbed)) << "lost after " << at << " ms";
    ASSERT_FALSE(HasFailure()) << "lost after " << at << " ms";
  }
}

// What it knew of a worker that is gone nobody can tell the next one.
TEST(ChurnTest, ALostCoordinator_JustAfterAnExclusion_TheRecordsAddUp) {
  ChurnCase c{.workers = 3, .steps = 15};
  for (int64_t at = 100; at < (kSanitized ? 200 : 500); at += 4) {
    c.schedule = static_cast<uint64_t>(at);
    c.changes = {{Ms(at), What::kStart, 1, {}}, {Ms(at + 20), What::kKillCoordinator, 0, Ms(20)}};
    ChurnRun(c).Check();
    ASSERT_FALSE(HasFailure()) << "after " << at << " ms";
  }
}

// Whatever is on them is lost: weights and who wants them, gradients, answers.
TEST(ChurnTest, StreamsBreak_AtAnyMoment_ChangesNoBit) {
  for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
    ChurnCase c{.workers = 3, .steps = 10, .clip_norm = 0.5, .masking = masking};
    const ChurnRun undisturbed(c);
    for (int64_t at = 0; at < (kSanitized ? 100 : 600); at += 6) {
      c.schedule = static_cast<uint64_t>(at);
      c.changes.clear();
      for (int worker = 0; worker < 3; ++worker)
        c.changes.push_back({Ms(at + 7 * worker), What::kBreakStreams, worker, Ms(10)});
      const ChurnRun run(c);
      run.Check();
      ASSERT_TRUE(run.HasValuesOf(undisturbed)) << "broken after " << at << " ms";
      ASSERT_FALSE(HasFailure()) << "broken after " << at << " ms";
    }
  }
}

// No other checkpoint is written: all that was done is in the one that is taken for it.
TEST(ChurnTest, AShardThatLeaves_NoStepIsDoneAgain) {
  ChurnCase c{.steps = 20};
  const ChurnRun undisturbed(c);
  c.changes = {{Ms(500), What::kDrainShard, 1, Ms(100)}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
  EXPECT_EQ(run.Undone(), 0);
  EXPECT_TRUE(run.HasValuesOf(undisturbed));
  EXPECT_THAT(run.cluster().log(), Contains(HasSubstr("generation 1 is over: shard-1 has left")));
}

TEST(ChurnTest, ShardsThatLeaveTogether_GoWithOneCheckpoint) {
  ChurnCase c{.shards = 3, .steps = 20, .diagnostics_every = 0};
  const ChurnRun undisturbed(c);
  c.changes = {{Ms(500), What::kDrainShard, 0, Ms(100)}, {Ms(501), What::kDrainShard, 2, Ms(50)}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
  EXPECT_EQ(run.Undone(), 0);
  EXPECT_TRUE(run.HasValuesOf(undisturbed));
}

// While members register, before the first step, at the last one, while the run ends; and a
// coordinator that is lost meanwhile forgets nothing of it.
TEST(ChurnTest, AShardLeaves_AtAnyMoment_NoStepIsDoneAgain) {
  ChurnCase c{.workers = 3, .steps = 10, .clip_norm = 0.5};
  const ChurnRun undisturbed(c);
  for (const bool kill : {false, true}) {
    for (int64_t at = 0; at < (kSanitized ? 200 : 700); at += 20) {
      c.schedule = static_cast<uint64_t>(at);
      c.changes = {{Ms(at), What::kDrainShard, 1, Ms(20)}};
      if (kill) c.changes.push_back({Ms(at + at % 97), What::kKillCoordinator, 0, Ms(20)});
      const ChurnRun run(c);
      run.Check();
      EXPECT_EQ(run.Undone(), 0);
      // The coordinator may have begun to go back, and the next one does it.
      EXPECT_LE(run.cluster().times_back(), kill ? 2 : 1);
      ASSERT_TRUE(run.HasValuesOf(undisturbed)) << "leaves after " << at << " ms";
      ASSERT_FALSE(HasFailure()) << "leaves after " << at << " ms";
    }
  }
}

TEST(ChurnTest, AShardLeavesAPausedRun_ItGoesOnPaused) {
  const ChurnRun run({.steps = 20,
                      .min_workers = 4,
                      .changes = {{Ms(300), What::kKill, 0, {}},
                                  {Ms(1500), What::kDrainShard, 0, Ms(100)},
                                  {Ms(5000), What::kStart, 7, {}}}});
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
  EXPECT_EQ(run.Undone(), 0);
}

TEST(ChurnTest, AShardLeaves_AndItsCheckpointCannotBeWritten_TheRunGoesFurtherBack) {
  ChurnCase c{.steps = 20};
  const ChurnRun undisturbed(c);
  SimDisk disk;
  for (Step step = 1; step < c.steps; ++step) disk.full.insert(step);
  c.disk = &disk;
  c.changes = {{Ms(700), What::kDrainShard, 1, Ms(100)}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
  EXPECT_GT(run.Undone(), 0);
  EXPECT_TRUE(run.HasValuesOf(undisturbed));
}

// The workers hear of the end of a generation before the next one is recorded: whoever comes after
// the coordinator is to know of it too.
TEST(ChurnTest, ALostShard_AndThenTheCoordinator_ChangesNoBit) {
  ChurnCase c{.workers = 3, .steps = 10, .checkpoint_every = 3, .clip_norm = 0.5};
  const ChurnRun undisturbed(c);
  for (int64_t at = 400; at < (kSanitized ? 500 : 700); at += 3) {
    c.schedule = static_cast<uint64_t>(at);
    c.changes = {{Ms(150), What::kKillShard, 1, Ms(100)},
                 {Ms(at), What::kKillCoordinator, 0, Ms(20)}};
    const ChurnRun run(c);
    run.Check();
    EXPECT_GE(run.cluster().times_back(), 1);
    ASSERT_TRUE(run.HasValuesOf(undisturbed)) << "the coordinator after " << at << " ms";
    ASSERT_FALSE(HasFailure()) << "the coordinator after " << at << " ms";
  }
}

}  // namespace
}  // namespace sdp
