// Rounds, versions and who may read and push what.
#include "server/shard/logic/shard.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/shard/fixture.h"

namespace sdp {
namespace {

TEST_F(ShardTest, Push_OtherGeneration_IsStale) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  PushKey key = Key(11, Masked());
  key.generation = Generation(2);
  EXPECT_EQ(Only(shard.Push(key, Gradient(Masked(), 1))), Answer::kStaleGeneration);
}

TEST_F(ShardTest, Push_FromANonHolder_IsInvalidAndNamed) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  const ShardActions actions = shard.Push(Key(13, Masked()), Gradient(Masked(), 1));
  EXPECT_EQ(Only(actions), Answer::kInvalid);
  EXPECT_NE(actions.answers[0].detail.find("layers.0.attention"), std::string::npos)
      << actions.answers[0].detail;
}

TEST_F(ShardTest, Push_WrongSize_IsInvalid) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  EXPECT_EQ(Only(shard.Push(Key(11, Masked()), FloatBuffer::Zeros(3))), Answer::kInvalid);
  EXPECT_EQ(Only(shard.Push(Key(11, Masked(), 0, 0), Gradient(Masked(), 1))), Answer::kInvalid);
}

TEST_F(ShardTest, Push_OtherView_IsInvalid) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  PushKey key = Key(11, Masked());
  key.view = ViewId(7);
  EXPECT_EQ(Only(shard.Push(key, Gradient(Masked(), 1))), Answer::kInvalid);
}

TEST_F(ShardTest, Push_BeforeItsBinding_IsAskedAgain_HeadersWait) {
  Shard& shard = Make();
  EXPECT_EQ(Only(shard.Push(Key(11, Masked()), Gradient(Masked(), 1))), Answer::kUnknownBinding);
  EXPECT_TRUE(shard.Push(Key(11, Masked(), 0, 0), FloatBuffer()).answers.empty());
  EXPECT_EQ(Only(shard.Bind(Binding(0))), Answer::kReceived);
}

TEST_F(ShardTest, Push_FarAhead_IsInvalid) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  EXPECT_EQ(Only(shard.Push(Key(11, Masked(), 1000, 0), FloatBuffer())), Answer::kInvalid);
  EXPECT_EQ(shard.Pull(Want(11, {Masked()}, 1000)).deliveries.at(0).answer, Answer::kInvalid);
}

TEST_F(ShardTest, Push_Twice_CountsOnce) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  EXPECT_EQ(Only(shard.Push(Key(11, Masked()), Gradient(Masked(), 2))), Answer::kReceived);
  EXPECT_EQ(Only(shard.Push(Key(11, Masked()), Gradient(Masked(), 2))), Answer::kReceived);
  EXPECT_EQ(shard.version(Masked()), 0);  // worker 12 is still awaited, by identity
  EXPECT_EQ(Only(shard.Push(Key(12, Masked()), Gradient(Masked(), 4))), Answer::kReceived);
  EXPECT_EQ(shard.version(Masked()), 1);
  EXPECT_EQ((*shard.value(Masked())).data()[0], 1 - 3);
  EXPECT_EQ(Only(shard.Push(Key(12, Masked()), Gradient(Masked(), 4))), Answer::kStepClosed);
  EXPECT_EQ((*shard.value(Masked())).data()[0], 1 - 3);
}

TEST_F(ShardTest, Update_IsTheMeanOverHoldersWeightedByTerms) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  shard.Push(Key(11, Masked(), 0, 3), Gradient(Masked(), 2));
  shard.Push(Key(12, Masked(), 0, 1), Gradient(Masked(), 10));
  EXPECT_EQ((*shard.value(Masked())).data()[0], 1 - 4);
}

TEST_F(ShardTest, NobodyHasSamples_VersionAdvancesValueStays) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  shard.Push(Key(11, Masked(), 0, 0), FloatBuffer());
  shard.Push(Key(12, Masked(), 0, 0), FloatBuffer());
  EXPECT_EQ(shard.version(Masked()), 1);
  EXPECT_EQ((*shard.value(Masked())).data()[0], 1);
}

TEST_F(ShardTest, Pull_ByANonHolder_IsRefused) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  EXPECT_EQ(shard.Pull(Want(13, {Masked()})).deliveries.at(0).answer, Answer::kInvalid);
  EXPECT_EQ(shard.Pull(Want(99, {FragmentId(0)})).deliveries.at(0).answer, Answer::kInvalid);
}

TEST_F(ShardTest, Pull_OfAFutureVersion_IsAnsweredWhenItExists) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  shard.Bind(Binding(1));
  EXPECT_TRUE(shard.Pull(Want(11, {Masked()}, 1)).deliveries.empty());
  shard.Push(Key(11, Masked()), Gradient(Masked(), 1));
  const ShardActions actions = shard.Push(Key(12, Masked()), Gradient(Masked(), 1));
  ASSERT_EQ(actions.deliveries.size(), 1u);
  EXPECT_EQ(actions.deliveries[0].step, 1);
  EXPECT_EQ(actions.deliveries[0].value->data()[0], 0);
}

TEST_F(ShardTest, Update_WhileAVersionIsBeingSent_LeavesItsBits) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  const SharedValue sending = shard.Pull(Want(11, {Masked()})).deliveries.at(0).value;
  shard.Push(Key(11, Masked()), Gradient(Masked(), 5));
  shard.Push(Key(12, Masked()), Gradient(Masked(), 5));
  EXPECT_EQ(sending->data()[0], 1);
  EXPECT_EQ((*shard.value(Masked())).data()[0], -4);
}

TEST_F(ShardTest, Update_WithoutReaders_IsInPlace) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  const float* before = shard.value(Masked())->data();
  PushAll(shard, 0, 1);
  EXPECT_EQ(shard.value(Masked())->data(), before);
}

