#include "server/shard/logic/shard.h"

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "common/model/llama.h"
#include "gtest/gtest.h"

namespace sdp {
namespace {

// One shard with all fragments of a small LLaMA; workers 11, 12 (incarnations) hold everything, 13
// only what is shared.
class ShardTest : public testing::Test {
 protected:
  ShardTest()
      : catalog_(LlamaCatalog(
            {.dim = 4, .layers = 2, .heads = 2, .kv_heads = 1, .ffn_dim = 6, .vocab = 8},
            TransformerUnit::kSublayer, 4)),
        layout_(catalog_, 40) {
    options_.name = "shard-0";
    options_.catalog = &catalog_;
    options_.layout = &layout_;
    options_.generation = Generation(1);
    options_.term = Term(1);
    options_.optimizer.kind = OptimizerOptions::Kind::kSgd;
    options_.optimizer.lr = 1;
    options_.optimizer.momentum = 0;
    options_.optimizer.weight_decay = 0;
    options_.optimizer.steps = 100;
  }

  Shard& Make() {
    shard_ = std::make_unique<Shard>(options_,
                                     [](FragmentId, absl::Span<float> values, OptimizerState&) {
                                       for (float& value : values) value = 1;
                                     });
    shard_->Start();
    return *shard_;
  }

  ShardBinding Binding(Step step, bool evaluate = false, bool closing = false,
                       bool checkpoint = false) {
    auto sets = std::make_shared<HolderSets>();
    sets->members = {Incarnation(11), Incarnation(12), Incarnation(13)};
    sets->sets = {{Incarnation(11), Incarnation(12)},
                  {Incarnation(11), Incarnation(12), Incarnation(13)}};
    for (const UnitSpec& unit : catalog_.units) sets->set_of_unit.push_back(unit.shared ? 1 : 0);
    return {Generation(1), ViewId(1), step, 0, sets, evaluate, closing, checkpoint};
  }

  PushKey Key(int64_t worker, FragmentId fragment, Step step = 0, int64_t terms = 1) {
    PushKey key;
    key.generation = Generation(1);
    key.view = ViewId(1);
    key.term = Term(1);
    key.step = step;
    key.worker = Incarnation(worker);
    key.fragment = fragment;
    key.terms = terms;
    return key;
  }

  PushKey Dense(int64_t worker, FragmentId fragment, Step step = 0, int64_t terms = 1) {
    PushKey key = Key(worker, fragment, step, terms);
    key.purpose = Purpose::kDense;
    return key;
  }
  int64_t Elements(const Shard& shard) const {
    int64_t elements = 0;
    for (const FragmentId id : shard.owned()) elements += layout_.fragment(id).size;
    return elements;
  }

  PullRequest Want(int64_t worker, std::vector<FragmentId> fragments, Step step = 0) {
    PullRequest request;
    static_cast<RequestKey&>(request) = Key(worker, FragmentId(0), step);
    request.fragments = std::move(fragments);
    return request;
  }

  ReadsDone Done(int64_t worker, Step step) { return {Key(worker, FragmentId(0), step)}; }
  // Of all members.
  void AllDone(Shard& shard, Step step) {
    for (const int64_t worker : {11, 12, 13}) shard.Done(Done(worker, step));
  }
  // The first element of a fragment that the worker asks for at `step`; NAN: refused, or not yet.
  float Read(Shard& shard, int64_t worker, FragmentId fragment, Step step) {
    const ShardActions actions = shard.Pull(Want(worker, {fragment}, step));
    if (actions.deliveries.empty() || actions.deliveries[0].value == nullptr) return NAN;
    return actions.deliveries[0].value->data()[0];
  }

  FloatBuffer Gradient(FragmentId fragment, float value) {
    FloatBuffer gradient(layout_.fragment(fragment).size);
    for (float& element : gradient.span()) element = value;
    return gradient;
  }

  // All holders of all fragments push `value` for `step`.
  ShardActions PushAll(Shard& shard, Step step, float value) {
    ShardActions all;
    for (const FragmentId id : shard.owned()) {
      for (const int64_t worker : {11, 12, 13}) {
        if (worker == 13 && !catalog_.unit(layout_.fragment(id).unit).shared) continue;
        ShardActions actions = shard.Push(Key(worker, id, step), Gradient(id, value));
        for (auto& reduced : actions.reduced) all.reduced.push_back(reduced);
        for (auto& done : actions.done) all.done.push_back(done);
        for (auto& hashes : actions.hashes) all.hashes.push_back(hashes);
        for (auto& delivery : actions.deliveries) all.deliveries.push_back(delivery);
      }
    }
    return all;
  }

