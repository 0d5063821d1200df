// The shard's optimizers against torch.optim's, over many steps with the same gradients.
#include <torch/optim.h>
#include <torch/types.h>

#include <cmath>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "server/shard/logic/optimizer.h"

namespace sdp {
namespace {

constexpr int64_t kSize = 1000;

// Runs both for `steps` steps and returns the largest difference of the weights.
double LargestDifference(const OptimizerOptions& options, torch::optim::Optimizer& reference,
                         torch::Tensor& weights, int steps) {
  const std::unique_ptr<Optimizer> ours = MakeOptimizer(options);
  FloatBuffer value(kSize);
  std::copy_n(weights.data_ptr<float>(), kSize, value.data());
  OptimizerState state = ours->NewState(kSize);
  torch::manual_seed(1);
  for (int t = 0; t < steps; ++t) {
    const torch::Tensor gradient = torch::randn({kSize}) * std::pow(10.0, -(t % 5));
    weights.mutable_grad() = gradient.clone();
    for (auto& group : reference.param_groups()) {
      group.options().set_lr(LearningRate(options, t));
    }
    reference.step();
    ++state.updates;
    // In two ranges and into another buffer, as blocks with norms and versions under way are
    // updated.
    FloatBuffer next(kSize);
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 333}, {333, kSize}}) {
      ours->Update(value.data(), gradient.data_ptr<float>(), next.data(), state, begin, end, 1,
                   LearningRate(options, t), options.weight_decay, state.updates);
    }
    value = std::move(next);
  }
  double largest = 0;
  for (int64_t i = 0; i < kSize; ++i) {
    largest =
        std::max(largest, std::abs(double{value.data()[i]} - double{weights.data_ptr<float>()[i]}));
  }
  return largest;
}

// Weights are of order 1: each f32 step rounds by up to 2^-24 of that, in another order of
// operations than torch's.
constexpr double kTolerance = 100 * 6e-8;

TEST(OptimizerTest, AdamW_AsTorch) {
  for (const double decay : {0.0, 0.1}) {
    OptimizerOptions options{.lr = 3e-3,
                             .weight_decay = decay,
                             .schedule = OptimizerOptions::Schedule::kCosine,
                             .warmup_steps = 10,
                             .steps = 100};
    torch::Tensor weights = torch::randn({kSize}).requires_grad_(true);
    torch::optim::AdamW reference({weights}, torch::optim::AdamWOptions(options.lr)
                                                 .betas({options.beta1, options.beta2})
                                                 .eps(options.eps)
                                                 .weight_decay(decay));
    EXPECT_LT(LargestDifference(options, reference, weights, 100), kTolerance);
  }
}

TEST(OptimizerTest, Sgd_AsTorch) {
  for (const auto& [momentum, nesterov] :
       {std::pair{0.0, false}, {0.9, false}, {0.9, true}, {0.3, true}}) {
    OptimizerOptions options{.kind = OptimizerOptions::Kind::kSgd,
                             .lr = 0.05,
                             .weight_decay = 5e-4,
                             .momentum = momentum,
                             .nesterov = nesterov,
                             .schedule = OptimizerOptions::Schedule::kWarmupStableDecay,
                             .warmup_steps = 10,
                             .steps = 100};
    torch::Tensor weights = torch::randn({kSize}).requires_grad_(true);
    torch::optim::SGD reference({weights}, torch::optim::SGDOptions(options.lr)
                                               .momentum(momentum)
                                               .nesterov(nesterov)
                                               .weight_decay(options.weight_decay));
    EXPECT_LT(LargestDifference(options, reference, weights, 100), kTolerance);
  }
}

