#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "common/base/allocated.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/image_case.h"
#include "tests/worker_model/llama_case.h"
#include "worker/model/attention.h"
#include "worker/model/counting_allocator.h"
#include "worker/model/embedding.h"
#include "worker/model/head_loss.h"
#include "worker/model/mlp.h"

// Backward masking: the full model forth and back, without the gradients of what is not held.
namespace sdp {
namespace {

using Kind = FakeExchange::Kind;
using ::testing::HasSubstr;

const std::vector<std::string> kNotHeld = {"layers.0.attention", "layers.0.mlp",
                                           "layers.1.attention"};

// Of a worker that holds all but `not_held`, which it reads.
TrainTask Task(const ModelCase& c, const std::vector<std::string>& not_held, int64_t micro_batch) {
  TrainTask task;
  task.step = 5;
  task.units = c.Held(not_held);
  for (const std::string& name : not_held) task.read_only.push_back(c.Unit(name));
  task.samples = {3, 0, 7, 12};
  task.micro_batch = micro_batch;
  return task;
}

// ---- Errors ----

TEST(BackwardMaskingTest, UnitsThatCannotBeReadOnly_InvalidArgument) {
  const LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  TrainTask shared = Task(c, kNotHeld, 0);
  shared.units.pop_back();
  shared.read_only.push_back(c.Unit("head"));
  TrainTask both = Task(c, kNotHeld, 0);
  both.read_only.push_back(c.Unit("layers.1.mlp"));
  TrainTask unknown = Task(c, kNotHeld, 0);
  unknown.read_only.emplace_back(99);
  for (const auto& [task, says] : {std::pair<TrainTask, std::string>{shared, "shared unit head"},
                                   {both, "held unit layers.1.mlp"},
                                   {unknown, "unit 99"}}) {
    const absl::Status status = c.model->Train(task, exchange).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr(says));
  }
}

// ---- Gradients ----

// A held block's gradient is the dense one of the same samples, bit by bit, and so is the loss.
void ExpectDenseGradients(const ModelCase& c, const std::vector<std::string>& not_held,
                          int64_t micro_batch, WireType type = WireType::kF32) {
  FakeExchange dense(c.layout, c.Fragments(c.weights), type);
  FakeExchange masked(c.layout, c.Fragments(c.weights), type);
  const absl::StatusOr<TrainResult> all = c.model->Train(Task(c, {}, micro_batch), dense);
  const TrainTask task = Task(c, not_held, micro_batch);
  const absl::StatusOr<TrainResult> some = c.model->Train(task, masked);
  ASSERT_TRUE(all.ok() && some.ok()) << all.status() << some.status();
  EXPECT_EQ(some->loss.loss_sum, all->loss.loss_sum);
  EXPECT_EQ(some->loss.terms, all->loss.terms);
  for (const HeldUnit& held : task.units) {
    EXPECT_TRUE(at::equal(c.BlockGradient(masked, held.unit), c.BlockGradient(dense, held.unit)))
        << c.catalog.unit(held.unit).name;
  }
  for (const UnitId unit : task.read_only) {
    for (const FragmentId id : c.layout.block(unit))
      EXPECT_FALSE(masked.gradient(id).has_value()) << c.catalog.unit(unit).name;
  }
}

TEST(BackwardMaskingTest, HeldBlock_HasTheDenseGradient_BitByBit) {
  LlamaSpec tied = LlamaCase::Spec();
  tied.tied = true;
  for (const LlamaSpec& spec : {LlamaCase::Spec(), tied}) {
    for (const int64_t micro_batch : {0, 1, 3}) {
      SCOPED_TRACE(micro_batch);
      const LlamaCase f32(spec, TransformerUnit::kSublayer, 90, 1000);
      ExpectDenseGradients(f32, kNotHeld, micro_batch);
      ExpectDenseGradients(f32, {"layers.1.mlp"}, micro_batch);
      const LlamaCase layers(spec, TransformerUnit::kLayer, 11);
      ExpectDenseGradients(layers, {"layers.1"}, micro_batch);
      const LlamaCase bf16(spec, TransformerUnit::kSublayer, 90, 1000,
                           {.threads = 1, .precision = WireType::kBf16});
      ExpectDenseGradients(bf16, kNotHeld, micro_batch, WireType::kBf16);
    }
  }
}

TEST(BackwardMaskingTest, NothingButSharedUnitsHeld_OrEverything) {
  const LlamaCase c;
  ExpectDenseGradients(
      c, {"layers.0.attention", "layers.0.mlp", "layers.1.attention", "layers.1.mlp"}, 2);
  ExpectDenseGradients(c, {}, 2);
}

TEST(BackwardMaskingTest, ImageModels_HeldBlock_HasTheDenseGradient_BitByBit) {
  for (const ImageCase::Named& named : ImageCase::All()) {
    const ImageCase c(named.spec, /*max_fragment=*/1000);
    const std::vector<std::string> all = c.Masked();
    for (const int64_t micro_batch : {0, 2}) {
      SCOPED_TRACE(absl::StrCat(named.name, " in micro-batches of ", micro_batch));
      ExpectDenseGradients(c, {all[0], all[2]}, micro_batch);
      ExpectDenseGradients(c, {all[1]}, micro_batch);
      ExpectDenseGradients(c, all, micro_batch);
    }
  }
}

// ---- What the exchange sees ----

// All units are taken; those that are read only are released once, from the last one on.
void ExpectReleases(const ModelCase& c, const std::vector<std::string>& not_held,
                    int64_t micro_batch) {
  FakeExchange exchange = c.MakeExchange();
  ASSERT_TRUE(c.model->Train(Task(c, not_held, micro_batch), exchange).ok());
  for (size_t unit = 0; unit < c.catalog.units.size(); ++unit)
    EXPECT_EQ(exchange.Count(Kind::kTake, static_cast<int>(unit)), 1);
  std::vector<int> released;
  bool backward = false;
  for (const FakeExchange::Event& event : exchange.events()) {
    if (event.kind == Kind::kBackward) backward = true;
    if (event.kind != Kind::kReleased) continue;
    EXPECT_TRUE(backward);
    released.push_back(event.id);
  }
  std::vector<int> expected;
  for (auto name = not_held.rbegin(); name != not_held.rend(); ++name)
    expected.push_back(c.Unit(*name).value());
  EXPECT_EQ(released, expected);
}

TEST(BackwardMaskingTest, Events_AllUnitsTaken_ReadOnlyOnesReleasedOnceFromTheLastOn) {
  const LlamaCase llama;
  for (const int64_t micro_batch : {0, 1}) ExpectReleases(llama, kNotHeld, micro_batch);
  for (const ImageCase::Named& named : ImageCase::All()) {
    SCOPED_TRACE(named.name);
    const ImageCase c(named.spec);
    ExpectReleases(c, c.Masked(), 2);
  }
}

// A layer's weights are read by two stages: the attention's backward pass is the last to do so.
TEST(BackwardMaskingTest, WholeLayer_IsReleasedWhenBothItsStagesAreDone) {
  const LlamaCase c(LlamaCase::Spec(), TransformerUnit::kLayer);
  FakeExchange exchange = c.MakeExchange();
  ASSERT_TRUE(c.model->Train(Task(c, {"layers.0", "layers.1"}, 0), exchange).ok());
  std::vector<int> released;
  for (const FakeExchange::Event& event : exchange.events()) {
    if (event.kind == Kind::kReleased) released.push_back(event.id);
  }
  EXPECT_EQ(released, (std::vector<int>{c.Unit("layers.1").value(), c.Unit("layers.0").value()}));
}

// ---- What the branches keep, by the allocator ----

enum class Held { kYes, kNo };

struct Layer {
  static constexpr int64_t kHeads = 4, kDim = 64, kFfn = 172, kBatch = 2, kLength = 96;

