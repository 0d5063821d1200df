// Training in bf16 over a simulated cluster: it follows f32's losses, with half of the bytes, and
// its bits depend on nothing but the config.
#include <cmath>
#include <memory>
#include <vector>

#include "common/model/llama.h"
#include "common/plan/coverage.h"
#include "gtest/gtest.h"
#include "tests/cluster/counting_tokens.h"
#include "tests/cluster/sim_cluster.h"
#include "worker/model/make_model.h"

namespace sdp {
namespace {

constexpr int64_t kSteps = 60, kLength = 16, kVocab = 23, kSamples = 64;

struct Outcome {
  std::vector<double> losses;
  double full_loss = 0;
  uint64_t hash = 0;
  int64_t pulled = 0, pushed = 0;
};

Outcome Train(WireType precision, int shards, uint64_t schedule, int64_t micro_batch = 0) {
  const LlamaSpec spec = {
      .dim = 32, .layers = 2, .heads = 4, .kv_heads = 2, .ffn_dim = 48, .vocab = kVocab};
  const Catalog catalog = LlamaCatalog(spec, TransformerUnit::kSublayer, kLength);
  const Layout layout(catalog, 1500);
  const CountingTokens data(kSamples, kLength, kVocab);
  SimCluster::Options options;
  options.run.catalog = &catalog;
  options.run.layout = &layout;
  options.run.shards = shards;
  options.run.workers = 4;
  options.run.coverage = *ResolveCoverage(catalog, {.coverage = 0.5}, 4);
  options.run.steps = kSteps;
  options.run.global_batch = 16;
  options.run.micro_batch = micro_batch;
  options.run.validation = true;
  options.optimizer.lr = 0.01;
  options.optimizer.steps = kSteps;
  options.terms_per_sample = kLength;
  options.data = {kSamples, 1, kSamples, 1};
  options.wire = precision;
  options.schedule_seed = schedule;
  options.duplicates = 0;
  SimCluster cluster(options, [&](int) {
    auto model =
        MakeTorchModel(catalog, layout, spec, &data, &data, {.threads = 1, .precision = precision});
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  });
  EXPECT_EQ(cluster.Run(), absl::OkStatus());
  Outcome outcome;
  for (const StepMetrics& step : cluster.metrics()) {
    if (step.loss.has_value()) outcome.losses.push_back(*step.loss);
  }
  outcome.full_loss = cluster.metrics().back().full_loss.value_or(NAN);
  outcome.hash = cluster.metrics().back().state_hash.value_or(0);
  for (int w = 0; w < 4; ++w) {
    outcome.pulled += cluster.delivered_bytes(w);
    outcome.pushed += cluster.pushed_bytes(w);
  }
  return outcome;
}

TEST(Bf16TrainingTest, FollowsF32_WithHalfTheBytes) {
  const Outcome f32 = Train(WireType::kF32, 2, 1), bf16 = Train(WireType::kBf16, 2, 1);
  ASSERT_EQ(f32.losses.size(), static_cast<size_t>(kSteps));
  ASSERT_EQ(bf16.losses.size(), static_cast<size_t>(kSteps));
  for (size_t t = 0; t < f32.losses.size(); ++t) {
    // The losses of a step differ by rounding (2^-8 of a loss near 3 at first), then also by what
    // gradients off by a few per cent of their size have made of the weights.
    EXPECT_NEAR(bf16.losses[t], f32.losses[t], 0.05) << "step " << t;
  }
  EXPECT_NEAR(bf16.full_loss, f32.full_loss, 0.05);
  EXPECT_LT(bf16.losses.back(), bf16.losses.front() - 1);  // it does learn
  EXPECT_EQ(2 * bf16.pulled, f32.pulled);
  EXPECT_EQ(2 * bf16.pushed, f32.pushed);
}

TEST(Bf16TrainingTest, SameBits_AnyShardsAndSchedule) {
  const Outcome first = Train(WireType::kBf16, 1, 7, /*micro_batch=*/1);
  for (const int shards : {1, 2, 3}) {
    const Outcome again = Train(WireType::kBf16, shards, static_cast<uint64_t>(shards), 1);
    EXPECT_EQ(again.hash, first.hash) << shards << " shards";
    EXPECT_EQ(again.losses, first.losses) << shards << " shards";
    EXPECT_EQ(again.full_loss, first.full_loss) << shards << " shards";
  }
}

}  // namespace
}  // namespace sdp
