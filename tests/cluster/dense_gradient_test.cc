// A diagnosed step's comparison with the dense gradient, of real LLaMAs on a simulated cluster,
// against both gradients by plain torch on whole batches, in f64: the full model's, and the mean
// over a block's holders of their subnetworks'.
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/data/sample_order.h"
#include "common/model/initial_values.h"
#include "common/model/llama.h"
#include "common/plan/coverage.h"
#include "gtest/gtest.h"
#include "tests/cluster/counting_tokens.h"
#include "tests/cluster/sim_cluster.h"
#include "tests/worker_model/naive_llama.h"
#include "worker/model/make_model.h"

namespace sdp {
namespace {

constexpr int64_t kLength = 12, kVocab = 23, kSamples = 16, kBatch = 10;
constexpr uint64_t kSeed = 5;
constexpr int kWorkers = 4;

LlamaSpec Spec() {
  return {.dim = 16, .layers = 4, .heads = 4, .kv_heads = 2, .ffn_dim = 24, .vocab = kVocab};
}

struct Case {
  CoverageChoice coverage = {.coverage = 0.5};
  Rescale rescale = Rescale::kEval;
  Masking masking = Masking::kForward;
  int64_t micro_batch = 0;
  bool branches_are_zero = false;  // the last matrix of each, so that they leave h as it is
  bool samples_are_equal = false;
};

// Sample 0 again and again.
class OneSample final : public CountingTokens {
 public:
  using CountingTokens::CountingTokens;
  void Read(int64_t, absl::Span<int32_t> tokens) const override { CountingTokens::Read(1, tokens); }
};

// One step, which is diagnosed, at the initial values.
class DiagnosedStep {
 public:
  explicit DiagnosedStep(const Case& c)
      : case_(c),
        catalog_(LlamaCatalog(Spec(), TransformerUnit::kSublayer, kLength)),
        layout_(catalog_) {
    if (c.samples_are_equal) {
      data_ = std::make_unique<OneSample>(kSamples, kLength, kVocab);
    } else {
      data_ = std::make_unique<CountingTokens>(kSamples, kLength, kVocab);
    }
    if (c.branches_are_zero) {
      for (TensorSpec& tensor : catalog_.tensors) {
        if (tensor.ends_branch) tensor.initial = {};
      }
    }
    SimCluster::Options options;
    options.run.catalog = &catalog_;
    options.run.layout = &layout_;
    options.run.workers = kWorkers;
    options.run.shards = 2;
    options.run.coverage = *ResolveCoverage(catalog_, c.coverage, kWorkers);
    options.run.rescale = c.rescale;
    options.run.steps = 1;
    options.run.global_batch = kBatch;
    options.run.micro_batch = c.micro_batch;
    options.run.diagnostics_every = 1;
    options.seed = kSeed;
    options.terms_per_sample = kLength;
    options.data.train_samples = kSamples;
    options.masking = c.masking;
    coverage_ = options.run.coverage;
    cluster_ = std::make_unique<SimCluster>(options, [this](int) {
      auto model = MakeTorchModel(catalog_, layout_, Spec(), data_.get(), nullptr, {.threads = 1});
      EXPECT_TRUE(model.ok()) << model.status();
      return *std::move(model);
    });
    EXPECT_EQ(cluster_->Run(), absl::OkStatus());
  }

  const Catalog& catalog() const { return catalog_; }
  const std::vector<BlockDiagnostics>& blocks() const { return cluster_->metrics().at(0).blocks; }
  // Holders of a unit, over workers.
  double Share(size_t unit) const {
    double holders = 0;
    for (const auto& [key, binding] : cluster_->bindings()) {
      if (key.first != 0) continue;
      for (const UnitFactor& held : *binding.units)
        holders += held.unit.value() == static_cast<int32_t>(unit);
    }
    return holders / kWorkers;
  }

