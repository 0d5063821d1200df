// Diagnostics: holders' norms, and dense gradients beside the round's mean.
#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/shard/logic/shard.h"
#include "tests/shard/fixture.h"

namespace sdp {
namespace {

using ShardComparisonTest = ShardTest;

// In the order of the set, not of arrival; a holder without samples counts 0.
TEST_F(ShardComparisonTest, Diagnosed_ReportsEachHoldersNorm) {
  Shard& shard = Make();
  ShardBinding binding = Binding(0);
  binding.diagnose = true;
  shard.Bind(binding);
  std::vector<Reduced> reports;
  std::vector<double> expected;
  for (const FragmentId id : shard.owned()) {
    const bool shared = catalog_.unit(layout_.fragment(id).unit).shared;
    const auto size = static_cast<double>(layout_.fragment(id).size);
    for (const int64_t worker :
         shared ? std::vector<int64_t>{13, 12, 11} : std::vector<int64_t>{12, 11}) {
      const ShardActions actions =
          worker == 12 ? shard.Push(Key(worker, id, 0, 0), FloatBuffer())
                       : shard.Push(Key(worker, id, 0, 3), Gradient(id, worker == 11 ? 2 : 5));
      for (const Reduced& reduced : actions.reduced) reports.push_back(reduced);
    }
    expected.insert(expected.end(), {4 * size, 0});
    if (shared) expected.push_back(25 * size);
  }
  ASSERT_EQ(reports.size(), 1u);
  EXPECT_EQ(reports[0].holder_squares, expected);

  shard.Bind(Binding(1));  // not diagnosed
  EXPECT_TRUE(PushAll(shard, 1, 1).reduced.at(0).holder_squares.empty());
}

// Members 11, 12 and 13 push 2, 3 and 7 of 1, 2 and 1 terms as dense gradients, 11 and 12 (of
// shared units 13 too) 1 to train with. Whichever closes first waits for the other.
TEST_F(ShardComparisonTest, DenseGradients_AreComparedWithTheMean) {
  for (const bool dense_first : {true, false}) {
    Shard& shard = Make();
    ShardBinding binding = Binding(0);
    binding.diagnose = true;
    shard.Bind(binding);
    std::vector<Diagnosed> reports;
    const auto keep = [&](const ShardActions& actions) {
      reports.insert(reports.end(), actions.diagnosed.begin(), actions.diagnosed.end());
    };
    const auto train = [&] {
      for (const FragmentId id : shard.owned()) {
        for (const int64_t worker : {11, 12, 13})
          keep(shard.Push(Key(worker, id), Gradient(id, 1)));
      }
    };
    if (!dense_first) train();
    for (const FragmentId id : shard.owned()) {
      EXPECT_TRUE(reports.empty());
      keep(shard.Push(Dense(12, id, 0, 2), Gradient(id, 3)));
      keep(shard.Push(Dense(13, id, 0, 1), Gradient(id, 7)));
      EXPECT_EQ(Only(shard.Push(Dense(13, id, 0, 1), Gradient(id, 9))),
                Answer::kReceived);  // twice
      keep(shard.Push(Dense(11, id, 0, 1), Gradient(id, 2)));
    }
    EXPECT_EQ(shard.counts().round_bytes, dense_first ? 4 * Elements(shard) : 0);
    if (dense_first) train();
    ASSERT_EQ(reports.size(), 1u);
    EXPECT_EQ(reports[0].step, 0);
    ASSERT_EQ(reports[0].fragments.size(), shard.owned().size());
    for (size_t f = 0; f < shard.owned().size(); ++f) {
      const auto size = static_cast<double>(layout_.fragment(shard.owned()[f]).size);
      EXPECT_EQ(reports[0].fragments[f], (GradientComparison{4, 3.75 * size, 3.75 * 3.75 * size}));
      EXPECT_EQ(shard.version(shard.owned()[f]), 1);
      EXPECT_EQ((*shard.value(shard.owned()[f])).data()[0], 0);  // as without them
    }
    EXPECT_EQ(shard.counts().round_bytes, 0);
    EXPECT_EQ(shard.Reconnected().diagnosed.size(), 1u);
    EXPECT_EQ(Only(shard.Push(Dense(11, Masked()), Gradient(Masked(), 1))), Answer::kStepClosed);
  }
}

TEST_F(ShardComparisonTest, DenseGradient_ThatNobodyAskedFor_IsInvalidAndNamed) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  const ShardActions actions = shard.Push(Dense(11, Masked()), Gradient(Masked(), 1));
  EXPECT_EQ(Only(actions), Answer::kInvalid);
  EXPECT_EQ(actions.answers[0].purpose, Purpose::kDense);
  EXPECT_NE(actions.answers[0].detail.find("layers.0.attention"), std::string::npos);
  ShardBinding binding = Binding(1);
  binding.diagnose = true;
  shard.Bind(binding);
  EXPECT_EQ(Only(shard.Push(Dense(99, Masked(), 1), Gradient(Masked(), 1))), Answer::kInvalid);
  EXPECT_EQ(Only(shard.Push(Dense(13, Masked(), 1), FloatBuffer(3))), Answer::kInvalid);
  EXPECT_EQ(Only(shard.Push(Dense(13, Masked(), 1), Gradient(Masked(), 1))), Answer::kReceived);
}

// Of every fragment, for all members, until it is released.
TEST_F(ShardComparisonTest, Diagnosed_KeepsItsVersion) {
  Shard& shard = Make();
  ShardBinding binding = Binding(0);
  binding.diagnose = true;
  shard.Bind(binding);
  shard.Bind(Binding(1));
  EXPECT_EQ(Read(shard, 13, Masked(), 0), 1);
  PushAll(shard, 0, 5);
  EXPECT_EQ(Read(shard, 13, Masked(), 0), 1);
  shard.ReleaseEvaluation(0);
  EXPECT_TRUE(std::isnan(Read(shard, 13, Masked(), 0)));
  EXPECT_EQ(shard.counts().round_bytes, 0);  // given up: nothing of it stays
}

// What an excluded member has pushed counts, what it has not is not waited for, whether training's
// round is over or not.
TEST_F(ShardComparisonTest, Excluded_IsLeftOutOfTheDenseSum) {
  for (const bool before_the_round : {true, false}) {
    Shard& shard = Make();
    ShardBinding binding = Binding(0);
    binding.diagnose = true;
    shard.Bind(binding);
    const Exclusion exclusion{Generation(1), 1, Incarnation(13)};
    ShardActions last;
    if (before_the_round) shard.Exclude(exclusion);
    PushAll(shard, 0, 1);
    for (const FragmentId id : shard.owned()) {
      shard.Push(Dense(11, id, 0, 1), Gradient(id, 2));
      last = shard.Push(Dense(12, id, 0, 3), Gradient(id, 6));
    }
    if (!before_the_round) last = shard.Exclude(exclusion);
    ASSERT_EQ(last.diagnosed.size(), 1u);
    for (const GradientComparison& compared : last.diagnosed[0].fragments) {
      EXPECT_EQ(compared.terms, 4);
      EXPECT_EQ(compared.square, 5 * compared.dot);
    }
  }
}

// Headers wait for their binding, each of its purpose; a sum over nobody's terms, or one that is
// not finite, is not compared, and stops nothing.
TEST_F(ShardComparisonTest, DenseGradient_MissingOrNotFinite_IsNotCompared) {
  Shard& shard = Make();
  ShardBinding binding = Binding(0);
  binding.diagnose = true;
  for (const FragmentId id : shard.owned()) {
    if (id == Masked()) continue;
    for (const int64_t worker : {11, 12, 13}) shard.Push(Dense(worker, id, 0, 0), FloatBuffer());
  }
  shard.Push(Key(12, Masked(), 0, 0), FloatBuffer());
  shard.Push(Dense(12, Masked(), 0, 0), FloatBuffer());
  shard.Bind(binding);
  const ShardActions bad = shard.Push(Dense(11, Masked()), Gradient(Masked(), NAN));
  EXPECT_EQ(Only(bad), Answer::kReceived);
  EXPECT_TRUE(bad.not_finite.empty());
  shard.Push(Dense(13, Masked()), Gradient(Masked(), 1));
  const ShardActions all = PushAll(shard, 0, 1);
  EXPECT_EQ(all.done.size(), 1u);
  const std::vector<Diagnosed> reports = shard.Reconnected().diagnosed;
  ASSERT_EQ(reports.size(), 1u);
  for (const GradientComparison& compared : reports[0].fragments)
    EXPECT_EQ(compared, GradientComparison());
}

}  // namespace
}  // namespace sdp