  AttentionWeights attention;
  MlpWeights mlp;
  Rotary rotary{kLength, kDim / kHeads, 1e4};
  at::Tensor h;

  Layer(at::ScalarType type, Held held) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(3);
    const auto make = [&](at::IntArrayRef shape) {
      return (0.2 * at::randn(shape, generator, at::kFloat)).to(type);
    };
    attention = {make({kDim}) + 1, make({3 * kDim, kDim}), make({kDim, kDim})};
    mlp = {make({kDim}) + 1, make({2 * kFfn, kDim}), make({kDim, kFfn})};
    h = make({kBatch, kLength, kDim});
    for (at::Tensor* weight : Weights()) weight->requires_grad_(held == Held::kYes);
    h.requires_grad_();
  }
  std::vector<at::Tensor*> Weights() {
    return {&attention.norm, &attention.qkv, &attention.o, &mlp.norm, &mlp.gate_up, &mlp.down};
  }
  at::Tensor Forward(const at::Tensor& input) const {
    return MlpBranch(AttentionBranch(input, attention, rotary, 1e-5, 1), mlp, 1e-5, 1);
  }
};

// Per token of a layer: what is there between its forward and its backward pass, its input
// included, its output, which is the next one's input, left out.
double StoredBytes(at::ScalarType type, Held held) {
  const Layer layer(type, held);
  const int64_t before = Allocated().now;
  const at::Tensor out = layer.Forward(layer.h);
  const int64_t stored = Allocated().now - before + static_cast<int64_t>(layer.h.nbytes()) -
                         static_cast<int64_t>(out.nbytes());
  return static_cast<double>(stored) / (Layer::kBatch * Layer::kLength);
}

