#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/llama_case.h"

// TorchModel::Train on LLaMA against the naive model in f64. Tolerance: f32 arithmetic through two
// layers with sums of up to 44 (targets) times 37 (classes) terms leaves relative errors of some
// 1e-6 of the largest element; 2e-5 is ten times that and far below what any wrong term would make.
namespace sdp {
namespace {

using Kind = FakeExchange::Kind;

constexpr double kTolerance = 2e-5;
const std::vector<int64_t> kSamples = {3, 0, 7, 12};

TrainTask Task(std::vector<HeldUnit> units, int64_t micro_batch = 0) {
  TrainTask task;
  task.step = 5;
  task.units = std::move(units);
  task.samples = kSamples;
  task.micro_batch = micro_batch;
  return task;
}

// Loss and all gradients of held units against the reference's.
void ExpectMatches(const LlamaCase& c, FakeExchange& exchange, const TrainTask& task,
                   const at::Tensor& reference_loss, const naive::Weights& reference_gradients) {
  const absl::StatusOr<TrainResult> result = c.model->Train(task, exchange);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->loss.terms, static_cast<int64_t>(kSamples.size()) * c.seq_len);
  const double mean = reference_loss.item<double>();
  EXPECT_NEAR(result->loss.loss_sum / static_cast<double>(result->loss.terms), mean, 1e-6 * mean);
  for (const HeldUnit& held : task.units) {
    EXPECT_LT(
        Difference(c.BlockGradient(exchange, held.unit), c.Block(held.unit, reference_gradients)),
        kTolerance)
        << c.catalog.unit(held.unit).name;
  }
}

void ExpectMatchesNaive(const LlamaCase& c, double factor, int64_t micro_batch) {
  const naive::Weights reference = c.ReferenceWeights();
  const at::Tensor loss = c.ReferenceLoss(reference, kSamples, c.Factors(factor));
  loss.backward();
  FakeExchange exchange = c.MakeExchange();
  ExpectMatches(c, exchange, Task(c.Held({}, factor), micro_batch), loss,
                LlamaCase::Gradients(reference));
}

// ---- Errors ----

TEST(TrainTest, LossNotFinite_OutOfRangeAndNoGradients) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const int64_t micro_batch : {0, 1}) {
      LlamaCase c;
      FakeExchange exchange = c.MakeExchange();
      exchange.value(c.layout.block(c.Unit("layers.1.mlp")).front()).data()[40] = bad;
      const absl::StatusOr<TrainResult> result =
          c.model->Train(Task(c.Held(), micro_batch), exchange);
      EXPECT_EQ(result.status().code(), absl::StatusCode::kOutOfRange) << result.status();
      EXPECT_THAT(result.status().message(), ::testing::HasSubstr("step 5"));
      EXPECT_EQ(exchange.Count(Kind::kGradient), 0);
    }
  }
}

// Not a weight that the loss depends on gets a number: none could be taken for a gradient.
TEST(TrainTest, LossNotFinite_HandedOutWhereWanted) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const int64_t micro_batch : {0, 1}) {
      LlamaCase c;
      FakeExchange exchange = c.MakeExchange();
      exchange.value(c.layout.block(c.Unit("layers.1.mlp")).front()).data()[40] = bad;
      TrainTask task = Task(c.Held(), micro_batch);
      task.hand_out_not_finite = true;
      const absl::StatusOr<TrainResult> result = c.model->Train(task, exchange);
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(result->loss.terms, 0);
      EXPECT_EQ(result->loss.loss_sum, 0);
      for (const HeldUnit& held : c.Held()) {
        for (const FragmentId id : c.layout.block(held.unit)) {
          const std::optional<FloatBuffer>& gradient = exchange.gradient(id);
          ASSERT_TRUE(gradient.has_value());
          // Of tokens that did not occur the embedding has a gradient: 0.
          if (held.unit == c.Unit("embed")) continue;
          EXPECT_TRUE(absl::c_any_of(gradient->span(), [](float g) { return std::isnan(g); }))
              << id.value();
        }
      }
    }
  }
}