  // Cosine and ratio of each block are the reference's within 1e-5: f32 gradients err by some 1e-6
  // of their size.
  void ExpectEqualsReference() const {
    naive::Weights weights = InitialWeights();
    std::vector<std::vector<at::Tensor>> sums(catalog_.units.size());  // holders' n g
    std::vector<double> terms(catalog_.units.size());
    std::vector<int64_t> all;
    for (const auto& [key, binding] : cluster_->bindings()) {
      if (key.first != 0) continue;
      std::vector<double> factors(catalog_.units.size(), case_.masking == Masking::kBackward);
      for (const UnitFactor& held : *binding.units)
        factors[static_cast<size_t>(held.unit.value())] = held.factor;
      const std::vector<int64_t> samples = SamplesOf(binding);
      all.insert(all.end(), samples.begin(), samples.end());
      const naive::Weights gradients = GradientsOf(weights, samples, factors);
      for (const UnitFactor& held : *binding.units) {
        const auto unit = static_cast<size_t>(held.unit.value());
        const auto n = static_cast<double>(samples.size());
        sums[unit].push_back(n * Block(unit, gradients));
        terms[unit] += n;
      }
    }
    std::vector<double> full;
    for (const double c : coverage_) {
      full.push_back(case_.masking == Masking::kBackward ? 1 : EvaluationFactor(case_.rescale, c));
    }
    const naive::Weights dense_gradients = GradientsOf(weights, all, full);
    ASSERT_EQ(blocks().size(), catalog_.units.size());
    for (size_t unit = 0; unit < blocks().size(); ++unit) {
      const at::Tensor mean = at::stack(sums[unit]).sum(0) / terms[unit];
      const at::Tensor dense = Block(unit, dense_gradients);
      const double ratio = (mean.norm() / dense.norm()).item<double>();
      const double cosine = (mean.dot(dense) / (mean.norm() * dense.norm())).item<double>();
      EXPECT_NEAR(blocks()[unit].dense_cosine.value_or(0), cosine, 1e-5) << blocks()[unit].unit;
      EXPECT_NEAR(blocks()[unit].dense_ratio.value_or(0) / ratio, 1, 1e-5) << blocks()[unit].unit;
    }
  }

 private:
  naive::Weights InitialWeights() const {
    naive::Weights weights;
    for (const TensorSpec& tensor : catalog_.tensors)
      weights[tensor.name] = at::zeros(tensor.shape, at::kDouble);
    for (int f = 0; f < layout_.fragments(); ++f) {
      FloatBuffer values(layout_.fragment(FragmentId(f)).size);
      FillInitialValues(catalog_, layout_, FragmentId(f), kSeed, values.span());
      for (const Piece& piece : layout_.pieces(FragmentId(f))) {
        double* to = weights[catalog_.tensors[static_cast<size_t>(piece.tensor)].name]
                         .mutable_data_ptr<double>();
        for (int64_t i = 0; i < piece.size; ++i)
          to[piece.tensor_offset + i] = values.data()[piece.fragment_offset + i];
      }
    }
    return weights;
  }

  std::vector<int64_t> SamplesOf(const WorkerBinding& binding) const {
    const SampleOrder order(kSeed, kSamples, true);
    std::vector<int64_t> samples;
    for (const PositionRange& range : binding.portion) {
      for (int64_t p = range.first; p < range.first + range.count; ++p)
        samples.push_back(order.Sample(p));
    }
    return samples;
  }

  // `factors` [units] of the branches' outputs. Units in the catalog's order: embed, then attention
  // and MLP of each layer, head.
  naive::Weights GradientsOf(const naive::Weights& weights, const std::vector<int64_t>& samples,
                             const std::vector<double>& factors) const {
    const auto count = static_cast<int64_t>(samples.size());
    at::Tensor tokens = at::zeros({count, kLength + 1}, at::kLong);
    std::vector<int32_t> row(kLength + 1);
    for (int64_t b = 0; b < count; ++b) {
      data_->Read(samples[static_cast<size_t>(b)], absl::MakeSpan(row));
      for (int64_t i = 0; i <= kLength; ++i) tokens[b][i] = row[static_cast<size_t>(i)];
    }
    naive::Weights leaves, gradients;
    for (const auto& [name, value] : weights) leaves[name] = value.clone().requires_grad_();
    const naive::Factors branches(factors.begin() + 1, factors.end() - 1);
    naive::Loss(Spec(), leaves, tokens.narrow(1, 0, kLength), tokens.narrow(1, 1, kLength),
                branches)
        .backward();
    for (const auto& [name, leaf] : leaves)
      gradients[name] = leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf);
    return gradients;
  }