TEST(OptimizerTest, InPlace_SameBitsAsIntoAnotherBuffer) {
  using Kind = OptimizerOptions::Kind;
  for (const OptimizerOptions& options :
       {OptimizerOptions{}, {.kind = Kind::kSgd}, {.kind = Kind::kSgd, .nesterov = true}}) {
    const auto optimizer = MakeOptimizer(options);
    FloatBuffer value(kSize), gradient(kSize), next(kSize);
    for (int64_t i = 0; i < kSize; ++i) {
      value.data()[i] = std::sin(static_cast<float>(i));
      gradient.data()[i] = std::cos(static_cast<float>(i));
    }
    OptimizerState one = optimizer->NewState(kSize), two = optimizer->NewState(kSize);
    optimizer->Update(value.data(), gradient.data(), next.data(), one, 0, kSize, 0.5f, 0.1, 0.1, 1);
    optimizer->Update(value.data(), gradient.data(), value.data(), two, 0, kSize, 0.5f, 0.1, 0.1,
                      1);
    for (int64_t i = 0; i < kSize; ++i) ASSERT_EQ(value.data()[i], next.data()[i]);
  }
}

TEST(OptimizerTest, Schedules) {
  OptimizerOptions options{
      .lr = 2, .schedule = OptimizerOptions::Schedule::kCosine, .warmup_steps = 4, .steps = 12};
  EXPECT_DOUBLE_EQ(LearningRate(options, 0), 0.5);
  EXPECT_DOUBLE_EQ(LearningRate(options, 3), 2);
  EXPECT_DOUBLE_EQ(LearningRate(options, 4), 2);
  EXPECT_DOUBLE_EQ(LearningRate(options, 8), 1);
  EXPECT_NEAR(LearningRate(options, 11), 1 + std::cos(M_PI * 7 / 8), 1e-15);
  options.schedule = OptimizerOptions::Schedule::kConstant;
  EXPECT_DOUBLE_EQ(LearningRate(options, 11), 2);
}

TEST(OptimizerTest, BatchFactor_LinearForSgd_RootForAdamW_OfWhatLrIsMeantFor) {
  OptimizerOptions options{.kind = OptimizerOptions::Kind::kSgd};
  EXPECT_EQ(BatchFactor(options, 7), 1);  // the batch is always the same
  options.worker_batch = 8;
  options.global_batch = 32;
  EXPECT_EQ(BatchFactor(options, 4), 1);
  EXPECT_EQ(BatchFactor(options, 2), 0.5);
  EXPECT_EQ(BatchFactor(options, 16), 4);
  options.kind = OptimizerOptions::Kind::kAdamW;
  EXPECT_EQ(BatchFactor(options, 4), 1);
  EXPECT_EQ(BatchFactor(options, 1), 0.5);
  EXPECT_EQ(BatchFactor(options, 16), 2);
}

// Walked step by step: up by equal amounts, level, then down by equal amounts that reach 0 behind
// the last step.
TEST(OptimizerTest, WarmupStableDecay_IsThreeStraightLines) {
  const OptimizerOptions options{.lr = 0.75,
                                 .schedule = OptimizerOptions::Schedule::kWarmupStableDecay,
                                 .warmup_steps = 5,
                                 .decay_fraction = 0.2,
                                 .steps = 50};
  double rate = 0;
  for (Step t = 0; t < 50; ++t) {
    if (t < 5) rate += 0.75 / 5;
    if (t > 40) rate -= 0.75 / 10;
    EXPECT_NEAR(LearningRate(options, t), rate, 1e-14) << t;
  }
  EXPECT_NEAR(rate, 0.075, 1e-14);
  // A decay of 2.5 steps: those that begin 2 and 1 steps before the end are in it.
  const OptimizerOptions part{.lr = 1,
                              .schedule = OptimizerOptions::Schedule::kWarmupStableDecay,
                              .decay_fraction = 0.25,
                              .steps = 10};
  EXPECT_EQ(LearningRate(part, 7), 1);
  EXPECT_DOUBLE_EQ(LearningRate(part, 8), 0.8);
  EXPECT_DOUBLE_EQ(LearningRate(part, 9), 0.4);
}

}  // namespace
}  // namespace sdp