TEST(TrainTest, LossNotFiniteInTheLastMicroBatchOnly_OutOfRangeAndNoGradients) {
  // Token 36 occurs in the last sample alone, and its embedding is not a number.
  class OneBad : public RandomTokens {
   public:
    using RandomTokens::RandomTokens;
    void Read(int64_t sample, absl::Span<int32_t> tokens) const override {
      RandomTokens::Read(sample, tokens);
      for (int32_t& token : tokens) token = token % 36;
      if (sample == kSamples.back()) tokens[2] = 36;
    }
  };
  LlamaCase c;
  OneBad data(16, c.seq_len, c.spec.vocab, 7);
  const auto model = MakeTorchModel(c.catalog, c.layout, c.spec, &data, nullptr, {1, 0});
  ASSERT_TRUE(model.ok()) << model.status();
  FakeExchange exchange = c.MakeExchange();
  FloatBuffer& embedding = exchange.value(c.layout.block(c.Unit("embed")).back());
  embedding.data()[embedding.size() - 1] = std::nanf("");
  EXPECT_EQ((*model)->Train(Task(c.Held(), 1), exchange).status().code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(exchange.Count(Kind::kGradient), 0);
}

TEST(TrainTest, TakeFails_SameCodeAndNamesTheUnit) {
  LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  exchange.FailTake(c.Unit("layers.1.attention"), absl::CancelledError("the run ends"));
  const absl::Status status = c.model->Train(Task(c.Held()), exchange).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("layers.1.attention"));
  EXPECT_THAT(status.message(), ::testing::HasSubstr("the run ends"));
  EXPECT_EQ(exchange.Count(Kind::kGradient), 0);
}

TEST(TrainTest, BlockOfWrongSize_Internal) {
  LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  exchange.value(c.layout.block(c.Unit("head")).front()) = FloatBuffer::Zeros(3);
  EXPECT_EQ(c.model->Train(Task(c.Held()), exchange).status().code(), absl::StatusCode::kInternal);
}

TEST(TrainTest, SharedUnitMissing_InvalidArgument) {
  LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  const absl::Status status = c.model->Train(Task(c.Held({"head"})), exchange).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("head"));
}