  at::Tensor Block(size_t unit, const naive::Weights& values) const {
    std::vector<at::Tensor> flat;
    for (const Slice& slice : catalog_.units[unit].slices)
      flat.push_back(values.at(catalog_.tensors[static_cast<size_t>(slice.tensor)].name).flatten());
    return at::cat(flat);
  }

  const Case case_;
  Catalog catalog_;
  const Layout layout_;
  std::vector<double> coverage_;  // [units]
  std::unique_ptr<TokenDataset> data_;
  std::unique_ptr<SimCluster> cluster_;
};

TEST(DenseGradientTest, EqualsPlainTorch) {
  for (const Rescale rescale :
       {Rescale::kEval, Rescale::kNone, Rescale::kInverted, Rescale::kSqrt}) {
    DiagnosedStep({.rescale = rescale, .micro_batch = 2}).ExpectEqualsReference();
  }
  DiagnosedStep({.coverage = {.coverage = 0.25}}).ExpectEqualsReference();
  DiagnosedStep({.coverage = {.depth = {1, 0.5, 0.25, 0.25}}}).ExpectEqualsReference();
  DiagnosedStep({.rescale = Rescale::kNone, .masking = Masking::kBackward}).ExpectEqualsReference();
}

// Where all hold everything, both are the same sums of the same gradients.
TEST(DenseGradientTest, Coverage1_CosineAndRatioAre1) {
  for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
    const DiagnosedStep step(
        {.coverage = {.coverage = 1},
         .rescale = masking == Masking::kBackward ? Rescale::kNone : Rescale::kEval,
         .masking = masking,
         .micro_batch = 2});
    for (const BlockDiagnostics& block : step.blocks()) {
      EXPECT_NEAR(block.dense_cosine.value_or(0), 1, 1e-12) << block.unit;
      EXPECT_NEAR(block.dense_ratio.value_or(0), 1, 1e-12) << block.unit;
    }
  }
}

// Branches that end in zeros, and equal samples: every network computes the same, so a block's
// gradients differ by the factors of its branch alone. In training that is f, in the full model e
// (common/plan/rescale.h), so the ratio is f / e: N / p with `eval` and `inverted`, its root with
// `sqrt`, 1 with `none`, for one holder of four and for two. f32 rounding of gradients: 1e-5.
TEST(DenseGradientTest, BranchesThatDoNothing_RatioIsThatOfTheFactors) {
  for (const Rescale rescale :
       {Rescale::kEval, Rescale::kNone, Rescale::kInverted, Rescale::kSqrt}) {
    const DiagnosedStep step({.coverage = {.depth = {1, 0.5, 0.25, 0.25}},
                              .rescale = rescale,
                              .branches_are_zero = true,
                              .samples_are_equal = true});
    bool one_holder = false;
    for (size_t unit = 0; unit < step.blocks().size(); ++unit) {
      const double share = step.Share(unit);  // p / N
      one_holder = one_holder || share == 0.25;
      const double ratio = rescale == Rescale::kNone   ? 1
                           : rescale == Rescale::kSqrt ? std::sqrt(1 / share)
                                                       : 1 / share;
      EXPECT_NEAR(step.blocks()[unit].dense_cosine.value_or(0), 1, 1e-5);
      EXPECT_NEAR(step.blocks()[unit].dense_ratio.value_or(0), ratio, 1e-5 * ratio)
          << step.blocks()[unit].unit;
    }
    EXPECT_TRUE(one_holder);
  }
}

}  // namespace
}  // namespace sdp
