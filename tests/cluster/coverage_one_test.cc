// At coverage 1 a cluster of N workers trains as one process does on the whole batch: losses and
// weights over 20 steps, against plain torch operations, torch.optim and torch's clipping, all in
// f64. Logic and arithmetic are the product's; only network, store and clock are simulated.
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim.h>
#include <torch/types.h>

#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "common/data/sample_order.h"
#include "common/model/initial_values.h"
#include "gtest/gtest.h"
#include "tests/cluster/sim_cluster.h"
#include "tests/worker_model/image_case.h"
#include "tests/worker_model/naive_llama.h"
#include "worker/data/dataset.h"
#include "worker/model/make_model.h"

namespace sdp {
namespace {

constexpr int64_t kSteps = 20, kSamples = 40;
constexpr uint64_t kSeed = 5;
constexpr double kLr = 3e-3, kDecay = 0.1;
// A large eps keeps AdamW's division from magnifying rounding of gradients that are nearly 0, which
// would hide real errors behind a wide tolerance.
constexpr double kEps = 1e-3;

class RandomTokens final : public TokenDataset {
 public:
  RandomTokens(int64_t seq_len, int64_t vocab) : seq_len_(seq_len), vocab_(vocab) {}
  int64_t samples() const override { return kSamples; }
  int64_t seq_len() const override { return seq_len_; }
  void Read(int64_t sample, absl::Span<int32_t> tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = static_cast<int32_t>(RandomBits(9, static_cast<uint64_t>(sample), i) %
                                       static_cast<uint64_t>(vocab_));
    }
  }
  uint64_t checksum() const override { return 1; }
  int64_t max_token() const override { return vocab_ - 1; }

