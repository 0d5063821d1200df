#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/image_parts.h"

// Neuron granularity of image models: a slim subnetwork of inner channels, or of neurons, against
// the naive full model in f64 in which the columns of absent units are zero and those of held ones
// are scaled. Tolerance as in image_model_test.cc.
namespace sdp {
namespace {

// Of 4 norm groups 1, 1 and 2; of 8 and 12 channels 2, 3, 3 and 4, 4, 4; of 10 neurons 3, 3, 4.
constexpr int64_t kGroups = 3;
const std::vector<int64_t> kSamples = {3, 0, 7, 12, 9};

TrainTask Task(std::vector<HeldUnit> units, int64_t micro_batch = 0) {
  return TaskOf(std::move(units), kSamples, micro_batch);
}

class ImageNeuronTest : public testing::TestWithParam<ImageCase::Named> {
 protected:
  static ImageCase Make(int64_t max_fragment = Layout::kMaxFragment, int64_t groups = kGroups) {
    return ImageCase(GetParam().spec, max_fragment, {1, 0}, ImageCase::OptionsOf(groups));
  }
  static bool BatchNorm() { return HasBatchNorm(GetParam().spec); }
};

TEST_P(ImageNeuronTest, SlimSubnetwork_EqualsZeroMaskedFullModel) {
  const ImageCase c = Make();
  for (unsigned seed = 0; seed < 6; ++seed) {
    SCOPED_TRACE(seed);
    ExpectMatches(c, Task(RandomUnits(c, seed, {1}), seed % 2 == 0 || BatchNorm() ? 0 : 2));
  }
}

TEST_P(ImageNeuronTest, FactorsAndTinyFragments_EqualZeroMaskedFullModel) {
  for (const int64_t max_fragment : {1, 7, 50}) {
    SCOPED_TRACE(max_fragment);
    const ImageCase c = Make(max_fragment);
    ExpectMatches(c, Task(RandomUnits(c, 1, {0.7}), 0));
    ExpectMatches(c, Task(RandomUnits(c, 2, {1.2, 0.8, 0.5}), BatchNorm() ? 0 : 3));
  }
}

// A part each of two groups, of one, of one alone.
TEST_P(ImageNeuronTest, EveryNumberOfParts_EqualsZeroMaskedFullModel) {
  for (const int64_t groups : {1, 2, 4}) {
    const ImageCase c = Make(Layout::kMaxFragment, groups);
    ExpectMatches(c, Task(c.Held(), 0));
    ExpectMatches(c, Task(c.Held({c.Masked().front(), c.Masked().back()}), 0));
  }
}

// What is left of a branch: a bias, what its last norm makes of zeros, or nothing.
TEST_P(ImageNeuronTest, NoPartOfABranch_EqualsZeroMaskedFullModel) {
  const ImageCase c = Make();
  const std::vector<std::string> all = c.Masked();
  for (size_t branch = 0; branch * kGroups < all.size(); ++branch) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(branch * kGroups);
    ExpectMatches(c, Task(c.Held({begin, begin + kGroups}), BatchNorm() ? 0 : 2));
  }
  // Of biases alone before a BatchNorm the gradients are 0: there is but rounding to compare.
  if (!BatchNorm()) ExpectMatches(c, Task(c.Held(all), 0));
}

// All units at factor 1 are the same tensors whatever they are cut into: the same bits.
TEST_P(ImageNeuronTest, AllUnits_HaveTheBitsOfBlocks) {
  const ImageCase blocks(GetParam().spec), parts = Make();
  FakeExchange a = blocks.MakeExchange(), b = parts.MakeExchange();
  const int64_t micro_batch = BatchNorm() ? 0 : 3;
  const auto x = blocks.model->Train(Task(blocks.Held(), micro_batch), a);
  const auto y = parts.model->Train(Task(parts.Held(), micro_batch), b);
  ASSERT_TRUE(x.ok() && y.ok());
  EXPECT_EQ(x->loss.loss_sum, y->loss.loss_sum);
  const naive::Weights expected = GradientsByTensor(blocks, a);
  for (const auto& [name, gradient] : GradientsByTensor(parts, b))
    EXPECT_TRUE(at::equal(gradient, expected.at(name))) << name;
}

TEST_P(ImageNeuronTest, Evaluation_IsTheFullModelWithEachUnitsFactor) {
  const ImageCase c = Make();
  for (const std::vector<double>& factors : {std::vector<double>{0.5}, {0.5, 0.75, 1}}) {
    EvaluateTask task;
    task.units = c.Held();
    for (size_t i = 0; i < task.units.size(); ++i) {
      if (!c.catalog.unit(task.units[i].unit).shared)
        task.units[i].factor = factors[i % factors.size()];
    }
    task.samples = 9;
    task.micro_batch = 4;
    const naive::Weights weights = Masked(c, task.units, c.ReferenceWeights());
    naive::Statistics statistics;
    if (BatchNorm()) {  // learnt of all training samples, as many at once
      statistics.learning = true;
      for (int64_t sample = 0; sample < ImageCase::kSamples; sample += 4) {
        ++statistics.batches;
        c.ReferenceLogits(weights, {sample, sample + 1, sample + 2, sample + 3}, {}, 0,
                          &statistics);
      }
      statistics.learning = false;
    }
    const std::vector<int64_t> samples = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    const at::Tensor logits =
        c.ReferenceLogits(weights, samples, {}, 0, BatchNorm() ? &statistics : nullptr);
    const double mean = naive::MeanLoss(logits, c.data.Labels(samples)).item<double>();
    FakeExchange exchange = c.MakeExchange();
    const absl::StatusOr<LossSum> result = c.model->Evaluate(task, exchange);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_NEAR(result->loss_sum / static_cast<double>(result->terms), mean, 2e-6 * mean);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ImageNeuronTest, testing::ValuesIn(ImageCase::CutIntoGroups()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace sdp