TEST(BackwardMaskingTest, StoredPerToken_IsWhatTheHeadersSay_AndWithinTheMethodsBounds) {
  CountTensors();
  // 1 / rms of two norms and each head's log-sum-exp, in f32.
  constexpr double kStatistics = 4 * (2 + Layer::kHeads);
  constexpr double kD = Layer::kDim, kF = Layer::kFfn;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const double bytes = type == at::kFloat ? 4 : 2;
    for (const Held held : {Held::kYes, Held::kNo}) {
      StoredBytes(type, held);  // warms what torch keeps
      const double stored = StoredBytes(type, held);
      // h twice, q, k, v and the heads' output; gate and up. Nothing is kept for weights' gradients
      // alone, so a layer that is not held keeps the same.
      EXPECT_DOUBLE_EQ(stored, bytes * (6 * kD + 2 * kF) + kStatistics);
      EXPECT_LE(stored, kStatistics +
                            bytes / 2 * (held == Held::kYes ? 16 * kD + 8 * kF : 12 * kD + 6 * kF));
    }
  }
}

// catalog_agreement_test holds what a held block stores against the catalog. ReLU's gradient wants
// the convolutions' inputs, so one that is not held stores the same; of a linear map's input, which
// no gradient but its weight's wants, nothing is kept.
TEST(BackwardMaskingTest, ImageModels_NotHeld_StoreWhatTheirInputsGradientsNeed) {
  for (const ImageCase::Named& named : ImageCase::All()) {
    const ImageCase c(named.spec);
    const std::vector<std::string> all = c.Masked();
    const auto stored = [&](const std::vector<std::string>& not_held) {
      FakeExchange exchange = c.MakeExchange();
      const int64_t before = Allocated().now;
      EXPECT_TRUE(c.model->Train(Task(c, not_held, 0), exchange).ok());
      return exchange.bytes_at_backward() - before;
    };
    stored({});  // warms what torch keeps
    int64_t less = 0;
    if (const auto* const mlp = std::get_if<ImageMlpSpec>(&c.spec)) {
      // Inputs of all layers; the last one's output is the head's.
      less = 4 * 4 * mlp->layers * mlp->dim;
    }
    EXPECT_EQ(stored(all), stored({}) - less) << named.name;
  }
}

TEST(BackwardMaskingTest, Branches_NotHeld_SameInputGradientAndNoneOfTheirWeights) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    Layer held(type, Held::kYes), not_held(type, Held::kNo);
    const at::Tensor dy = at::ones_like(held.h) + held.h.detach();
    for (Layer* layer : {&held, &not_held}) layer->Forward(layer->h).backward(dy);
    EXPECT_TRUE(at::equal(held.h.grad(), not_held.h.grad()));
    for (const at::Tensor* weight : held.Weights()) EXPECT_TRUE(weight->grad().defined());
    for (const at::Tensor* weight : not_held.Weights()) EXPECT_FALSE(weight->grad().defined());
  }
}

// Each weight by itself: any of them may be held or not.
TEST(BackwardMaskingTest, Branches_OneWeightHeld_HasItsDenseGradient) {
  Layer dense(at::kFloat, Held::kYes);
  dense.Forward(dense.h).square().sum().backward();
  for (size_t one = 0; one < dense.Weights().size(); ++one) {
    Layer layer(at::kFloat, Held::kNo);
    layer.Weights()[one]->requires_grad_();
    layer.Forward(layer.h).square().sum().backward();
    for (size_t i = 0; i < layer.Weights().size(); ++i) {
      const at::Tensor gradient = layer.Weights()[i]->grad();
      ASSERT_EQ(gradient.defined(), i == one);
      if (i != one) continue;
      EXPECT_TRUE(at::equal(gradient, dense.Weights()[i]->grad())) << i;
    }
  }
}

TEST(BackwardMaskingTest, HeadAndEmbedding_WithoutWeightGradients_KeepNothingForThem) {
  CountTensors();
  constexpr int64_t kVocab = 500, kDim = 32;
  const at::Tensor h = at::randn({2, 20, kDim}), tokens = at::randint(kVocab, {2, 20}, at::kLong);
  const HeadWeights weights = {at::ones({kDim}), at::randn({kVocab, kDim})};
  const auto loss_of = [&](const at::Tensor& input) {
    return HeadLoss(input, tokens, weights, 1e-5, 0.1, 16);
  };
  const at::Tensor dense_h = h.clone().requires_grad_(), masked_h = h.clone().requires_grad_();
  const int64_t before = Allocated().now;
  const at::Tensor masked = loss_of(masked_h);
  // The gradient of h, and the loss.
  EXPECT_EQ(Allocated().now - before, static_cast<int64_t>(h.nbytes() + masked.nbytes()));
  masked.backward();
  EXPECT_FALSE(weights.projection.grad().defined());
  weights.norm.requires_grad_();
  weights.projection.requires_grad_();
  const at::Tensor dense = loss_of(dense_h);
  dense.backward();
  EXPECT_TRUE(at::equal(masked, dense));
  EXPECT_TRUE(at::equal(masked_h.grad(), dense_h.grad()));
  EXPECT_TRUE(weights.projection.grad().defined());
  EXPECT_FALSE(Embedding(at::randn({kVocab, kDim}), tokens).requires_grad());
}

}  // namespace
}  // namespace sdp