 private:
  const int64_t seq_len_, vocab_;
};

struct Case {
  int workers = 4, shards = 2;
  OptimizerOptions::Kind optimizer = OptimizerOptions::Kind::kAdamW;
  double clip_norm = 0;
  int64_t global_batch = 8, micro_batch = 0, seq_len = 8, kv_heads = 2;
  bool tied = false;
  TransformerUnit unit = TransformerUnit::kSublayer;
  int64_t groups = 0;  // > 0: neuron granularity
  int64_t max_fragment = Layout::kMaxFragment;
};

LlamaSpec Spec(const Case& c) {
  return {.dim = 16,
          .layers = 2,
          .heads = 4,
          .kv_heads = c.kv_heads,
          .ffn_dim = 22,
          .vocab = 19,
          .tied = c.tied};
}

Catalog CatalogOf(const Case& c) {
  return c.groups > 0 ? LlamaNeuronCatalog(Spec(c), {.groups = c.groups}, c.seq_len)
                      : LlamaCatalog(Spec(c), c.unit, c.seq_len);
}

struct Outcome {
  std::vector<double> losses;
  naive::Weights weights;  // f64
};

// What is trained: a model, its data, and the loss of given samples in plain torch.
struct Problem {
  ModelSpec spec;
  const Dataset* data = nullptr;
  Catalog catalog;
  std::function<torch::Tensor(const naive::Weights&, const std::vector<int64_t>& samples,
                              const std::vector<int64_t>& epochs)>
      loss;
  // Of weights at the end. Gradients err by about 1e-7; AdamW's update is at most lr / eps = 3
  // times that, over 20 steps.
  double tolerance = 2e-5;
};

// One process on the whole batch.
Outcome Reference(const Case& c, const Problem& problem, const Layout& layout) {
  const Catalog& catalog = problem.catalog;
  naive::Weights weights;
  for (const TensorSpec& tensor : catalog.tensors)
    weights[tensor.name] = torch::zeros(tensor.shape, torch::kF64);
  for (int f = 0; f < layout.fragments(); ++f) {
    FloatBuffer values(layout.fragment(FragmentId(f)).size);
    FillInitialValues(catalog, layout, FragmentId(f), kSeed, values.span());
    for (const Piece& piece : layout.pieces(FragmentId(f))) {
      double* to =
          weights[catalog.tensors[static_cast<size_t>(piece.tensor)].name].data_ptr<double>();
      for (int64_t i = 0; i < piece.size; ++i)
        to[piece.tensor_offset + i] = values.data()[piece.fragment_offset + i];
    }
  }
  std::vector<torch::Tensor> all, decayed, kept;
  for (const TensorSpec& tensor : catalog.tensors) {
    weights[tensor.name].requires_grad_(true);
    all.push_back(weights[tensor.name]);
    (tensor.decay ? decayed : kept).push_back(weights[tensor.name]);
  }
  std::unique_ptr<torch::optim::Optimizer> optimizer;
  if (c.optimizer == OptimizerOptions::Kind::kAdamW) {
    const auto with = [](double decay) {
      return std::make_unique<torch::optim::AdamWOptions>(
          torch::optim::AdamWOptions(kLr).betas({0.9, 0.95}).eps(kEps).weight_decay(decay));
    };
    optimizer = std::make_unique<torch::optim::AdamW>(
        std::vector<torch::optim::OptimizerParamGroup>{{decayed, with(kDecay)}, {kept, with(0)}});
  } else {
    const auto with = [](double decay) {
      return std::make_unique<torch::optim::SGDOptions>(
          torch::optim::SGDOptions(kLr).momentum(0.9).weight_decay(decay));
    };
    optimizer = std::make_unique<torch::optim::SGD>(
        std::vector<torch::optim::OptimizerParamGroup>{{decayed, with(kDecay)}, {kept, with(0)}},
        torch::optim::SGDOptions(kLr));
  }
  Outcome outcome;
  const SampleOrder order(kSeed, kSamples, true);
  for (int64_t t = 0; t < kSteps; ++t) {
    std::vector<int64_t> samples, epochs;
    for (int64_t b = 0; b < c.global_batch; ++b) {
      samples.push_back(order.Sample(t * c.global_batch + b));
      epochs.push_back((t * c.global_batch + b) / kSamples);
    }
    optimizer->zero_grad();
    const torch::Tensor loss = problem.loss(weights, samples, epochs);
    loss.backward();
    if (c.clip_norm > 0) torch::nn::utils::clip_grad_norm_(all, c.clip_norm);
    optimizer->step();
    outcome.losses.push_back(loss.item<double>());
  }
  outcome.weights = weights;
  return outcome;
}

SimCluster::Options OptionsOf(const Case& c, const Problem& problem, const Layout& layout) {
  SimCluster::Options options;
  options.run.catalog = &problem.catalog;
  options.run.layout = &layout;
  options.run.shards = c.shards;
  options.run.workers = c.workers;
  options.run.coverage.assign(problem.catalog.units.size(), 1.0);
  options.run.steps = kSteps;
  options.run.global_batch = c.global_batch;
  options.run.micro_batch = c.micro_batch;
  options.run.clip_norm = c.clip_norm;
  options.optimizer = {
      .kind = c.optimizer, .lr = kLr, .weight_decay = kDecay, .eps = kEps, .steps = kSteps};
  options.seed = kSeed;
  options.terms_per_sample = problem.data->terms_per_sample();
  options.data.train_samples = kSamples;
  options.schedule_seed = 3;
  return options;
}

std::unique_ptr<LocalModel> ModelOf(const Problem& problem, const Layout& layout) {
  auto model =
      MakeTorchModel(problem.catalog, layout, problem.spec, problem.data, nullptr, {.threads = 1});
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

void ExpectEqual(const Case& c, const Problem& problem) {
  const Catalog& catalog = problem.catalog;
  const Layout layout(catalog, c.max_fragment);
  SimCluster cluster(OptionsOf(c, problem, layout), [&](int) { return ModelOf(problem, layout); });
  ASSERT_EQ(cluster.Run(), absl::OkStatus());
  const Outcome expected = Reference(c, problem, layout);
  ASSERT_EQ(cluster.metrics().size(), static_cast<size_t>(kSteps) + 1);
  for (size_t t = 0; t < expected.losses.size(); ++t) {
    // f32 forward of a loss near 3: about 1e-7 relative per operation.
    EXPECT_NEAR(*cluster.metrics()[t].loss, expected.losses[t], 2e-5) << "step " << t;
  }
  double largest = 0;
  for (int f = 0; f < layout.fragments(); ++f) {
    const FloatBuffer& value = cluster.value(FragmentId(f));
    for (const Piece& piece : layout.pieces(FragmentId(f))) {
      const double* want =
          expected.weights.at(catalog.tensors[static_cast<size_t>(piece.tensor)].name)
              .data_ptr<double>() +
          piece.tensor_offset;
      for (int64_t i = 0; i < piece.size; ++i) {
        largest =
            std::max(largest, std::abs(want[i] - double{value.data()[piece.fragment_offset + i]}));
      }
    }
  }
  EXPECT_LT(largest, problem.tolerance);
}

Problem LlamaProblem(const Case& c, const RandomTokens& data) {
  const auto loss = [c, &data](const naive::Weights& weights, const std::vector<int64_t>& samples,
                               const std::vector<int64_t>&) {
    std::vector<int32_t> tokens(static_cast<size_t>(c.seq_len + 1));
    torch::Tensor batch = torch::zeros({c.global_batch, c.seq_len + 1}, torch::kI64);
    for (int64_t b = 0; b < c.global_batch; ++b) {
      data.Read(samples[static_cast<size_t>(b)], absl::MakeSpan(tokens));
      for (int64_t i = 0; i <= c.seq_len; ++i) batch[b][i] = tokens[static_cast<size_t>(i)];
    }
    return naive::Loss(Spec(c), weights, batch.narrow(1, 0, c.seq_len),
                       batch.narrow(1, 1, c.seq_len), {1, 1, 1, 1});
  };
  return {Spec(c), &data, CatalogOf(c), loss};
}

void ExpectEqual(const Case& c) {
  const RandomTokens data(c.seq_len, 19);
  ExpectEqual(c, LlamaProblem(c, data));
}

// Every image a little different in every epoch, which the samples bring with them.
template <typename Spec>
Problem ImageProblem(const Spec& spec, const CatalogOptions& cut, const RandomImages& data) {
  const auto loss = [spec, &data](const naive::Weights& weights,
                                  const std::vector<int64_t>& samples,
                                  const std::vector<int64_t>& epochs) {
    const torch::Tensor shift = torch::tensor(epochs, torch::kF64).view({-1, 1, 1, 1}) / 8;
    return naive::MeanLoss(
        naive::Logits(spec, weights, data.Images(samples).to(torch::kF64) + shift, {}),
        data.Labels(samples));
  };
  Problem problem{spec, &data, MakeCatalog(spec, cut), loss};
  // LibTorch's norms of channels-last activations take the variance as a mean of squares less the
  // square of a mean: gradients err by about 1e-6.
  if (std::is_same_v<Spec, ResnetSpec>) problem.tolerance = 5e-4;
  return problem;
}

template <typename Spec>
RandomImages ImagesFor(const Spec& spec) {
  const int64_t size = ImageCase::SizeOf(spec);
  return RandomImages(kSamples, {3, size, size}, ImageCase::kClasses, 7);
}

template <typename Spec>
void ExpectImagesEqual(const Case& c, const Spec& spec, const CatalogOptions& cut = {}) {
  const RandomImages data = ImagesFor(spec);
  ExpectEqual(c, ImageProblem(spec, cut, data));
}

TEST(CoverageOneTest, AdamW) { ExpectEqual({}); }
TEST(CoverageOneTest, AdamW_Clipped) { ExpectEqual({.clip_norm = 0.1}); }
TEST(CoverageOneTest, Sgd) { ExpectEqual({.optimizer = OptimizerOptions::Kind::kSgd}); }
TEST(CoverageOneTest, Sgd_Clipped) {
  ExpectEqual({.optimizer = OptimizerOptions::Kind::kSgd, .clip_norm = 0.1});
}
TEST(CoverageOneTest, GroupedQueries_TiedHead) { ExpectEqual({.kv_heads = 1, .tied = true}); }
TEST(CoverageOneTest, WholeLayers) { ExpectEqual({.unit = TransformerUnit::kLayer}); }
TEST(CoverageOneTest, Neurons) {
  ExpectEqual({.groups = 5});
  ExpectEqual({.clip_norm = 0.1, .micro_batch = 1, .kv_heads = 4, .groups = 3, .max_fragment = 50});
}

// Cut into heads and neurons the same weights get the same sums: without clipping, whose norm is a
// sum over fragments, the losses have the same bits.
std::vector<double> Losses(const Case& c, const Problem& problem) {
  const Layout layout(problem.catalog, c.max_fragment);
  SimCluster cluster(OptionsOf(c, problem, layout), [&](int) { return ModelOf(problem, layout); });
  EXPECT_EQ(cluster.Run(), absl::OkStatus());
  std::vector<double> losses;
  for (int64_t t = 0; t < kSteps; ++t)
    losses.push_back(*cluster.metrics()[static_cast<size_t>(t)].loss);
  return losses;
}

TEST(CoverageOneTest, Neurons_HaveTheLossesOfBlocks) {
  const RandomTokens data(8, 19);
  const Case blocks, parts = {.groups = 5};
  EXPECT_EQ(Losses(blocks, LlamaProblem(blocks, data)), Losses(parts, LlamaProblem(parts, data)));
}

TEST(CoverageOneTest, NeuronsOfImages_HaveTheLossesOfBlocks) {
  const Case c;
  const auto losses = [&](const auto& spec, const CatalogOptions& cut) {
    const RandomImages data = ImagesFor(spec);
    return Losses(c, ImageProblem(spec, cut, data));
  };
  const ResnetSpec resnet = ImageCase::Resnet(ResnetSpec::Order::kPost);
  EXPECT_EQ(losses(resnet, {}), losses(resnet, ImageCase::OptionsOf(3)));
  EXPECT_EQ(losses(ImageCase::Mlp(), {}), losses(ImageCase::Mlp(), ImageCase::OptionsOf(3)));
}

TEST(CoverageOneTest, OddSequences_MicroBatches) { ExpectEqual({.micro_batch = 1, .seq_len = 7}); }
TEST(CoverageOneTest, OddNumbersOfWorkers) {
  for (const int workers : {3, 5, 7})
    ExpectEqual({.workers = workers, .shards = 3, .clip_norm = 0.1, .global_batch = 11});
}
TEST(CoverageOneTest, FewerSamplesThanWorkers) { ExpectEqual({.workers = 5, .global_batch = 3}); }
TEST(CoverageOneTest, BlocksOfSeveralFragments) { ExpectEqual({.tied = true, .max_fragment = 50}); }

TEST(CoverageOneTest, Resnet) {
  for (const auto order : {ResnetSpec::Order::kPost, ResnetSpec::Order::kPre}) {
    const ResnetSpec spec = ImageCase::Resnet(order);
    ExpectImagesEqual({.clip_norm = 0.1, .micro_batch = 1}, spec);
    ExpectImagesEqual({.workers = 3, .optimizer = OptimizerOptions::Kind::kSgd, .global_batch = 11},
                      spec);
  }
}
TEST(CoverageOneTest, ImageMlp) { ExpectImagesEqual({}, ImageCase::Mlp()); }
TEST(CoverageOneTest, NeuronsOfImages) {
  ExpectImagesEqual({.clip_norm = 0.1, .max_fragment = 50},
                    ImageCase::Resnet(ResnetSpec::Order::kPre), ImageCase::OptionsOf(3));
  ExpectImagesEqual({.micro_batch = 1}, ImageCase::Mlp(), ImageCase::OptionsOf(4));
}
TEST(CoverageOneTest, Swin) {
  ExpectImagesEqual({.clip_norm = 0.1, .micro_batch = 1}, ImageCase::Swin());
  ExpectImagesEqual({.workers = 3, .global_batch = 11}, ImageCase::Swin(),
                    {.neurons = NeuronUnits{.groups = 5}});
}

}  // namespace
}  // namespace sdp
