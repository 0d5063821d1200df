// Backward masking: everyone reads everything, and versions stay for the slowest reader.
#include <cmath>

#include "gtest/gtest.h"
#include "server/shard/logic/shard.h"
#include "tests/shard/fixture.h"

namespace sdp {
namespace {

using ShardBackwardTest = ShardTest;

// ---- Backward masking: members read what they do not hold ----

TEST_F(ShardBackwardTest, AllMembersRead_NoStrangerDoes_AndHoldersAlonePush) {
  options_.masking = Masking::kBackward;
  Shard& shard = Make();
  shard.Bind(Binding(0));
  EXPECT_EQ(Read(shard, 13, Masked(), 0), 1);
  EXPECT_TRUE(std::isnan(Read(shard, 99, Masked(), 0)));
  EXPECT_EQ(Only(shard.Push(Key(13, Masked()), Gradient(Masked(), 1))), Answer::kInvalid);
  EXPECT_TRUE(std::isnan(Read(shard, 13, Masked(), 1)));  // waits for its binding
  const ShardActions closing = shard.Bind(Binding(1, false, /*closing=*/true));
  ASSERT_EQ(closing.deliveries.size(), 1u);
  EXPECT_EQ(closing.deliveries[0].answer, Answer::kInvalid);
}

// The holders go on, two steps far; the version of each step is there for who is late.
TEST_F(ShardBackwardTest, VersionsStayUntilTheirReadersAreDone) {
  options_.masking = Masking::kBackward;
  Shard& shard = Make();
  for (const Step step : {0, 1}) {
    shard.Bind(Binding(step));
    PushAll(shard, step, 1);
  }
  EXPECT_EQ(shard.version(Masked()), 2);
  for (int again = 0; again < 2; ++again) {  // no single read ends anything
    EXPECT_EQ(Read(shard, 13, Masked(), 0), 1);
    EXPECT_EQ(Read(shard, 13, Masked(), 1), 0);
  }
  AllDone(shard, 0);
  EXPECT_TRUE(std::isnan(Read(shard, 13, Masked(), 0)));
  EXPECT_EQ(Read(shard, 13, Masked(), 1), 0);
  shard.Done(Done(11, 1));
  shard.Done(Done(12, 1));
  EXPECT_EQ(Read(shard, 13, Masked(), 1), 0);
  EXPECT_GT(shard.counts().retained_bytes, 0);
  shard.Done(Done(13, 1));
  EXPECT_EQ(shard.counts().retained_bytes, 0);
  EXPECT_EQ(shard.Pull(Want(13, {Masked()}, 1)).deliveries.at(0).answer, Answer::kStepClosed);
}

// All hold what is shared, and their contributions are complete.
TEST_F(ShardBackwardTest, HoldersContribution_EndsItsReads) {
  options_.masking = Masking::kBackward;
  Shard& shard = Make();
  shard.Bind(Binding(0));
  PushAll(shard, 0, 1);
  int64_t masked = 0;
  for (const FragmentId id : shard.owned()) {
    const Fragment& fragment = layout_.fragment(id);
    if (!catalog_.unit(fragment.unit).shared) masked += fragment.size;
  }
  EXPECT_EQ(shard.counts().retained_bytes, 4 * masked);
}

TEST_F(ShardBackwardTest, DoneEarlyTwiceAndOutOfOrder) {
  options_.masking = Masking::kBackward;
  Shard& shard = Make();
  AllDone(shard, 1);        // before either binding
  shard.Done(Done(13, 0));  // overtaken: what was said last holds
  shard.Done(Done(13, 1));
  for (const Step step : {0, 1, 2}) {
    shard.Bind(Binding(step));
    PushAll(shard, step, 1);
    EXPECT_EQ(shard.counts().retained_bytes > 0, step == 2);
  }
  AllDone(shard, 2);
  AllDone(shard, 1);
  AllDone(shard, 2);
  EXPECT_EQ(shard.counts().retained_bytes, 0);
}

TEST_F(ShardBackwardTest, DoneThatMakesNoSense_IsDropped) {
  options_.masking = Masking::kBackward;
  Shard& shard = Make();
  shard.Bind(Binding(0));
  AllDone(shard, 1000);
  for (const int64_t worker : {11, 12, 13}) {
    ReadsDone other = Done(worker, 0);
    other.generation = Generation(2);
    shard.Done(other);
  }
  shard.Done(Done(99, 0));
  PushAll(shard, 0, 1);
  EXPECT_EQ(Read(shard, 13, Masked(), 0), 1);
}

// A version that an evaluation reads, too, waits for both.
TEST_F(ShardBackwardTest, EvaluationAndReaders_InEitherOrder) {
  options_.masking = Masking::kBackward;
  for (const bool released_first : {false, true}) {
    Shard& shard = Make();
    shard.Bind(Binding(0, /*evaluate=*/true));
    PushAll(shard, 0, 1);
    if (released_first) {
      shard.ReleaseEvaluation(0);
    } else {
      AllDone(shard, 0);
    }
    EXPECT_EQ(Read(shard, 13, Masked(), 0), 1);
    if (released_first) {
      AllDone(shard, 0);
    } else {
      shard.ReleaseEvaluation(0);
    }
    EXPECT_EQ(shard.counts().retained_bytes, 0);
    EXPECT_TRUE(std::isnan(Read(shard, 13, Masked(), 0)));
  }
}

}  // namespace
}  // namespace sdp
