#include <algorithm>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/llama_case.h"
#include "tests/worker_model/parts.h"
#include "worker/model/llama.h"
#include "worker/model/weight_map.h"

// Neuron granularity: a slim subnetwork of heads and neurons against the naive full model in f64 in
// which the columns of absent units are zero and those of held ones are scaled. Tolerances as in
// train_test.cc (2e-5 of a block's largest element) and bf16_model_test.cc (8 u in the 2-norm).
namespace sdp {
namespace {

constexpr double kTolerance = 2e-5;
const std::vector<int64_t> kSamples = {3, 0, 7, 12};

struct Shape {
  LlamaSpec spec = LlamaCase::Spec();  // 4 heads of 2 kv heads, 20 neurons
  NeuronUnits units = {.groups = 3};   // of 6, 7 and 7 neurons
  int64_t length = 11;
  int64_t max_fragment = Layout::kMaxFragment;
  ModelOptions options = {1, 0};

  LlamaCase Make() const {
    return LlamaCase(spec, LlamaNeuronCatalog(spec, units, length), length, max_fragment, options);
  }
};

struct Reference {
  double loss;
  naive::Weights gradients;
};
Reference ReferenceOf(const LlamaCase& c, const std::vector<HeldUnit>& held) {
  const naive::Weights leaves = c.ReferenceWeights();
  const at::Tensor loss = c.ReferenceLoss(Masked(c, held, leaves), kSamples, c.Factors());
  loss.backward();
  return {loss.item<double>(), LlamaCase::Gradients(leaves)};
}

TrainTask Task(std::vector<HeldUnit> units, int64_t micro_batch = 0) {
  TrainTask task;
  task.units = std::move(units);
  task.samples = kSamples;
  task.micro_batch = micro_batch;
  return task;
}

void ExpectSlimEqualsMasked(const Shape& shape, const std::vector<double>& factors,
                            int64_t micro_batch) {
  const LlamaCase c = shape.Make();
  for (unsigned seed = 0; seed < 6; ++seed) {
    SCOPED_TRACE(seed);
    const std::vector<HeldUnit> held = RandomUnits(c, seed, factors);
    const Reference reference = ReferenceOf(c, held);
    FakeExchange exchange = c.MakeExchange();
    const absl::StatusOr<TrainResult> result = c.model->Train(Task(held, micro_batch), exchange);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_NEAR(result->loss.loss_sum / static_cast<double>(result->loss.terms), reference.loss,
                1e-6 * reference.loss);
    for (const HeldUnit& unit : held) {
      EXPECT_LT(
          Difference(c.BlockGradient(exchange, unit.unit), c.Block(unit.unit, reference.gradients)),
          kTolerance)
          << c.catalog.unit(unit.unit).name;
    }
    ExpectExchanged(c, exchange, held);
  }
}

TEST(NeuronTest, GroupedQueries_SlimEqualsMasked) { ExpectSlimEqualsMasked({}, {1}, 0); }

TEST(NeuronTest, HeadsOfTheirOwn_SlimEqualsMasked) {
  Shape shape;
  shape.spec.kv_heads = shape.spec.heads;
  shape.units.groups = 20;  // a neuron each
  ExpectSlimEqualsMasked(shape, {1}, 0);
}

TEST(NeuronTest, MicroBatches_SlimEqualsMasked) {
  for (const int64_t micro_batch : {1, 3}) ExpectSlimEqualsMasked({}, {1}, micro_batch);
}

TEST(NeuronTest, OneFactorPerStage_SlimEqualsMasked) { ExpectSlimEqualsMasked({}, {0.7}, 0); }

TEST(NeuronTest, FactorsThatDiffer_SlimEqualsMasked) {
  ExpectSlimEqualsMasked({}, {1.2, 0.8, 0.5}, 0);
  Shape tied;
  tied.spec.tied = true;
  ExpectSlimEqualsMasked(tied, {1.2, 0.8}, 2);
}

TEST(NeuronTest, TinyFragments_SlimEqualsMasked) {
  // Borders inside of rows, between rows of columns, and fragments of one element.
  for (const int64_t max_fragment : {1, 7, 50}) {
    Shape shape;
    shape.max_fragment = max_fragment;
    ExpectSlimEqualsMasked(shape, {1.2, 0.8}, 3);
  }
}

TEST(NeuronTest, SharedAttention_SlimEqualsMasked) {
  Shape shape;
  shape.units.attention = NeuronUnits::Attention::kShared;
  ExpectSlimEqualsMasked(shape, {0.7, 1.1}, 0);
}

// The stage is the identity; its norm, which everybody holds, has gradient 0.
TEST(NeuronTest, NoPartOfAStage_IsTheIdentity) {
  const LlamaCase c = Shape().Make();
  const std::vector<std::string> absent = {"layers.0.attention.0", "layers.0.attention.1",
                                           "layers.1.mlp.0", "layers.1.mlp.1", "layers.1.mlp.2"};
  const std::vector<HeldUnit> held = c.Held(absent);
  const Reference reference = ReferenceOf(c, held);
  for (const int64_t micro_batch : {0, 1}) {
    FakeExchange exchange = c.MakeExchange();
    const absl::StatusOr<TrainResult> result = c.model->Train(Task(held, micro_batch), exchange);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_NEAR(result->loss.loss_sum / static_cast<double>(result->loss.terms), reference.loss,
                1e-6 * reference.loss);
    for (const char* norm : {"layers.0.attention.norm", "layers.1.mlp.norm"}) {
      EXPECT_EQ(c.BlockGradient(exchange, c.Unit(norm)).abs().max().item<float>(), 0) << norm;
    }
    ExpectExchanged(c, exchange, held);
  }
}

TEST(NeuronTest, Bf16_NearNaive) {
  Shape shape;
  shape.max_fragment = 1000;
  shape.options = {.threads = 1, .precision = WireType::kBf16};
  LlamaCase c = shape.Make();
  for (auto& [name, value] : c.weights) {  // bf16 numbers, as in bf16_model_test.cc
    if (value.dim() > 1) value = value / 2;
    value = value.to(at::kBFloat16).to(at::kFloat);
  }
  constexpr double kU = 0x1p-8;
  for (unsigned seed = 0; seed < 4; ++seed) {
    const std::vector<HeldUnit> held = RandomUnits(c, seed, {1.2, 0.8, 0.5});
    const Reference reference = ReferenceOf(c, held);
    FakeExchange exchange(c.layout, c.Fragments(c.weights), WireType::kBf16);
    const absl::StatusOr<TrainResult> result =
        c.model->Train(Task(held, seed % 2 == 0 ? 0 : 1), exchange);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_NEAR(result->loss.loss_sum / static_cast<double>(result->loss.terms), reference.loss,
                3 * kU * reference.loss);
    for (const HeldUnit& unit : held) {
      const at::Tensor expected = c.Block(unit.unit, reference.gradients);
      const at::Tensor error = c.BlockGradient(exchange, unit.unit).to(at::kDouble) - expected;
      EXPECT_LE(error.norm().item<double>(), 8 * kU * expected.norm().item<double>())
          << c.catalog.unit(unit.unit).name << " seed " << seed;
    }
  }
}

// All units at factor 1 are the same tensors whatever they are cut into: the same bits.
TEST(NeuronTest, AllUnits_HaveTheBitsOfBlocks) {
  const Shape shape;
  const LlamaCase blocks(shape.spec), parts = shape.Make();
  FakeExchange a = blocks.MakeExchange(), b = parts.MakeExchange();
  const auto x = blocks.model->Train(Task(blocks.Held(), 3), a);
  const auto y = parts.model->Train(Task(parts.Held(), 3), b);
  ASSERT_TRUE(x.ok() && y.ok());
  EXPECT_EQ(x->loss.loss_sum, y->loss.loss_sum);
  const naive::Weights expected = GradientsByTensor(blocks, a);
  for (const auto& [name, gradient] : GradientsByTensor(parts, b))
    EXPECT_TRUE(at::equal(gradient, expected.at(name))) << name;
}

// ---- Evaluation ----

TEST(NeuronTest, Evaluation_IsTheFullModelWithEachUnitsFactor) {
  const LlamaCase c = Shape().Make();
  for (const std::vector<double>& factors : {std::vector<double>{0.5}, {0.5, 0.75, 1}}) {
    EvaluateTask task;
    task.units = c.Held();
    for (size_t i = 0; i < task.units.size(); ++i) {
      if (!c.catalog.unit(task.units[i].unit).shared)
        task.units[i].factor = factors[i % factors.size()];
    }
    task.samples = 13;
    task.micro_batch = 5;
    std::vector<int64_t> samples;
    for (int64_t i = 0; i < 13; ++i) samples.push_back(i);
    const double mean =
        c.ReferenceLoss(Masked(c, task.units, c.ReferenceWeights()), samples, c.Factors())
            .item<double>();
    FakeExchange exchange = c.MakeExchange();
    const absl::StatusOr<LossSum> result = c.model->Evaluate(task, exchange);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_NEAR(result->loss_sum / static_cast<double>(result->terms), mean, 1e-6 * mean);
  }
}

TEST(NeuronTest, Evaluation_UnitMissing_IsNamed) {
  const LlamaCase c = Shape().Make();
  FakeExchange exchange = c.MakeExchange();
  EvaluateTask task;
  task.units = c.Held({"layers.1.mlp.2"});
  task.samples = 1;
  const absl::Status status = c.model->Evaluate(task, exchange).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("layers.1.mlp.2"));
}

// ---- Which units can be computed with ----

TEST(WeightMapTest, PartsThatDoNotMakeUpTheirTensor_InvalidArgument) {
  const Shape shape;
  const Network network = LlamaNetwork(shape.spec, shape.length);
  const Catalog good = LlamaNeuronCatalog(shape.spec, shape.units, shape.length);
  EXPECT_TRUE(WeightMap::Make(good, network).ok());
  const auto refusal = [&](const Catalog& catalog) {
    return std::string(WeightMap::Make(catalog, network).status().message());
  };
  const auto unit = [&](Catalog& catalog, const std::string& name) -> UnitSpec& {
    return *std::find_if(catalog.units.begin(), catalog.units.end(),
                         [&](const UnitSpec& u) { return u.name == name; });
  };
  Catalog swapped = good;
  std::swap(unit(swapped, "layers.0.mlp.0").slices, unit(swapped, "layers.0.mlp.1").slices);
  EXPECT_THAT(refusal(swapped), ::testing::HasSubstr("gate_proj"));
  Catalog missing = good;
  unit(missing, "layers.1.attention.1").slices.pop_back();
  EXPECT_THAT(refusal(missing), ::testing::HasSubstr("o_proj"));
  Catalog other = good;  // q of other units than k and v
  unit(other, "layers.0.attention.0").slices[0].end = 24;
  unit(other, "layers.0.attention.1")
      .slices.erase(unit(other, "layers.0.attention.1").slices.begin());
  EXPECT_THAT(refusal(other), ::testing::HasSubstr("of other units"));
}

}  // namespace
}  // namespace sdp
