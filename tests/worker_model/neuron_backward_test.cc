#include <algorithm>
#include <string>
#include <vector>

#include "common/base/allocated.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/count_macs.h"
#include "tests/worker_model/image_case.h"
#include "tests/worker_model/llama_case.h"
#include "tests/worker_model/parts.h"
#include "worker/model/attention.h"
#include "worker/model/counting_allocator.h"
#include "worker/model/mlp.h"
#include "worker/model/swin_branches.h"
#include "worker/model/window_attention.h"

// Backward masking of parts of branches: all of them are computed with, held ones have gradients.
namespace sdp {
namespace {

using Kind = FakeExchange::Kind;

// The loss, and the gradients of weights that are trained as a whole, are the dense ones bit by
// bit: they come from the same products. The gradient of a part is a smaller product of the same
// numbers, which BLAS may add up in another order: within a few roundings of the largest element.
constexpr double kRoundings = 2e-6;      // f32: 2^-24, of sums of about 100 terms
constexpr double kBf16Roundings = 8e-3;  // the sum is rounded once: two neighbours of 2^-8

// Of a worker that holds `held` and reads the rest.
TrainTask Task(const ModelCase& c, std::vector<HeldUnit> held, int64_t micro_batch) {
  TrainTask task;
  for (const HeldUnit& unit : c.Held()) {
    const bool is_held = std::any_of(held.begin(), held.end(),
                                     [&](const HeldUnit& h) { return h.unit == unit.unit; });
    if (!is_held) task.read_only.push_back(unit.unit);
  }
  task.units = std::move(held);
  task.samples = {3, 0, 7, 12};
  task.micro_batch = micro_batch;
  return task;
}

void ExpectDenseGradients(const ModelCase& c, const std::vector<HeldUnit>& held,
                          int64_t micro_batch, WireType type = WireType::kF32) {
  FakeExchange dense(c.layout, c.Fragments(c.weights), type);
  FakeExchange masked(c.layout, c.Fragments(c.weights), type);
  const absl::StatusOr<TrainResult> all = c.model->Train(Task(c, c.Held(), micro_batch), dense);
  const TrainTask task = Task(c, held, micro_batch);
  const absl::StatusOr<TrainResult> some = c.model->Train(task, masked);
  ASSERT_TRUE(all.ok() && some.ok()) << all.status() << some.status();
  EXPECT_EQ(some->loss.loss_sum, all->loss.loss_sum);
  for (const HeldUnit& unit : held) {
    const at::Tensor gradient = c.BlockGradient(masked, unit.unit);
    const at::Tensor expected = c.BlockGradient(dense, unit.unit);
    const UnitSpec& spec = c.catalog.unit(unit.unit);
    if (spec.shared) {
      EXPECT_TRUE(at::equal(gradient, expected)) << spec.name;
    } else {
      EXPECT_LE(Difference(gradient, expected),
                type == WireType::kF32 ? kRoundings : kBf16Roundings)
          << spec.name;
    }
  }
  for (const UnitId unit : task.read_only) {
    for (const FragmentId id : c.layout.block(unit))
      EXPECT_FALSE(masked.gradient(id).has_value()) << c.catalog.unit(unit).name;
  }
}

// All units are taken. Those that are read only are released once, stage after stage from the last
// one on, and only when their stage's gradients have been handed out.
void ExpectReleases(const ModelCase& c, const std::vector<HeldUnit>& held, int64_t micro_batch) {
  FakeExchange exchange = c.MakeExchange();
  const TrainTask task = Task(c, held, micro_batch);
  ASSERT_TRUE(c.model->Train(task, exchange).ok());
  for (size_t unit = 0; unit < c.catalog.units.size(); ++unit)
    EXPECT_EQ(exchange.Count(Kind::kTake, static_cast<int>(unit)), 1);
  std::vector<int> released, expected;
  std::vector<size_t> stage_of(c.catalog.units.size());
  for (size_t stage = c.catalog.stages.size(); stage-- > 0;) {
    for (const UnitId unit : c.catalog.stages[stage].units) {
      stage_of[static_cast<size_t>(unit.value())] = stage;
      if (std::find(task.read_only.begin(), task.read_only.end(), unit) != task.read_only.end())
        expected.push_back(unit.value());
    }
  }
  size_t lowest = c.catalog.stages.size();  // stage that has released
  for (const FakeExchange::Event& event : exchange.events()) {
    if (event.kind == Kind::kReleased) {
      released.push_back(event.id);
      lowest = stage_of[static_cast<size_t>(event.id)];
    } else if (event.kind == Kind::kGradient) {
      const UnitId unit = c.layout.fragment(FragmentId(event.id)).unit;
      EXPECT_LT(stage_of[static_cast<size_t>(unit.value())], lowest) << c.catalog.unit(unit).name;
    }
  }
  EXPECT_EQ(released, expected);
}

Catalog LlamaParts(const LlamaSpec& spec, int64_t length) {
  return LlamaNeuronCatalog(spec, {.groups = 3}, length);
}

TEST(NeuronBackwardTest, Llama_HeldParts_HaveTheDenseGradient) {
  LlamaSpec tied = LlamaCase::Spec();
  tied.tied = true;
  for (const LlamaSpec& spec : {LlamaCase::Spec(), tied}) {
    const LlamaCase c(spec, LlamaParts(spec, 30), 30, /*max_fragment=*/50);
    const LlamaCase bf16(spec, LlamaParts(spec, 30), 30, Layout::kMaxFragment,
                         {.threads = 1, .precision = WireType::kBf16});
    for (unsigned seed = 0; seed < 4; ++seed) {
      SCOPED_TRACE(seed);
      const int64_t micro_batch = seed % 2 == 0 ? 0 : 3;
      ExpectDenseGradients(c, RandomUnits(c, seed, {1}), micro_batch);
      ExpectDenseGradients(bf16, RandomUnits(bf16, seed, {1}), micro_batch, WireType::kBf16);
      ExpectReleases(c, RandomUnits(c, seed, {1}), micro_batch);
    }
  }
}

TEST(NeuronBackwardTest, Images_HeldParts_HaveTheDenseGradient) {
  for (const ImageCase::Named& named : ImageCase::All()) {
    SCOPED_TRACE(named.name);
    const ImageCase c(named.spec, /*max_fragment=*/50, {1, 0}, ImageCase::OptionsOf(3));
    for (unsigned seed = 0; seed < 4; ++seed) {
      SCOPED_TRACE(seed);
      const int64_t micro_batch = seed % 2 == 0 ? 0 : 2;
      ExpectDenseGradients(c, RandomUnits(c, seed, {1}), micro_batch);
      ExpectReleases(c, RandomUnits(c, seed, {1}), micro_batch);
    }
  }
}

// Only shared units, everything, and branches of which all or none is held.
TEST(NeuronBackwardTest, WholeBranchesHeldOrNot_HaveTheDenseGradient) {
  const LlamaCase llama(LlamaCase::Spec(), LlamaParts(LlamaCase::Spec(), 11), 11);
  const ImageCase resnet(ImageCase::Resnet(ResnetSpec::Order::kPost), Layout::kMaxFragment, {1, 0},
                         ImageCase::OptionsOf(2));
  const ImageCase swin(ImageCase::Swin(), Layout::kMaxFragment, {1, 0}, ImageCase::OptionsOf(2));
  for (const ModelCase* const c :
       {static_cast<const ModelCase*>(&llama), static_cast<const ModelCase*>(&resnet),
        static_cast<const ModelCase*>(&swin)}) {
    std::vector<std::string> masked;
    for (const UnitSpec& unit : c->catalog.units) {
      if (!unit.shared) masked.push_back(unit.name);
    }
    ExpectDenseGradients(*c, c->Held(masked), 2);
    ExpectDenseGradients(*c, c->Held(), 2);
    ExpectDenseGradients(*c, c->Held({masked[0], masked[1]}), 0);
    ExpectReleases(*c, c->Held(masked), 2);
  }
}

// ---- What is computed and kept ----

// Which of the weights of a layer is trained: none, a half of the heads and neurons, all.
enum class Trained { kNothing, kHalf, kAll };

// Random tensors, and what is trained of some.
class LayerBase {
 public:
  at::Tensor h;

