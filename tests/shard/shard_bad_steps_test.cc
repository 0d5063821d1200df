// Gradients and sums that are not finite.
#include <cmath>
#include <limits>
#include <string>

#include "gtest/gtest.h"
#include "server/shard/logic/shard.h"
#include "tests/shard/fixture.h"

namespace sdp {
namespace {

using ShardBadStepsTest = ShardTest;

TEST_F(ShardBadStepsTest, Push_NotFinite_IsRefusedAndReported_RoundStaysOpen) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  const ShardActions actions = shard.Push(Key(11, Masked()), Gradient(Masked(), NAN));
  EXPECT_EQ(Only(actions), Answer::kNotFinite);
  ASSERT_EQ(actions.not_finite.size(), 1u);
  EXPECT_EQ(actions.not_finite[0].worker, Incarnation(11));
  EXPECT_EQ(shard.version(Masked()), 0);
  EXPECT_EQ((*shard.value(Masked())).data()[0], 1);
}

TEST_F(ShardBadStepsTest, NotFinite_Skipped_CountsAsWithoutSamples_AndReducedNamesIt) {
  options_.clip = true;
  options_.skip_not_finite = true;
  Shard& shard = Make();
  shard.Bind(Binding(0));
  const ShardActions bad = shard.Push(Key(11, Masked()), Gradient(Masked(), NAN));
  EXPECT_EQ(Only(bad), Answer::kReceived);
  EXPECT_TRUE(bad.not_finite.empty());
  const ShardActions all = PushAll(shard, 0, 2);
  ASSERT_EQ(all.reduced.size(), 1u);
  ASSERT_TRUE(all.reduced[0].not_finite.has_value());
  EXPECT_EQ(all.reduced[0].not_finite->worker, Incarnation(11));
  EXPECT_NE(all.reduced[0].not_finite->what.find("layers.0"), std::string::npos);
  for (size_t f = 0; f < shard.owned().size(); ++f)  // of the others' gradients
    EXPECT_EQ(all.reduced[0].squares[f], 4.0 * layout_.fragment(shard.owned()[f]).size);
}

TEST_F(ShardBadStepsTest, SumThatOverflows_Skipped_HasNoSquares) {
  options_.clip = true;
  options_.skip_not_finite = true;
  Shard& shard = Make();
  shard.Bind(Binding(0));
  const float large = std::numeric_limits<float>::max();
  for (const int64_t worker : {11, 12})
    shard.Push(Key(worker, Masked(), 0, 4), Gradient(Masked(), large));
  const ShardActions all = PushAll(shard, 0, 2);
  ASSERT_EQ(all.reduced.size(), 1u);
  ASSERT_TRUE(all.reduced[0].not_finite.has_value());
  EXPECT_NE(all.reduced[0].not_finite->what.find("mean gradient"), std::string::npos);
  EXPECT_EQ(absl::c_count(all.reduced[0].squares, 0.0), 1);
}

TEST_F(ShardBadStepsTest, ScaleOfZero_ChangesNothingButTheVersion) {
  options_.clip = true;
  options_.optimizer.momentum = 0.5;
  options_.optimizer.weight_decay = 0.5;
  Shard& shard = Make();
  shard.Bind(Binding(0));
  PushAll(shard, 0, 1);
  shard.Scale({Generation(1), 0, 1});
  const float before = (*shard.value(Masked())).data()[0];
  shard.Bind(Binding(1));
  PushAll(shard, 1, 100);
  EXPECT_EQ(shard.Scale({Generation(1), 1, 0}).done.size(), 1u);
  EXPECT_EQ(shard.version(Masked()), 2);
  EXPECT_EQ((*shard.value(Masked())).data()[0], before);
  // The next step finds momentum and update count as the one before left them.
  shard.Bind(Binding(2));
  PushAll(shard, 2, 1);
  shard.Scale({Generation(1), 2, 1});
  const float with_skip = (*shard.value(Masked())).data()[0];
  Shard& other = Make();
  for (const Step step : {0, 1}) {
    other.Bind(Binding(step));
    PushAll(other, step, 1);
    other.Scale({Generation(1), step, 1});
  }
  EXPECT_EQ((*other.value(Masked())).data()[0], with_skip);
}

// Each gradient is finite, their weighted sum is not: nothing of it is applied.
TEST_F(ShardBadStepsTest, Push_SumThatOverflows_IsReportedAndNotApplied) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  const float large = std::numeric_limits<float>::max();
  shard.Push(Key(11, Masked(), 0, 4), Gradient(Masked(), large));
  const ShardActions actions = shard.Push(Key(12, Masked(), 0, 4), Gradient(Masked(), large));
  ASSERT_EQ(actions.not_finite.size(), 1u);
  EXPECT_NE(actions.not_finite[0].what.find("mean gradient"), std::string::npos);
  EXPECT_EQ(shard.version(Masked()), 0);
  EXPECT_EQ(shard.value(Masked())->data()[0], 1);
}

}  // namespace
}  // namespace sdp
