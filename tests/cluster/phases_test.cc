// Coverage over time with a real model: a phase in which all hold everything trains exactly the
// network that is evaluated and exported, so the loss does not jump where it begins.
#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include "common/model/llama.h"
#include "common/plan/coverage.h"
#include "gtest/gtest.h"
#include "tests/cluster/counting_tokens.h"
#include "tests/cluster/sim_cluster.h"
#include "worker/model/make_model.h"

namespace sdp {
namespace {

constexpr int64_t kSteps = 9, kLength = 12, kVocab = 23, kSamples = 8;
constexpr Step kDenseFrom = 3, kSparseFrom = 6;

// Every step trains on all samples, and they are also what is evaluated.
TEST(PhasesTest, DensePhase_TrainsTheEvaluatedNetwork) {
  const LlamaSpec spec = {
      .dim = 16, .layers = 4, .heads = 4, .kv_heads = 2, .ffn_dim = 24, .vocab = kVocab};
  const Catalog catalog = LlamaCatalog(spec, TransformerUnit::kSublayer, kLength);
  const Layout layout(catalog);
  const CountingTokens data(kSamples, kLength, kVocab);
  SimCluster::Options options;
  options.run.catalog = &catalog;
  options.run.layout = &layout;
  options.run.workers = 4;
  options.run.coverage = *ResolveCoverage(catalog, {.depth = {1, 0.5, 0.25, 0.25}}, 4);
  options.run.phases = {{kDenseFrom, *ResolveCoverage(catalog, {.coverage = 1}, 4)},
                        {kSparseFrom, *ResolveCoverage(catalog, {.coverage = 0.5}, 4)}};
  options.run.steps = kSteps;
  options.run.global_batch = kSamples;
  options.run.eval_every = 1;
  options.run.validation = true;
  options.optimizer.lr = 0.02;
  options.optimizer.steps = kSteps;
  options.shuffle = false;
  options.terms_per_sample = kLength;
  options.data = {kSamples, 1, kSamples, 1};
  SimCluster cluster(options, [&](int) {
    auto model = MakeTorchModel(catalog, layout, spec, &data, &data, {.threads = 1});
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  });
  ASSERT_EQ(cluster.Run(), absl::OkStatus());
  int sparse_differ = 0;
  for (Step step = 1; step < kSteps; ++step) {
    const StepMetrics& metrics = cluster.metrics()[static_cast<size_t>(step)];
    ASSERT_TRUE(metrics.loss.has_value() && metrics.full_loss.has_value()) << step;
    const double difference = std::abs(*metrics.loss - *metrics.full_loss);
    if (step >= kDenseFrom && step < kSparseFrom) {
      // The same products of f32 in another order: a few roundings of a loss near 3.
      EXPECT_LT(difference, 1e-5) << "step " << step;
      EXPECT_EQ(metrics.min_holders, 4);
    } else if (difference > 1e-4) {
      ++sparse_differ;  // Subnetworks are not the full model: what is shown above means something.
    }
  }
  EXPECT_GT(sparse_differ, 2);
}

}  // namespace
}  // namespace sdp