TEST_F(ShardTest, Evaluation_KeepsItsVersionUntilReleased) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  PushAll(shard, 0, 1);
  shard.Bind(Binding(1, true));
  PushAll(shard, 1, 1);
  // Training went on; any member may still read version 1 of any fragment.
  const ShardActions actions = shard.Pull(Want(13, {Masked()}, 1));
  ASSERT_EQ(actions.deliveries.size(), 1u);
  EXPECT_EQ(actions.deliveries[0].value->data()[0], 0);
  EXPECT_GT(shard.counts().retained_bytes, 0);
  shard.ReleaseEvaluation(1);
  EXPECT_EQ(shard.counts().retained_bytes, 0);
  EXPECT_EQ(shard.Pull(Want(13, {Masked()}, 1)).deliveries.at(0).answer, Answer::kStepClosed);
}

TEST_F(ShardTest, Reports_ComeOnceInOrder_AndAgainAfterReconnect) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  const ShardActions actions = PushAll(shard, 0, 2);
  ASSERT_EQ(actions.reduced.size(), 1u);
  ASSERT_EQ(actions.done.size(), 1u);
  ASSERT_EQ(actions.reduced[0].squares.size(), shard.owned().size());
  EXPECT_EQ(actions.reduced[0].squares[0],
            4.0 * static_cast<double>(layout_.fragment(FragmentId(0)).size));
  const ShardActions again = shard.Reconnected();
  EXPECT_EQ(again.reduced.size(), 1u);
  EXPECT_EQ(again.done.size(), 2u);  // of step -1 (start state) and 0
}

TEST_F(ShardTest, Clipping_WaitsForTheScale) {
  options_.clip = true;
  Shard& shard = Make();
  shard.Bind(Binding(0));
  const ShardActions reduced = PushAll(shard, 0, 2);
  EXPECT_EQ(reduced.reduced.size(), 1u);
  EXPECT_TRUE(reduced.done.empty());
  EXPECT_EQ(shard.version(Masked()), 0);
  EXPECT_EQ(shard.Scale({Generation(1), 0, 0.25}).done.size(), 1u);
  EXPECT_EQ((*shard.value(Masked())).data()[0], 0.5);
  EXPECT_TRUE(shard.Scale({Generation(1), 0, 0.25}).done.empty());  // twice
  EXPECT_EQ((*shard.value(Masked())).data()[0], 0.5);
}

TEST_F(ShardTest, OverBudget_RefusesAllButTheOldestRound) {
  options_.round_bytes = 4;
  Shard& shard = Make();
  shard.Bind(Binding(0));
  EXPECT_EQ(Only(shard.Push(Key(11, Masked()), Gradient(Masked(), 1))), Answer::kRetryAfter);
  const FragmentId last = shard.owned().back();
  EXPECT_EQ(Only(shard.Push(Key(11, last), Gradient(last, 1))), Answer::kReceived);
}

TEST_F(ShardTest, Bindings_InAnyOrder) {
  Shard& shard = Make();
  ShardBinding second = Binding(1);
  second.holders = nullptr;  // as in the binding before, which has not come
  shard.Bind(second);
  EXPECT_TRUE(shard.Pull(Want(11, {Masked()}, 1)).deliveries.empty());
  shard.Bind(Binding(0));
  shard.Bind(Binding(0));
  PushAll(shard, 0, 1);
  const ShardActions done = PushAll(shard, 1, 1);
  EXPECT_EQ(done.done.size(), 1u);
}

TEST_F(ShardTest, Closing_ReportsHashesOnceTheVersionIsThere) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  EXPECT_TRUE(shard.Bind(Binding(1, false, true)).hashes.empty());
  const ShardActions actions = PushAll(shard, 0, 1);
  ASSERT_EQ(actions.hashes.size(), 1u);
  EXPECT_EQ(actions.hashes[0].step, 1);
  EXPECT_EQ(actions.hashes[0].hashes.size(), shard.owned().size());
  EXPECT_EQ(Only(shard.Push(Key(11, Masked(), 1), Gradient(Masked(), 1))), Answer::kInvalid);
}

// ---- What people see ----

TEST_F(ShardTest, Blocks_SayHowFarEachIs_AndWhoIsMissing) {
  Shard& shard = Make();
  const int64_t all = static_cast<int64_t>(catalog_.units.size());
  for (const Shard::BlockState& block : shard.blocks(UnitId(0), all))
    EXPECT_EQ(block.open_rounds, 0) << "nothing is bound";
  EXPECT_TRUE(shard.awaited(16).empty());

  shard.Bind(Binding(0));
  const std::vector<FragmentId>& fragments = layout_.block(UnitId(1));
  for (const FragmentId id : fragments) shard.Push(Key(11, id), Gradient(id, 1));
  const auto one = shard.blocks(UnitId(1), 1);
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].unit, UnitId(1));
  EXPECT_EQ(one[0].fragments, static_cast<int64_t>(fragments.size()));
  EXPECT_EQ(one[0].open_rounds, one[0].fragments);
  EXPECT_EQ(one[0].contributions, 1);
  EXPECT_EQ(one[0].holders, 2);
  EXPECT_EQ(one[0].missing, std::vector<Incarnation>{Incarnation(12)});
  EXPECT_EQ(shard.awaited(16).size(), 3u) << "the others' blocks";
  EXPECT_EQ(shard.awaited(2).size(), 2u);

  PushAll(shard, 0, 1);
  for (const Shard::BlockState& block : shard.blocks(UnitId(0), all)) {
    EXPECT_EQ(block.oldest_version, 1);
    EXPECT_EQ(block.open_rounds, 0) << "step 1 is not bound";
  }
}

}  // namespace
}  // namespace sdp
