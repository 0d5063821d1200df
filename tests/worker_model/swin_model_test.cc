#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/image_parts.h"
#include "worker/model/networks.h"
#include "worker/model/weight_map.h"

// Swin in other units than image_model_test.cc has it: whole blocks, and heads and neurons. The
// reference is the naive full model in f64, in which the columns of absent units are zero and those
// of held ones are scaled. Tolerance as there.
namespace sdp {
namespace {

const std::vector<int64_t> kSamples = {3, 0, 7, 12};

// Levels of 3 and 4 heads; MLPs of 24 and 48 neurons in parts of 4 or 5, and of 9 or 10.
ImageCase Neurons(int64_t max_fragment = Layout::kMaxFragment,
                  NeuronUnits::Attention attention = NeuronUnits::Attention::kSplit) {
  return ImageCase(ImageCase::Swin(), max_fragment, {1, 0},
                   {.neurons = NeuronUnits{.attention = attention, .groups = 5}});
}

TrainTask Task(std::vector<HeldUnit> units, int64_t micro_batch = 0) {
  return TaskOf(std::move(units), kSamples, micro_batch);
}

void ExpectRandomUnitsMatch(const ImageCase& c, const std::vector<double>& factors,
                            int64_t micro_batch) {
  for (unsigned seed = 0; seed < 6; ++seed) {
    SCOPED_TRACE(seed);
    ExpectMatches(c, Task(RandomUnits(c, seed, factors), micro_batch));
  }
}

TEST(SwinModelTest, WholeBlocks_SlimEqualsMasked) {
  const ImageCase c(ImageCase::Swin(), Layout::kMaxFragment, {1, 0},
                    {.unit = TransformerUnit::kLayer});
  ExpectRandomUnitsMatch(c, {1}, 0);
  ExpectRandomUnitsMatch(c, {0.7}, 3);
}

TEST(SwinModelTest, HeadsAndNeurons_SlimEqualsMasked) {
  const ImageCase c = Neurons();
  ExpectRandomUnitsMatch(c, {1}, 0);
  ExpectRandomUnitsMatch(c, {0.7}, 1);
  ExpectRandomUnitsMatch(c, {1.2, 0.8, 0.5}, 3);
}

TEST(SwinModelTest, TinyFragments_SlimEqualsMasked) {
  // Borders inside of rows, between ranges of rows, between rows of columns.
  for (const int64_t max_fragment : {3, 50})
    ExpectRandomUnitsMatch(Neurons(max_fragment), {1.2, 0.8}, 0);
}

TEST(SwinModelTest, SharedAttention_SlimEqualsMasked) {
  ExpectRandomUnitsMatch(Neurons(1000, NeuronUnits::Attention::kShared), {0.7, 1.1}, 0);
}

// The bias is left, which has a gradient; the norm has none.
TEST(SwinModelTest, NoPartOfAStage_IsItsBias) {
  const ImageCase c = Neurons();
  const std::vector<std::string> absent = {
      "level1.1.attention.0", "level1.1.attention.1", "level1.1.attention.2", "level2.0.mlp.0",
      "level2.0.mlp.1",       "level2.0.mlp.2",       "level2.0.mlp.3",       "level2.0.mlp.4"};
  for (const int64_t micro_batch : {0, 1}) ExpectMatches(c, Task(c.Held(absent, 0.7), micro_batch));
  FakeExchange exchange = c.MakeExchange();
  ASSERT_TRUE(c.model->Train(Task(c.Held(absent)), exchange).ok());
  const at::Tensor shared = c.BlockGradient(exchange, c.Unit("level1.1.attention.shared"));
  EXPECT_EQ(shared.narrow(0, 0, 24).abs().max().item<float>(), 0);  // weight and bias of the norm
  EXPECT_GT(shared.narrow(0, 24, 12).abs().min().item<float>(), 0);
}

// Of the same bits only where nothing is folded: heads' rows stand in the order of the tensors.
TEST(SwinModelTest, AllUnits_HaveTheBitsOfBlocks) {
  const ImageCase blocks(ImageCase::Swin()), parts = Neurons();
  FakeExchange a = blocks.MakeExchange(), b = parts.MakeExchange();
  const auto x = blocks.model->Train(Task(blocks.Held(), 3), a);
  const auto y = parts.model->Train(Task(parts.Held(), 3), b);
  ASSERT_TRUE(x.ok() && y.ok());
  EXPECT_EQ(x->loss.loss_sum, y->loss.loss_sum);
}

TEST(SwinModelTest, Evaluation_IsTheFullModelWithEachUnitsFactor) {
  const ImageCase c = Neurons();
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
        c.ReferenceLoss(Masked(c, task.units, c.ReferenceWeights()), samples, {}).item<double>();
    FakeExchange exchange = c.MakeExchange();
    const absl::StatusOr<LossSum> result = c.model->Evaluate(task, exchange);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_NEAR(result->loss_sum / static_cast<double>(result->terms), mean, 2e-6 * mean);
  }
}

// Ranges of one tensor in the wrong order, or one too few.
TEST(SwinModelTest, RangesThatDoNotMakeUpTheirTensor_InvalidArgument) {
  const Catalog good = Neurons().catalog;
  const Network network = MakeNetwork(ImageCase::Swin(), 1, at::kCPU);
  EXPECT_TRUE(WeightMap::Make(good, network).ok());
  const auto head = [](Catalog& catalog, const std::string& name) -> std::vector<Slice>& {
    return std::find_if(catalog.units.begin(), catalog.units.end(),
                        [&](const UnitSpec& unit) { return unit.name == name; })
        ->slices;
  };
  Catalog swapped = good;
  std::swap(head(swapped, "level1.0.attention.1")[1], head(swapped, "level1.0.attention.1")[2]);
  Catalog missing = good;
  std::vector<Slice>& slices = head(missing, "level1.0.attention.2");
  slices.erase(slices.begin() + 3);
  for (const Catalog& catalog : {swapped, missing}) {
    const absl::Status status = WeightMap::Make(catalog, network).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), ::testing::HasSubstr("qkv.weight do not make it up"));
  }
}

}  // namespace
}  // namespace sdp