 protected:
  at::Tensor Make(at::IntArrayRef shape) { return 0.2 * at::randn(shape, generator_, at::kFloat); }
  // Has a shape, and no memory but of one element.
  static at::Tensor Leaf(at::IntArrayRef shape) {
    return at::empty({1}).expand(shape).detach().requires_grad_();
  }
  static void Train(const std::vector<at::Tensor*>& weights, Trained trained) {
    for (at::Tensor* const weight : weights) weight->requires_grad_(trained == Trained::kAll);
  }

 private:
  at::Generator generator_ = at::make_generator<at::CPUGeneratorImpl>(3);
};

struct LlamaLayer : LayerBase {
  static constexpr int64_t kHeads = 4, kDim = 64, kFfn = 80, kBatch = 2, kLength = 96;
  static constexpr int64_t kMadeAnewMacs = 0;

  AttentionWeights attention;
  MlpWeights mlp;
  AttentionParts attention_parts;
  MlpParts mlp_parts;
  Rotary rotary{kLength, kDim / kHeads, 1e4};

  explicit LlamaLayer(Trained trained) {
    attention = {Make({kDim}) + 1, Make({3 * kDim, kDim}), Make({kDim, kDim})};
    mlp = {Make({kDim}) + 1, Make({2 * kFfn, kDim}), Make({kDim, kFfn})};
    h = Make({kBatch, kLength, kDim}).requires_grad_();
    Train(Weights(), trained);
    if (trained != Trained::kHalf) return;
    // Heads 1 and 3 of each of q, k and v; the first and the last quarter of the neurons.
    constexpr int64_t e = kDim / kHeads, f = kFfn / 4;
    attention_parts = {
        {Leaf({6 * e, kDim}), {e, e, 3 * e, e, 5 * e, e, 7 * e, e, 9 * e, e, 11 * e, e}},
        {Leaf({kDim, 2 * e}), {e, e, 3 * e, e}}};
    mlp_parts = {{Leaf({4 * f, kDim}), {0, f, 3 * f, 2 * f, 7 * f, f}},
                 {Leaf({kDim, 2 * f}), {0, f, 3 * f, f}}};
  }
  std::vector<at::Tensor*> Weights() {
    return {&attention.qkv, &attention.o, &mlp.gate_up, &mlp.down};
  }
  std::vector<TrainedPart*> Parts() {
    return {&attention_parts.qkv, &attention_parts.o, &mlp_parts.gate_up, &mlp_parts.down};
  }
  static std::vector<int64_t> Dimensions() { return {0, 1, 0, 1}; }  // that parts divide
  at::Tensor Forward() const {
    return MlpBranch(AttentionBranch(h, attention, rotary, 1e-5, 1, attention_parts), mlp, 1e-5, 1,
                     mlp_parts);
  }
};

// 6 x 6 tokens in shifted windows of 3 x 3.
struct SwinLayer : LayerBase {
  static constexpr int64_t kHeads = 4, kDim = 32, kHidden = 80, kBatch = 3, kSize = 6, kWindow = 3;
  // What attention gives the projection is made anew for its gradient, of all heads.
  static constexpr int64_t kMadeAnewMacs = kBatch * kSize * kSize * kWindow * kWindow * kDim;

