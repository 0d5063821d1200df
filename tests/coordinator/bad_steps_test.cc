// Losses and gradients that are not finite: the run ends, or the step is skipped.
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/coordinator/logic/coordinator.h"
#include "tests/coordinator/fixture.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

class BadStepsTest : public CoordinatorTest {};

TEST_F(BadStepsTest, NotFinite_EndsTheRunNamingStepAndWorker) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  const CoordinatorActions actions =
      c.OnNotFinite({"worker-1", 0, "the loss", Incarnation(1)}, now_);
  ASSERT_TRUE(actions.stop.has_value());
  EXPECT_TRUE(absl::IsOutOfRange(*actions.stop));
  EXPECT_THAT(std::string(actions.stop->message()), HasSubstr("step 0: the loss of worker-1"));
}

class SkipTest : public CoordinatorTest {
 protected:
  SkipTest() {
    options_.clip_norm = 0.5;
    options_.eval_every = 0;
    options_.steps = 100;
  }
  // Step t, of which the shard has seen that a loss is not finite, but for its commit.
  CoordinatorActions Reduce(Coordinator& c, Step t, bool finite) {
    Begin(c, 1, t);
    Reduced reduced{
        ShardId(0), t, std::vector<double>(static_cast<size_t>(layout_.fragments()), 1.0), {}};
    if (!finite) reduced.not_finite = NotFiniteReport{"shard-0", t, "the loss", Incarnation(1)};
    return Settle(c, c.OnReduced(reduced, now_));
  }
};

TEST_F(SkipTest, SeenByAShard_TheStepChangesNothing_AndIsNamed) {
  Coordinator c(options_);
  Gather(c);
  const auto step = [&](Step t, bool finite) {
    CoordinatorActions all = Reduce(c, t, finite);
    all.Append(CommitStep(c, t));
    return all;
  };
  const CoordinatorActions good = step(0, true);
  EXPECT_GT(good.scales.at(0).scale.scale, 0);
  EXPECT_EQ(good.metrics.at(0).skipped, "");
  for (Step t = 1; t < 50; ++t) {
    const CoordinatorActions bad = step(t, false);
    ASSERT_EQ(bad.scales.size(), 1u);
    EXPECT_EQ(bad.scales[0].scale.scale, 0);
    ASSERT_EQ(bad.events.size(), 1u);
    EXPECT_EQ(bad.events[0].kind, RunEvent::Kind::kSkip);
    EXPECT_EQ(bad.events[0].step, t);
    EXPECT_THAT(bad.metrics.at(0).skipped, HasSubstr("the loss of worker-1"));
    EXPECT_FALSE(bad.stop.has_value());
  }
  step(50, true);  // begins the count again
  for (Step t = 51; t < 100; ++t) EXPECT_FALSE(step(t, false).stop.has_value()) << t;
}

TEST_F(SkipTest, FiftyStepsInARow_EndTheRun) {
  Coordinator c(options_);
  Gather(c);
  for (Step t = 0; t < 50; ++t) {
    const CoordinatorActions actions = Reduce(c, t, /*finite=*/false);
    ASSERT_EQ(actions.stop.has_value(), t == 49) << t;
    if (t == 49) {
      EXPECT_THAT(std::string(actions.stop->message()), HasSubstr("steps 0 to 49"));
    } else {
      CommitStep(c, t);
    }
  }
}

TEST_F(BadStepsTest, FullLossNotFinite_EndsTheRun) {
  Coordinator c(options_);
  Gather(c);
  for (Step t = 0; t < 2; ++t) {
    Begin(c, 1, t);
    CommitStep(c, t);
  }
  Begin(c, 1, 2);
  c.OnEvaluation(Evaluated(1, 2, std::numeric_limits<double>::infinity(), 5), now_);
  EXPECT_TRUE(c.OnEvaluation(Evaluated(2, 2, 1, 5), now_).stop.has_value());
}

}  // namespace
}  // namespace sdp
