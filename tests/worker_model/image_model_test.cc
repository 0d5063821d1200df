#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/image_case.h"
#include "tests/worker_model/llama_case.h"

// TorchModel on image models against the naive models in f64. Tolerance: f32 arithmetic through
// four blocks, each with sums of about 100 terms and norms that subtract means, leaves relative
// errors of some 1e-6 of the largest element; 2e-5 is far below what any wrong term would make.
namespace sdp {
namespace {

constexpr double kTolerance = 2e-5;
const std::vector<int64_t> kSamples = {3, 0, 7, 12, 9};

TrainTask Task(std::vector<HeldUnit> units, int64_t micro_batch = 0) {
  TrainTask task;
  task.step = 5;
  task.units = std::move(units);
  task.samples = kSamples;
  task.micro_batch = micro_batch;
  return task;
}

class ImageModelTest : public testing::TestWithParam<ImageCase::Named> {
 protected:
  // Loss and all gradients of held units against the reference's.
  static void ExpectMatches(const ImageCase& c, FakeExchange& exchange, const TrainTask& task,
                            const naive::Weights& weights, const naive::BranchFactors& factors,
                            double epoch = 0) {
    naive::Weights reference;
    for (const auto& [name, value] : weights)
      reference[name] = value.to(at::kDouble).requires_grad_();
    const at::Tensor loss = c.ReferenceLoss(reference, task.samples, factors, epoch);
    loss.backward();
    const naive::Weights gradients = ModelCase::Gradients(reference);
    const absl::StatusOr<TrainResult> result = c.model->Train(task, exchange);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->loss.terms, static_cast<int64_t>(task.samples.size()));
    const double mean = loss.item<double>();
    EXPECT_NEAR(result->loss.loss_sum / static_cast<double>(result->loss.terms), mean, 2e-6 * mean);
    for (const HeldUnit& held : task.units) {
      EXPECT_LT(Difference(c.BlockGradient(exchange, held.unit), c.Block(held.unit, gradients)),
                kTolerance)
          << c.catalog.unit(held.unit).name;
    }
  }
};

TEST_P(ImageModelTest, WholeModel_MatchesNaive) {
  const ImageCase c(GetParam().spec);
  FakeExchange exchange = c.MakeExchange();
  ExpectMatches(c, exchange, Task(c.Held()), c.weights, {});
}

TEST_P(ImageModelTest, FactorsMicroBatchesAndTinyFragments_MatchNaive) {
  for (const int64_t micro_batch : {1, 2, 9}) {
    SCOPED_TRACE(micro_batch);
    if (micro_batch < 5 && HasBatchNorm(GetParam().spec)) continue;
    const ImageCase c(GetParam().spec, /*max_fragment=*/micro_batch == 2 ? 50 : 1000);
    FakeExchange exchange = c.MakeExchange();
    ExpectMatches(c, exchange, Task(c.Held({}, 0.7), micro_batch), c.weights, c.Factors(0.7));
  }
}

TEST_P(ImageModelTest, Epochs_ReachTheData) {
  const ImageCase c(GetParam().spec);
  FakeExchange exchange = c.MakeExchange();
  TrainTask task = Task(c.Held(), HasBatchNorm(c.spec) ? 0 : 2);
  task.epochs.assign(task.samples.size(), 3);
  ExpectMatches(c, exchange, task, c.weights, {}, 3);
}

// Absent units' last maps are zero in the full model, so that their branches are.
TEST_P(ImageModelTest, SlimSubnetwork_EqualsZeroMaskedFullModel) {
  const ImageCase c(GetParam().spec);
  const std::vector<std::string> all = c.Masked();
  std::vector<std::vector<std::string>> cases = {all, {all[0], all[2]}};
  for (const std::string& name : all) cases.push_back({name});
  for (const std::vector<std::string>& absent : cases) {
    naive::Weights masked = c.weights;
    for (const std::string& name : absent) {
      for (const Slice& slice : c.catalog.unit(c.Unit(name)).slices) {
        const TensorSpec& tensor = c.catalog.tensors[static_cast<size_t>(slice.tensor)];
        if (tensor.ends_branch) masked[tensor.name] = at::zeros_like(masked[tensor.name]);
      }
    }
    const bool whole = absent.size() == 1 || HasBatchNorm(c.spec);
    const int64_t micro_batch = whole ? 0 : 2;
    FakeExchange slim = c.MakeExchange();
    ExpectMatches(c, slim, Task(c.Held(absent), micro_batch), masked, {});
    // And the product's own full model, masked.
    FakeExchange full(c.layout, c.Fragments(masked));
    ExpectMatches(c, full, Task(c.Held()), masked, {});
    for (const std::string& name : absent) {
      const UnitId unit = c.Unit(name);
      EXPECT_EQ(slim.Count(FakeExchange::Kind::kTake, unit.value()), 0) << name;
      for (const FragmentId id : c.layout.block(unit))
        EXPECT_EQ(slim.Count(FakeExchange::Kind::kGradient, id.value()), 0) << name;
    }
  }
}

TEST_P(ImageModelTest, Repeated_SameBits) {
  for (const int threads : {1, 2}) {
    const ImageCase c(GetParam().spec, Layout::kMaxFragment, {threads, 0});
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

// BatchNorm's statistics are learnt of all 16 training samples, two by two, with the same factors.
TEST_P(ImageModelTest, Evaluation_MatchesNaiveInAnyChunks) {
  for (const int64_t memory : {0, 100000}) {
    const ImageCase c(GetParam().spec, Layout::kMaxFragment, {1, memory});
    FakeExchange exchange = c.MakeExchange();
    EvaluateTask task;
    task.units = c.Held({}, 0.5);
    task.first_sample = 2;
    task.samples = 9;
    task.micro_batch = 2;
    const absl::StatusOr<LossSum> sum = c.model->Evaluate(task, exchange);
    ASSERT_TRUE(sum.ok()) << sum.status();
    EXPECT_EQ(sum->terms, 9);
    naive::Statistics statistics;
    if (HasBatchNorm(c.spec)) {
      statistics.learning = true;
      for (int64_t sample = 0; sample < ImageCase::kSamples; sample += 2) {
        ++statistics.batches;
        c.ReferenceLogits(c.ReferenceWeights(), {sample, sample + 1}, c.Factors(0.5), 0,
                          &statistics);
      }
      statistics.learning = false;
    }
    const std::vector<int64_t> samples = {2, 3, 4, 5, 6, 7, 8, 9, 10};
    const at::Tensor logits = c.ReferenceLogits(c.ReferenceWeights(), samples, c.Factors(0.5), 0,
                                                HasBatchNorm(c.spec) ? &statistics : nullptr);
    const double expected = naive::MeanLoss(logits, c.data.Labels(samples)).item<double>();
    EXPECT_NEAR(sum->loss_sum / 9, expected, 2e-6 * expected);
    EXPECT_EQ(sum->correct, logits.argmax(1).eq(c.data.Labels(samples)).sum().item<int64_t>());
  }
}

TEST_P(ImageModelTest, LossNotFinite_OutOfRangeAndNoGradients) {
  const ImageCase c(GetParam().spec);
  FakeExchange exchange = c.MakeExchange();
  exchange.value(c.layout.block(c.Unit(c.Masked()[1])).front()).data()[0] = std::nanf("");
  const absl::Status status = c.model->Train(Task(c.Held(), 1), exchange).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << status;
  EXPECT_EQ(exchange.Count(FakeExchange::Kind::kGradient), 0);
}

INSTANTIATE_TEST_SUITE_P(All, ImageModelTest, testing::ValuesIn(ImageCase::All()),
                         [](const auto& info) { return info.param.name; });

TEST(MakeTorchModelTest, DataOfAnotherKind_InvalidArgument) {
  const ImageCase images(ImageCase::Mlp());
  const LlamaCase text;
  const ModelOptions options = {1, 0};
  EXPECT_EQ(MakeTorchModel(images.catalog, images.layout, images.spec, &text.data, nullptr, options)
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeTorchModel(text.catalog, text.layout, text.spec, &images.data, nullptr, options)
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  ImageMlpSpec few = ImageCase::Mlp();
  few.classes = 3;
  const absl::Status status =
      MakeTorchModel(MakeCatalog(few, {}), images.layout, few, &images.data, nullptr, options)
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("7 classes"));
}

}  // namespace
}  // namespace sdp