  WindowAttentionWeights attention;
  GeluMlpWeights mlp;
  WindowAttentionParts attention_parts;
  GeluMlpParts mlp_parts;
  Windows windows{kSize, kWindow, /*shift=*/1, at::kCPU};

  explicit SwinLayer(Trained trained) {
    constexpr int64_t positions = (2 * kWindow - 1) * (2 * kWindow - 1);
    for (LayerNormWeights* const norm : {&attention.norm, &mlp.norm})
      *norm = {Make({kDim}) + 1, Make({kDim}), 1e-5};
    attention.table = Make({positions, kHeads});
    attention.qkv = {Make({3 * kDim, kDim}), Make({3 * kDim})};
    attention.proj = {Make({kDim, kDim}), Make({kDim})};
    mlp.fc1 = {Make({kHidden, kDim}), Make({kHidden})};
    mlp.fc2 = {Make({kDim, kHidden}), Make({kDim})};
    h = Make({kBatch, kSize * kSize, kDim}).requires_grad_();
    Train(Weights(), trained);
    if (trained != Trained::kHalf) return;
    // Heads 1 and 3, and so on, as of LLaMA.
    constexpr int64_t e = kDim / kHeads, f = kHidden / 4;
    const Ranges rows = {e, e, 3 * e, e, 5 * e, e, 7 * e, e, 9 * e, e, 11 * e, e};
    const Ranges neurons = {0, f, 3 * f, f};
    attention_parts.table = {Leaf({positions, 2}), {1, 1, 3, 1}};
    attention_parts.qkv = {Leaf({6 * e, kDim}), rows};
    attention_parts.qkv_bias = {Leaf({6 * e}), rows};
    attention_parts.proj = {Leaf({kDim, 2 * e}), {e, e, 3 * e, e}};
    mlp_parts.fc1 = {Leaf({2 * f, kDim}), neurons};
    mlp_parts.fc1_bias = {Leaf({2 * f}), neurons};
    mlp_parts.fc2 = {Leaf({kDim, 2 * f}), neurons};
  }
  std::vector<at::Tensor*> Weights() {
    return {&attention.table, &attention.qkv.weight, &attention.qkv.bias, &attention.proj.weight,
            &mlp.fc1.weight,  &mlp.fc1.bias,         &mlp.fc2.weight};
  }
  std::vector<TrainedPart*> Parts() {
    return {&attention_parts.table, &attention_parts.qkv, &attention_parts.qkv_bias,
            &attention_parts.proj,  &mlp_parts.fc1,       &mlp_parts.fc1_bias,
            &mlp_parts.fc2};
  }
  static std::vector<int64_t> Dimensions() { return {1, 0, 0, 1, 0, 0, 1}; }
  at::Tensor Forward() const {
    return GeluMlpBranch(
        WindowAttentionBranch(h, attention, windows, kDim / kHeads, 1, attention_parts), mlp, 1,
        mlp_parts);
  }
};

template <typename Layer>
class NeuronBackwardBranchesTest : public ::testing::Test {};
using Layers = ::testing::Types<LlamaLayer, SwinLayer>;
TYPED_TEST_SUITE(NeuronBackwardBranchesTest, Layers);

TYPED_TEST(NeuronBackwardBranchesTest, OnlyTheHeldPartsProductsAreMade) {
  const auto macs = [](Trained trained) {
    TypeParam layer(trained);
    const at::Tensor y = layer.Forward();
    return CountMacs([&] { y.backward(at::ones_like(y)); });
  };
  const int64_t none = macs(Trained::kNothing), half = macs(Trained::kHalf);
  const int64_t anew = TypeParam::kMadeAnewMacs;
  EXPECT_EQ(2 * (half - none - anew), macs(Trained::kAll) - none - anew);
  EXPECT_GT(half - anew, none);
}

TYPED_TEST(NeuronBackwardBranchesTest, GradientsHaveThePartsShape_AndItsDenseValues) {
  TypeParam dense(Trained::kAll), half(Trained::kHalf);
  const at::Tensor dy = dense.h.detach() + 1;
  dense.Forward().backward(dy);
  half.Forward().backward(dy);
  EXPECT_TRUE(at::equal(half.h.grad(), dense.h.grad()));
  for (size_t i = 0; i < half.Parts().size(); ++i) {
    const TrainedPart& part = *half.Parts()[i];
    EXPECT_FALSE(half.Weights()[i]->grad().defined());
    const at::Tensor expected =
        Select(dense.Weights()[i]->grad(), TypeParam::Dimensions()[i], part.ranges);
    ASSERT_EQ(part.leaf.grad().sizes(), expected.sizes());
    EXPECT_LE(Difference(part.leaf.grad(), expected), kRoundings);
  }
}

// Nothing is kept for weights' gradients alone, whatever part of them is wanted; the leaves of
// parts have no memory but of one element each.
TYPED_TEST(NeuronBackwardBranchesTest, StoreTheSame) {
  CountTensors();
  const auto stored = [](Trained trained) {
    const TypeParam layer(trained);
    const int64_t before = Allocated().now;
    const at::Tensor y = layer.Forward();
    return Allocated().now - before;
  };
  stored(Trained::kAll);  // warms what torch keeps
  EXPECT_EQ(stored(Trained::kHalf), stored(Trained::kAll));
  const auto weights = [](Trained trained) {
    const int64_t before = Allocated().now;
    const TypeParam layer(trained);
    return Allocated().now - before;
  };
  EXPECT_LE(weights(Trained::kHalf) - weights(Trained::kAll), 7 * 64);
}

// When the backward pass begins the same is there, but for the scalar of each part's leaf.
TEST(NeuronBackwardTest, Models_StoreTheSameWhateverPartIsHeld) {
  CountTensors();
  const auto expect_same = [](const ModelCase& c) {
    const auto stored = [&](const std::vector<HeldUnit>& held) {
      FakeExchange exchange = c.MakeExchange();
      const int64_t before = Allocated().now;
      EXPECT_TRUE(c.model->Train(Task(c, held, 0), exchange).ok());
      return exchange.bytes_at_backward() - before;
    };
    stored(c.Held());
    const auto scalars = static_cast<double>(64 * c.catalog.tensors.size());
    EXPECT_NEAR(static_cast<double>(stored(RandomUnits(c, 1, {1}))),
                static_cast<double>(stored(c.Held())), scalars);
  };
  expect_same(LlamaCase(LlamaCase::Spec(), LlamaParts(LlamaCase::Spec(), 101), 101));
  for (const ModelSpec& spec :
       {ModelSpec(ImageCase::Resnet(ResnetSpec::Order::kPost)), ModelSpec(ImageCase::Swin())})
    expect_same(ImageCase(spec, Layout::kMaxFragment, {1, 0}, ImageCase::OptionsOf(4)));
}

}  // namespace
}  // namespace sdp
