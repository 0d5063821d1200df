#include "worker/model/dense_pass.h"

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/allocated.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/image_case.h"
#include "tests/worker_model/image_parts.h"
#include "tests/worker_model/llama_case.h"
#include "tests/worker_model/parts.h"
#include "worker/model/counting_allocator.h"

// The full model's gradient, unit by unit, against the naive full model in f64, and against
// training with all units. Tolerances as those of training's gradients: of a block's largest
// element.
namespace sdp {
namespace {

using Kind = FakeExchange::Kind;

constexpr double kTolerance = 2e-5;
const std::vector<int64_t> kSamples = {3, 0, 7, 12, 9};

DenseTask Task(std::vector<HeldUnit> units, int64_t micro_batch = 0) {
  DenseTask task;
  task.step = 5;
  task.units = std::move(units);
  task.samples = kSamples;
  task.micro_batch = micro_batch;
  return task;
}

// All of the model's units; those that are not shared with each of `factors` in turn.
std::vector<HeldUnit> Units(const ModelCase& c, const std::vector<double>& factors) {
  std::vector<HeldUnit> units = c.Held();
  size_t next = 0;
  for (HeldUnit& unit : units) {
    if (!c.catalog.unit(unit.unit).shared) unit.factor = factors[next++ % factors.size()];
  }
  return units;
}

// `loss` of the reference's weights.
template <typename Loss>
void ExpectMatches(const ModelCase& c, const DenseTask& task, double tolerance, const Loss& loss) {
  const naive::Weights leaves = c.ReferenceWeights();
  loss(Masked(c, task.units, leaves)).backward();
  const naive::Weights gradients = ModelCase::Gradients(leaves);
  FakeExchange exchange = c.MakeExchange();
  ASSERT_EQ(c.model->DenseGradient(task, exchange), absl::OkStatus());
  for (const HeldUnit& unit : task.units) {
    EXPECT_LT(Difference(c.BlockGradient(exchange, unit.unit), c.Block(unit.unit, gradients)),
              tolerance)
        << c.catalog.unit(unit.unit).name;
  }
  for (int id = 0; id < c.layout.fragments(); ++id)
    EXPECT_EQ(exchange.Count(Kind::kGradient, id), 1);
  EXPECT_EQ(exchange.Count(Kind::kBackward), 0);
  EXPECT_EQ(exchange.Count(Kind::kReleased), 0);
}

TEST(DensePassTest, NoSamples_OrNotTheFullModel_InvalidArgument) {
  const LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  DenseTask task = Task(c.Held());
  task.samples.clear();
  EXPECT_TRUE(absl::IsInvalidArgument(c.model->DenseGradient(task, exchange)));
  const absl::Status status = c.model->DenseGradient(Task(c.Held({"layers.0.mlp"})), exchange);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(status.message(), ::testing::HasSubstr("layers.0.mlp"));
  EXPECT_TRUE(exchange.events().empty());
}

TEST(DensePassTest, TakeFails_SameCodeAndNamesTheUnit) {
  const LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  exchange.FailTake(c.Unit("layers.1.mlp"), absl::CancelledError("the run ends"));
  const absl::Status status = c.model->DenseGradient(Task(c.Held()), exchange);
  EXPECT_TRUE(absl::IsCancelled(status));
  EXPECT_THAT(status.message(), ::testing::HasSubstr("step 5: weights of layers.1.mlp"));
}

// Whoever looks at the result sees it; training does not suffer.
TEST(DensePassTest, NotFinite_IsHandedOut) {
  const LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  exchange.value(c.layout.block(c.Unit("layers.0.mlp")).front()).data()[0] = std::nanf("");
  EXPECT_EQ(c.model->DenseGradient(Task(c.Held()), exchange), absl::OkStatus());
  EXPECT_TRUE(c.BlockGradient(exchange, c.Unit("head")).isnan().any().item<bool>());
}

TEST(DensePassTest, Llama_MatchesNaive) {
  for (const bool tied : {false, true}) {
    for (const TransformerUnit unit : {TransformerUnit::kSublayer, TransformerUnit::kLayer}) {
      for (const int64_t micro_batch : {0, 1, 2}) {
        SCOPED_TRACE(absl::StrCat("tied ", tied, ", by ", micro_batch));
        LlamaSpec spec = LlamaCase::Spec();
        spec.tied = tied;
        const LlamaCase c(spec, unit, 11, micro_batch == 1 ? 100 : Layout::kMaxFragment);
        ExpectMatches(
            c, Task(Units(c, {0.5, 0.25, 1}), micro_batch), kTolerance,
            [&](const naive::Weights& w) { return c.ReferenceLoss(w, kSamples, c.Factors()); });
      }
    }
  }
}

TEST(DensePassTest, LlamaByNeurons_MatchesNaive) {
  const LlamaSpec spec = LlamaCase::Spec();
  const LlamaCase c(spec, LlamaNeuronCatalog(spec, {.groups = 5}, 11), 11, 100);
  ExpectMatches(c, Task(Units(c, {0.5, 0.25, 1}), 2), kTolerance,
                [&](const naive::Weights& w) { return c.ReferenceLoss(w, kSamples, c.Factors()); });
}

// BatchNorm goes by each micro-batch's own statistics: with all samples in one, by theirs.
TEST(DensePassTest, Images_MatchNaive) {
  for (const ImageCase::Named& named : ImageCase::All()) {
    for (const int64_t groups : {0, 3}) {
      if (groups > 0 && std::holds_alternative<SwinSpec>(named.spec)) continue;
      SCOPED_TRACE(absl::StrCat(named.name, " in ", groups, " groups"));
      const ImageCase c(named.spec, 1000, {1, 0}, ImageCase::OptionsOf(groups));
      DenseTask task = Task(Units(c, {0.5, 0.75}), HasBatchNorm(c.spec) ? 0 : 2);
      task.epochs.assign(task.samples.size(), 3);
      ExpectMatches(c, task, groups > 0 ? kPartsTolerance : kTolerance,
                    [&](const naive::Weights& w) { return c.ReferenceLoss(w, kSamples, {}, 3); });
    }
  }
}

TEST(DensePassTest, SwinByHeadsAndNeurons_MatchesNaive) {
  const ImageCase c(ImageCase::Swin(), Layout::kMaxFragment, {1, 0}, ImageCase::OptionsOf(3));
  ExpectMatches(c, Task(Units(c, {0.5, 0.75}), 2), kPartsTolerance,
                [&](const naive::Weights& w) { return c.ReferenceLoss(w, kSamples, {}); });
}

void ExpectTrainingsBits(const ModelCase& c, int64_t micro_batch, WireType type = WireType::kF32) {
  TrainTask train;
  train.units = c.Held({}, 0.7);
  train.samples = kSamples;
  train.micro_batch = micro_batch;
  FakeExchange trained(c.layout, c.Fragments(c.weights), type);
  FakeExchange dense(c.layout, c.Fragments(c.weights), type);
  ASSERT_TRUE(c.model->Train(train, trained).ok());
  ASSERT_EQ(c.model->DenseGradient(Task(c.Held({}, 0.7), micro_batch), dense), absl::OkStatus());
  for (int id = 0; id < c.layout.fragments(); ++id) {
    EXPECT_TRUE(dense.gradient(FragmentId(id))->span() == trained.gradient(FragmentId(id))->span())
        << "fragment " << id;
  }
}

TEST(DensePassTest, WithTrainingsFactors_HasItsBits) {
  ExpectTrainingsBits(LlamaCase(), 0);
  ExpectTrainingsBits(LlamaCase(), 2);
  LlamaSpec tied = LlamaCase::Spec();
  tied.tied = true;
  ExpectTrainingsBits(LlamaCase(tied), 0);
  const LlamaCase bf16(LlamaCase::Spec(), TransformerUnit::kSublayer, 11, Layout::kMaxFragment,
                       {.threads = 1, .precision = WireType::kBf16});
  ExpectTrainingsBits(bf16, 0, WireType::kBf16);
  ExpectTrainingsBits(bf16, 2, WireType::kBf16);
  for (const ImageCase::Named& named : ImageCase::All()) {
    SCOPED_TRACE(named.name);
    ExpectTrainingsBits(ImageCase(named.spec), 0);
    ExpectTrainingsBits(ImageCase(named.spec), 3);
  }
}

TEST(DensePassTest, EachUnit_IsWantedOneStageAheadAndTakenTwice_OnceWhereTheWalkTurns) {
  const LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  ASSERT_EQ(c.model->DenseGradient(Task(c.Held()), exchange), absl::OkStatus());
  std::vector<FakeExchange::Event> expected = {{Kind::kWant, 0}};
  const int last = static_cast<int>(c.catalog.units.size()) - 1;
  for (int unit = 0; unit < last; ++unit) {
    expected.push_back({Kind::kTake, unit});
    expected.push_back({Kind::kWant, unit + 1});
  }
  for (int unit = last; unit >= 0; --unit) {  // one fragment each
    expected.push_back({Kind::kTake, unit});
    if (unit > 0) expected.push_back({Kind::kWant, unit - 1});
    expected.push_back({Kind::kGradient, unit});
  }
  EXPECT_TRUE(exchange.events() == expected);
}

// Gradients that leave at once.
class Forgetful final : public FakeExchange {
 public:
  using FakeExchange::FakeExchange;
  void Gradient(FragmentId, WireBuffer) override {}
};

int64_t PeakOf(int64_t layers) {
  LlamaSpec spec = LlamaCase::Spec();
  spec.layers = layers;
  spec.dim = 64;
  spec.ffn_dim = 256;
  const LlamaCase c(spec);
  Forgetful exchange(c.layout, c.Fragments(c.weights));
  const int64_t before = Allocated().now;
  RestartAllocatedPeak();
  EXPECT_EQ(c.model->DenseGradient(Task(c.Held(), 2), exchange), absl::OkStatus());
  return Allocated().peak - before;
}

// Nine more layers, of 65,664 parameters each, cost no more than the boundaries of their 18 stages.
TEST(DensePassTest, Memory_GrowsByBoundariesAlone) {
  CountTensors();
  const int64_t boundary = 5 * 11 * 64 * static_cast<int64_t>(sizeof(float));
  EXPECT_EQ(PeakOf(12) - PeakOf(3), 18 * boundary);
}

}  // namespace
}  // namespace sdp