TEST(TrainTest, NoSamplesOrUnknownUnit_InvalidArgument) {
  LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  TrainTask task = Task(c.Held());
  task.units.push_back({UnitId(99), 1});
  EXPECT_EQ(c.model->Train(task, exchange).status().code(), absl::StatusCode::kInvalidArgument);
  task = Task(c.Held());
  task.samples.clear();
  EXPECT_EQ(c.model->Train(task, exchange).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(TrainTest, TokenOutOfVocabulary_InternalNamingTheStage) {
  LlamaCase c;
  RandomTokens data(16, c.seq_len, 1000, 7);
  const auto model = MakeTorchModel(c.catalog, c.layout, c.spec, &data, nullptr, {1, 0});
  ASSERT_TRUE(model.ok()) << model.status();
  FakeExchange exchange = c.MakeExchange();
  const absl::Status status = (*model)->Train(Task(c.Held()), exchange).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_THAT(status.message(), ::testing::HasSubstr("step 5: forward of embed"));
}

TEST(TrainTest, CatalogOfAnotherModel_InvalidArgument) {
  LlamaCase c;
  LlamaSpec other = c.spec;
  other.layers = 3;
  EXPECT_EQ(MakeTorchModel(c.catalog, c.layout, other, &c.data, nullptr, {1, 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
  other = c.spec;
  other.tied = true;  // Nobody reads lm_head.weight.
  const absl::Status status =
      MakeTorchModel(c.catalog, c.layout, other, &c.data, nullptr, {1, 0}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("lm_head.weight"));
}

// ---- The whole model ----

TEST(TrainTest, GroupedQueryHeads_MatchesNaive) { ExpectMatchesNaive(LlamaCase(), 1, 0); }

TEST(TrainTest, MultiHead_MatchesNaive) {
  LlamaSpec spec = LlamaCase::Spec();
  spec.kv_heads = spec.heads;
  ExpectMatchesNaive(LlamaCase(spec), 1, 0);
}

TEST(TrainTest, OneKeyHeadForAll_MatchesNaive) {
  LlamaSpec spec = LlamaCase::Spec();
  spec.kv_heads = 1;
  ExpectMatchesNaive(LlamaCase(spec), 1, 0);
}

TEST(TrainTest, TiedHead_MatchesNaiveAndIsHandedOutOnce) {
  LlamaSpec spec = LlamaCase::Spec();
  spec.tied = true;
  LlamaCase c(spec);
  ExpectMatchesNaive(c, 1, 2);
  FakeExchange exchange = c.MakeExchange();
  ASSERT_TRUE(c.model->Train(Task(c.Held()), exchange).ok());
  EXPECT_EQ(exchange.Count(Kind::kTake, c.Unit("embed").value()), 1);
  EXPECT_EQ(exchange.Count(Kind::kGradient, c.layout.block(c.Unit("embed")).front().value()), 1);
}

TEST(TrainTest, OddAndLongerSequences_MatchNaive) {
  // 1 token; 300: more than one tile of the attention kernel.
  for (const int64_t length : {1, 2, 300}) {
    SCOPED_TRACE(length);
    ExpectMatchesNaive(LlamaCase(LlamaCase::Spec(), TransformerUnit::kSublayer, length), 1, 0);
  }
}

TEST(TrainTest, HeadInSeveralChunks_MatchesNaive) {
  // 4 samples of 300 tokens are five chunks of at least 256 where the vocabulary is large.
  LlamaSpec spec = LlamaCase::Spec();
  spec.layers = 1;
  spec.vocab = 8191;
  ExpectMatchesNaive(LlamaCase(spec, TransformerUnit::kSublayer, 300), 1, 0);
}

TEST(TrainTest, MicroBatches_MatchNaive) {
  for (const int64_t micro_batch : {1, 2, 3, 4, 9}) {
    SCOPED_TRACE(micro_batch);
    ExpectMatchesNaive(LlamaCase(), 1, micro_batch);
  }
}

TEST(TrainTest, FactorOfSublayersAndLayers_OnEachBranch) {
  for (const TransformerUnit unit : {TransformerUnit::kSublayer, TransformerUnit::kLayer}) {
    ExpectMatchesNaive(LlamaCase(LlamaCase::Spec(), unit), 0.7, 0);
  }
}

TEST(TrainTest, TinyFragments_MatchNaive) {
  // 7: every tensor in several fragments. 1000: several tensors in a fragment, and tensors across
  // borders.
  for (const int64_t max_fragment : {7, 1000}) {
    SCOPED_TRACE(max_fragment);
    ExpectMatchesNaive(LlamaCase(LlamaCase::Spec(), TransformerUnit::kSublayer, 11, max_fragment),
                       1, 3);
    ExpectMatchesNaive(LlamaCase(LlamaCase::Spec(), TransformerUnit::kLayer, 11, max_fragment), 1,
                       0);
  }
}

// ---- Subnetworks ----

// Absent units' last matrices are zero in the full model, so that their branches are.
void ExpectSlimEqualsMasked(const LlamaCase& c, const std::vector<std::string>& absent,
                            int64_t micro_batch) {
  naive::Weights masked = c.weights;
  for (const std::string& name : absent) {
    for (const Slice& slice : c.catalog.unit(c.Unit(name)).slices) {
      const std::string& tensor = c.catalog.tensors[static_cast<size_t>(slice.tensor)].name;
      if (absl::StrContains(tensor, "o_proj") || absl::StrContains(tensor, "down_proj")) {
        masked[tensor] = at::zeros_like(masked[tensor]);
      }
    }
  }
  naive::Weights reference;
  for (const auto& [name, value] : masked) reference[name] = value.to(at::kDouble).requires_grad_();
  const at::Tensor loss = c.ReferenceLoss(reference, kSamples, c.Factors());
  loss.backward();
  const naive::Weights gradients = LlamaCase::Gradients(reference);
  FakeExchange slim = c.MakeExchange();
  ExpectMatches(c, slim, Task(c.Held(absent), micro_batch), loss, gradients);
  // And the product's own full model, masked.
  FakeExchange full(c.layout, c.Fragments(masked));
  ExpectMatches(c, full, Task(c.Held(), micro_batch), loss, gradients);

  for (const std::string& name : absent) {
    const UnitId unit = c.Unit(name);
    EXPECT_EQ(slim.Count(Kind::kTake, unit.value()), 0) << name;
    for (const FragmentId id : c.layout.block(unit))
      EXPECT_EQ(slim.Count(Kind::kGradient, id.value()), 0) << name;
  }
}

TEST(TrainTest, SlimSubnetwork_EqualsZeroMaskedFullModel) {
  const LlamaCase c;
  ExpectSlimEqualsMasked(c, {"layers.0.attention", "layers.1.mlp"}, 0);
  ExpectSlimEqualsMasked(c, {"layers.0.mlp"}, 3);
  ExpectSlimEqualsMasked(
      c, {"layers.0.attention", "layers.0.mlp", "layers.1.attention", "layers.1.mlp"}, 0);
  ExpectSlimEqualsMasked(LlamaCase(LlamaCase::Spec(), TransformerUnit::kLayer), {"layers.0"}, 0);
}

// ---- What the exchange sees ----

TEST(TrainTest, Events_TakesInForwardOrderThenBackwardThenEachFragmentOnce) {
  const LlamaCase c(LlamaCase::Spec(), TransformerUnit::kSublayer, 11, 100);
  FakeExchange exchange = c.MakeExchange();
  const std::vector<HeldUnit> held = c.Held({"layers.0.mlp"});
  ASSERT_TRUE(c.model->Train(Task(held, 1), exchange).ok());
  std::vector<FakeExchange::Event> expected;
  for (const HeldUnit& unit : held) expected.push_back({Kind::kTake, unit.unit.value()});
  expected.push_back({Kind::kBackward});
  ASSERT_GE(exchange.events().size(), expected.size());
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), exchange.events().begin()));

  int fragments = 0;
  for (const HeldUnit& unit : held) {
    for (const FragmentId id : c.layout.block(unit.unit)) {
      EXPECT_EQ(exchange.Count(Kind::kGradient, id.value()), 1) << "fragment " << id;
      ++fragments;
    }
  }
  EXPECT_EQ(exchange.Count(Kind::kGradient), fragments);
  // Gradients leave as they are ready: the head's before any of the first layer's, the embedding's
  // last.
  const std::vector<FakeExchange::Event>& events = exchange.events();
  EXPECT_EQ(c.layout.fragment(FragmentId(events[expected.size()].id)).unit, c.Unit("head"));
  EXPECT_EQ(c.layout.fragment(FragmentId(events.back().id)).unit, c.Unit("embed"));
}

TEST(TrainTest, Repeated_SameBits) {
  for (const int threads : {1, 2}) {
    const LlamaCase c(LlamaCase::Spec(), TransformerUnit::kSublayer, 90, Layout::kMaxFragment,
                      {threads, 0});
    FakeExchange first = c.MakeExchange(), second = c.MakeExchange();
    const absl::StatusOr<TrainResult> a = c.model->Train(Task(c.Held(), 2), first);
    const absl::StatusOr<TrainResult> b = c.model->Train(Task(c.Held(), 2), second);
    ASSERT_TRUE(a.ok() && b.ok());
    EXPECT_EQ(a->loss.loss_sum, b->loss.loss_sum);
    for (const HeldUnit& held : c.Held()) {
      EXPECT_TRUE(at::equal(c.BlockGradient(first, held.unit), c.BlockGradient(second, held.unit)));
    }
  }
}

TEST(TrainTest, DirectionalDerivatives_MatchFiniteDifferences) {
  // The one check without autograd in the reference: loss differences of the product's own forward
  // pass. A step of 1e-2 of unit length leaves a curvature error of about 1e-4 and rounding of 1e-6
  // / 1e-2 in a derivative of order 0.1.
  const LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  ASSERT_TRUE(c.model->Train(Task(c.Held(), 0), exchange).ok());
  auto generator = at::make_generator<at::CPUGeneratorImpl>(11);
  for (const HeldUnit& held : c.Held()) {
    naive::Weights direction;
    double length = 0;
    for (const auto& [name, value] : c.weights) direction[name] = at::zeros_like(value);
    for (const Slice& slice : c.catalog.unit(held.unit).slices) {
      at::Tensor& d = direction[c.catalog.tensors[static_cast<size_t>(slice.tensor)].name];
      d = at::randn(d.sizes(), generator, at::kFloat);
      length += d.square().sum().item<double>();
    }
    const auto loss = [&](double step) {
      naive::Weights moved;
      for (const auto& [name, value] : c.weights)
        moved[name] = value + direction[name] * (step / std::sqrt(length));
      FakeExchange there(c.layout, c.Fragments(moved));
      const absl::StatusOr<TrainResult> result = c.model->Train(Task(c.Held(), 0), there);
      return result->loss.loss_sum / static_cast<double>(result->loss.terms);
    };
    const double difference = (loss(1e-2) - loss(-1e-2)) / 2e-2;
    const double derivative = (c.BlockGradient(exchange, held.unit) * c.Block(held.unit, direction))
                                  .sum()
                                  .item<double>() /
                              std::sqrt(length);
    EXPECT_NEAR(derivative, difference, 1e-3) << c.catalog.unit(held.unit).name;
  }
}

}  // namespace
}  // namespace sdp
