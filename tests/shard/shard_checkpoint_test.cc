// Snapshots of one version while training goes on, and beginning from one.
#include "absl/time/clock.h"
#include "common/model/llama.h"
#include "gtest/gtest.h"
#include "server/shard/logic/shard.h"
#include "tests/shard/fixture.h"

namespace sdp {
namespace {

using ShardCheckpointTest = ShardTest;

// Version 0 is complete, so it is handed out at once; the round of step 0 closes meanwhile, but
// without room for two versions nothing goes beyond version 0 until it is written.
TEST_F(ShardCheckpointTest, VersionStaysUntilWritten) {
  Shard& shard = Make();
  ShardActions bound = shard.Bind(Binding(0, false, false, /*checkpoint=*/true));
  ASSERT_EQ(bound.snapshots.size(), 1u);
  EXPECT_EQ(bound.snapshots[0].step, 0);
  ASSERT_EQ(bound.snapshots[0].parts.size(), shard.owned().size());
  EXPECT_TRUE(shard.Bind(Binding(0, false, false, true)).snapshots.empty());  // once
  const ShardActions pushed = PushAll(shard, 0, 1);
  EXPECT_TRUE(pushed.done.empty());
  EXPECT_EQ(pushed.reduced.size(), 1u);  // all rounds are closed
  for (const Snapshot::Part& part : bound.snapshots[0].parts) {
    EXPECT_EQ(shard.version(part.fragment), 0);
    EXPECT_EQ(part.value->data()[0], 1);
  }
  bound.snapshots.clear();
  const ShardActions written = shard.Written(0);
  ASSERT_EQ(written.done.size(), 1u);
  EXPECT_EQ(written.done[0].step, 0);
  EXPECT_EQ(shard.value(shard.owned()[0])->data()[0], 0);  // 1 - lr 1 * gradient 1
  EXPECT_TRUE(shard.Written(0).done.empty());              // twice
}

// With room for them the version's values are kept apart, and training goes on; beyond it updates
// wait, until the disk has a part.
TEST_F(ShardCheckpointTest, KeepsWhatItHasRoomFor_AndTheRestWaits) {
  options_.optimizer.momentum = 0.5;
  Shard& shard = Make();
  ShardActions bound = shard.Bind(Binding(0, false, false, /*checkpoint=*/true));
  ASSERT_EQ(bound.snapshots.size(), 1u);
  Snapshot& snapshot = bound.snapshots[0];
  ASSERT_GT(snapshot.parts.size(), 2u);
  EXPECT_TRUE(PushAll(shard, 0, 1).done.empty());  // no room at all
  EXPECT_EQ(shard.counts().waiting_for_disk, static_cast<int64_t>(snapshot.parts.size()));
  const FragmentId first = snapshot.parts[0].fragment;
  snapshot.parts[0] = {};
  EXPECT_TRUE(shard.Written(0, first).done.empty());
  EXPECT_EQ(shard.version(first), 1);
  EXPECT_EQ(shard.version(snapshot.parts[1].fragment), 0);
  snapshot.parts.clear();
  EXPECT_EQ(shard.Written(0).done.size(), 1u);
  EXPECT_EQ(shard.counts().snapshot_bytes, 0);
}

// What waits for the disk is not looked at again with each part that is written: that would be the
// square of thousands of fragments, while nothing else of the shard goes on. Pushes are a measure
// of the machine: three each, with their rounds.
TEST_F(ShardCheckpointTest, OfManyFragments_CostsNoMoreThanItsPushes) {
  const Catalog catalog = LlamaCatalog(
      {.dim = 4, .layers = 2, .heads = 2, .kv_heads = 1, .ffn_dim = 6, .vocab = 200'000},
      TransformerUnit::kSublayer, 4);
  const Layout layout(catalog, 40);
  options_.catalog = &catalog;
  options_.layout = &layout;
  Shard& shard = Make();
  ASSERT_GT(shard.owned().size(), 30'000u);
  ShardActions bound = shard.Bind(Binding(0, false, false, /*checkpoint=*/true));
  ASSERT_EQ(bound.snapshots.size(), 1u);
  absl::Time begin = absl::Now();
  for (const FragmentId id : shard.owned()) {
    for (const int64_t worker : {11, 12, 13}) {
      if (worker == 13 && !catalog.unit(layout.fragment(id).unit).shared) continue;
      shard.Push(Key(worker, id), FloatBuffer(layout.fragment(id).size));
    }
  }
  const absl::Duration pushes = absl::Now() - begin;
  begin = absl::Now();
  size_t done = 0;
  for (Snapshot::Part& part : bound.snapshots[0].parts) {
    const FragmentId id = part.fragment;
    part = {};
    done += shard.Written(0, id).done.size();
  }
  EXPECT_LT(absl::Now() - begin, 3 * pushes);
  EXPECT_EQ(done, 1u);
}

TEST_F(ShardCheckpointTest, WithRoom_NothingInItChangesWhileTrainingGoesOn) {
  options_.optimizer.momentum = 0.5;
  options_.snapshot_bytes = 1 << 20;
  Shard& shard = Make();
  shard.Bind(Binding(0));
  PushAll(shard, 0, 1);
  ShardActions bound = shard.Bind(Binding(1, false, false, /*checkpoint=*/true));
  ASSERT_EQ(bound.snapshots.size(), 1u);
  Snapshot& snapshot = bound.snapshots[0];
  EXPECT_EQ(PushAll(shard, 1, 1).done.size(), 1u);
  shard.Bind(Binding(2, false, false, /*checkpoint=*/true));
  // The next one waits for the disk, and so do updates beyond it.
  const ShardActions pushed = PushAll(shard, 2, 1);
  EXPECT_TRUE(pushed.snapshots.empty());
  EXPECT_TRUE(pushed.done.empty());
  int64_t bytes = 0;
  for (const Snapshot::Part& part : snapshot.parts) {
    EXPECT_EQ(part.value->data()[0], 0);                // 1 - lr 1 * gradient 1
    EXPECT_EQ(part.state->moments.at(0).data()[0], 1);  // of version 2: 1.5
    EXPECT_EQ(part.state->updates, 1);
    EXPECT_EQ(shard.version(part.fragment), 2);
    EXPECT_EQ(shard.value(part.fragment)->data()[0], -1.5f);
    bytes += 2 * part.value->bytes();
  }
  EXPECT_EQ(shard.counts().snapshot_bytes, bytes);
  snapshot.parts.clear();
  const ShardActions written = shard.Written(1);
  ASSERT_EQ(written.snapshots.size(), 1u);
  EXPECT_EQ(written.snapshots[0].step, 2);
  EXPECT_EQ(written.done.size(), 1u);
}

// A snapshot of version 1 is taken when all fragments have it, not when its binding comes; and the
// scale of clipping that comes while it is written is not lost.
TEST_F(ShardCheckpointTest, OfALaterVersion_WithClipping) {
  options_.clip = true;
  Shard& shard = Make();
  shard.Bind(Binding(0));
  EXPECT_TRUE(shard.Bind(Binding(1, false, false, true)).snapshots.empty());
  PushAll(shard, 0, 1);
  ShardActions scaled = shard.Scale({Generation(1), 0, 0.5});
  ASSERT_EQ(scaled.snapshots.size(), 1u);
  EXPECT_EQ(scaled.snapshots[0].step, 1);
  EXPECT_EQ(scaled.snapshots[0].parts[0].value->data()[0], 0.5f);
  PushAll(shard, 1, 1);
  EXPECT_TRUE(shard.Scale({Generation(1), 1, 0.25}).done.empty());
  scaled.snapshots.clear();
  const ShardActions written = shard.Written(1);
  ASSERT_EQ(written.done.size(), 1u);
  EXPECT_EQ(shard.value(shard.owned()[0])->data()[0], 0.25f);
}

TEST_F(ShardCheckpointTest, OfTheClosingBinding) {
  Shard& shard = Make();
  const ShardActions bound = shard.Bind(Binding(0, false, true, true));
  EXPECT_EQ(bound.snapshots.size(), 1u);
  EXPECT_EQ(bound.hashes.size(), 1u);
  EXPECT_TRUE(shard.Written(0).done.empty());
}

TEST_F(ShardCheckpointTest, Restored_BeginsAtItsStepWithItsState) {
  options_.first_step = 40;
  options_.optimizer.momentum = 0.5;
  int64_t loaded = 0;
  Shard shard(options_, [&](FragmentId, absl::Span<float> values, OptimizerState& state) {
    for (float& value : values) value = 3;
    for (float& moment : state.moments.at(0).span()) moment = 2;
    state.updates = 40;
    ++loaded;
  });
  EXPECT_EQ(loaded, layout_.fragments());
  const ShardActions start = shard.Start();
  ASSERT_EQ(start.done.size(), 1u);
  EXPECT_EQ(start.done[0].step, 39);
  shard.Bind(Binding(40));
  PushAll(shard, 40, 1);
  EXPECT_EQ(shard.version(shard.owned()[0]), 41);
  EXPECT_EQ(shard.value(shard.owned()[0])->data()[0], 3 - (0.5f * 2 + 1));  // torch.optim.SGD
}

}  // namespace
}  // namespace sdp