  // A fragment of a unit that is not shared.
  FragmentId Masked() { return layout_.block(UnitId(1)).front(); }

  const Catalog catalog_;
  const Layout layout_;
  Shard::Options options_;
  std::unique_ptr<Shard> shard_;
};

Answer Only(const ShardActions& actions) {
  EXPECT_EQ(actions.answers.size(), 1u);
  return actions.answers.empty() ? Answer::kReceived : actions.answers[0].answer;
}

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

TEST_F(ShardTest, Push_NotFinite_IsRefusedAndReported_RoundStaysOpen) {
  Shard& shard = Make();
  shard.Bind(Binding(0));
  const ShardActions actions = shard.Push(Key(11, Masked()), Gradient(Masked(), NAN));
  EXPECT_EQ(Only(actions), Answer::kNotFinite);
  ASSERT_EQ(actions.not_finite.size(), 1u);
  EXPECT_EQ(actions.not_finite[0].worker, Incarnation(11));
  EXPECT_EQ(shard.version(Masked()), 0);
  EXPECT_EQ((*shard.value(Masked())).data()[0], 1);
}

TEST_F(ShardTest, NotFinite_Skipped_CountsAsWithoutSamples_AndReducedNamesIt) {
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

TEST_F(ShardTest, SumThatOverflows_Skipped_HasNoSquares) {
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

TEST_F(ShardTest, ScaleOfZero_ChangesNothingButTheVersion) {
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

// In the order of the set, not of arrival; a holder without samples counts 0.
TEST_F(ShardTest, Diagnosed_ReportsEachHoldersNorm) {
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
TEST_F(ShardTest, DenseGradients_AreComparedWithTheMean) {
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

TEST_F(ShardTest, DenseGradient_ThatNobodyAskedFor_IsInvalidAndNamed) {
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
TEST_F(ShardTest, Diagnosed_KeepsItsVersion) {
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
TEST_F(ShardTest, Excluded_IsLeftOutOfTheDenseSum) {
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
TEST_F(ShardTest, DenseGradient_MissingOrNotFinite_IsNotCompared) {
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

// ---- Backward masking: members read what they do not hold ----

TEST_F(ShardTest, Backward_AllMembersRead_NoStrangerDoes_AndHoldersAlonePush) {
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
TEST_F(ShardTest, Backward_VersionsStayUntilTheirReadersAreDone) {
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
TEST_F(ShardTest, Backward_HoldersContribution_EndsItsReads) {
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

TEST_F(ShardTest, Backward_DoneEarlyTwiceAndOutOfOrder) {
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

TEST_F(ShardTest, Backward_DoneThatMakesNoSense_IsDropped) {
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
TEST_F(ShardTest, Backward_EvaluationAndReaders_InEitherOrder) {
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

// Version 0 is complete, so it is handed out at once; the round of step 0 closes meanwhile, but
// without room for two versions nothing goes beyond version 0 until it is written.
TEST_F(ShardTest, Checkpoint_VersionStaysUntilWritten) {
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
TEST_F(ShardTest, Checkpoint_KeepsWhatItHasRoomFor_AndTheRestWaits) {
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
TEST_F(ShardTest, Checkpoint_OfManyFragments_CostsNoMoreThanItsPushes) {
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

TEST_F(ShardTest, Checkpoint_WithRoom_NothingInItChangesWhileTrainingGoesOn) {
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
TEST_F(ShardTest, Checkpoint_OfALaterVersion_WithClipping) {
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

TEST_F(ShardTest, Checkpoint_OfTheClosingBinding) {
  Shard& shard = Make();
  const ShardActions bound = shard.Bind(Binding(0, false, true, true));
  EXPECT_EQ(bound.snapshots.size(), 1u);
  EXPECT_EQ(bound.hashes.size(), 1u);
  EXPECT_TRUE(shard.Written(0).done.empty());
}

TEST_F(ShardTest, Restored_BeginsAtItsStepWithItsState) {
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

// Each gradient is finite, their weighted sum is not: nothing of it is applied.
TEST_F(ShardTest, Push_SumThatOverflows_IsReportedAndNotApplied) {
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
