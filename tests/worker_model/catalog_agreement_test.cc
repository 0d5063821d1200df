#include <string>
#include <vector>

#include "common/base/allocated.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/count_macs.h"
#include "tests/worker_model/image_case.h"
#include "tests/worker_model/llama_case.h"
#include "worker/model/llama.h"
#include "worker/model/networks.h"

// The catalog is what the planner believes; these tests hold it against what torch really computes
// and keeps.
namespace sdp {
namespace {

// ---- Multiply-accumulates: sizes of the matrix products that torch runs ----

TEST(CatalogAgreementTest, Macs_AreThoseOfTheMatrixProducts) {
  for (const bool tied : {false, true}) {
    LlamaSpec spec = LlamaCase::Spec();
    spec.tied = tied;
    for (const LlamaCase& c :
         {LlamaCase(spec), LlamaCase(spec, LlamaNeuronCatalog(spec, {.groups = 3}, 11), 11)}) {
      FakeExchange exchange = c.MakeExchange();
      EvaluateTask task;
      task.units = c.Held();
      task.samples = 3;
      absl::StatusOr<LossSum> result;
      const int64_t counted = CountMacs([&] { result = c.model->Evaluate(task, exchange); });
      ASSERT_TRUE(result.ok()) << result.status();
      int64_t expected = 0;
      for (const UnitSpec& unit : c.catalog.units) expected += 3 * unit.macs;
      EXPECT_EQ(counted, expected);
    }
  }
}

void ExpectMacs(const ImageCase& c) {
  FakeExchange exchange = c.MakeExchange();
  EvaluateTask task;
  task.units = c.Held();
  task.samples = 3;
  absl::StatusOr<LossSum> result;
  const int64_t counted = CountMacs([&] { result = c.model->Evaluate(task, exchange); });
  ASSERT_TRUE(result.ok()) << result.status();
  // BatchNorm's statistics are learnt of all training samples first.
  const int64_t samples = 3 + (HasBatchNorm(c.spec) ? ImageCase::kSamples : 0);
  int64_t expected = 0;
  for (const UnitSpec& unit : c.catalog.units) expected += samples * unit.macs;
  EXPECT_EQ(counted, expected);
}

// 3 and 4 heads, 5 groups of neurons.
const CatalogOptions kSwinParts = {.neurons = NeuronUnits{.groups = 5}};

TEST(CatalogAgreementTest, ImageModels_Macs) {
  for (const ImageCase::Named& named : ImageCase::All()) {
    SCOPED_TRACE(named.name);
    ExpectMacs(ImageCase(named.spec));
    ExpectMacs(ImageCase(named.spec, Layout::kMaxFragment, {1, 0}, ImageCase::OptionsOf(3)));
  }
  ExpectMacs(ImageCase(ImageCase::Swin(), Layout::kMaxFragment, {1, 0}, kSwinParts));
}

// ---- Stored activations: what torch's allocator holds when the backward pass begins ----

constexpr int64_t kLength = 101;

void ExpectStored(const LlamaCase& c, const std::vector<std::string>& absent) {
  FakeExchange exchange = c.MakeExchange();
  TrainTask task;
  task.units = c.Held(absent);
  task.samples = {0, 1, 2, 3, 4};
  const int64_t before = Allocated().now;
  const absl::StatusOr<TrainResult> result = c.model->Train(task, exchange);
  ASSERT_TRUE(result.ok()) << result.status();
  // Beside them: the weights that the backward pass reads, which embedding's and head's are not;
  // the head's gradients (made with the loss), and the token ids, 8 bytes each.
  int64_t elements = 0, weights = 0;
  for (const HeldUnit& held : task.units) {
    const UnitSpec& unit = c.catalog.unit(held.unit);
    elements += 5 * unit.activation_elements;
    if (unit.name != "embed" && unit.name != "head") weights += unit.params;
  }
  const int64_t head = c.spec.vocab * c.spec.dim + c.spec.dim;
  const int64_t tokens = 5 * kLength * 8;
  const int64_t measured = exchange.bytes_at_backward() - before - 4 * (weights + head) - tokens;
  // 0.1%: a few scalars.
  EXPECT_NEAR(static_cast<double>(measured), 4.0 * static_cast<double>(elements),
              0.004 * static_cast<double>(elements))
      << "measured " << measured / 4 << " elements, catalog " << elements;
}

TEST(CatalogAgreementTest, StoredActivations_AreWhatTheAllocatorHolds) {
  const std::vector<std::vector<std::string>> blocks = {
      {}, {"layers.0.mlp"}, {"layers.0.attention", "layers.1.attention"}};
  const std::vector<std::vector<std::string>> parts = {
      {},
      {"layers.0.mlp.0", "layers.0.mlp.2"},
      {"layers.0.attention.1", "layers.1.attention.0", "layers.1.mlp.1"}};
  for (const bool tied : {false, true}) {
    LlamaSpec spec = LlamaCase::Spec();
    spec.tied = tied;
    for (const bool recompute : {false, true}) {
      CatalogOptions options = {.seq_len = kLength, .recompute = recompute};
      for (const auto& absent : blocks)
        ExpectStored(LlamaCase(spec, MakeCatalog(spec, options), kLength), absent);
      options.neurons = {.groups = 3};
      for (const auto& absent : parts)
        ExpectStored(LlamaCase(spec, MakeCatalog(spec, options), kLength), absent);
    }
  }
}

// The weights of the stages whose backward pass reads them, and the gradients that come with the
// loss.
int64_t WeightsAtBackward(const ImageCase& c, const std::vector<HeldUnit>& held) {
  int64_t elements = 0;
  for (const HeldUnit& unit : held) {
    const UnitSpec& spec = c.catalog.unit(unit.unit);
    const bool spent = spec.name == "stem" && c.catalog.arch == "mlp";
    if (!spent) elements += spec.params;  // Of the head's, gradients or weights.
  }
  const auto* const resnet = std::get_if<ResnetSpec>(&c.spec);
  if (c.catalog.arch == "swin" || (resnet != nullptr && resnet->order == ResnetSpec::Order::kPre)) {
    // Its norm keeps the whole head's weights until the backward pass.
    elements += c.catalog.tensors[c.catalog.tensors.size() - 2].elements() +
                c.catalog.tensors.back().elements();
  }
  return elements;
}

void ExpectStored(const ImageCase& c, const std::vector<std::string>& absent) {
  FakeExchange exchange = c.MakeExchange();
  TrainTask task;
  task.units = c.Held(absent);
  task.samples = {0, 1, 2, 3, 4};
  const int64_t before = Allocated().now;
  const absl::StatusOr<TrainResult> result = c.model->Train(task, exchange);
  ASSERT_TRUE(result.ok()) << result.status();
  int64_t elements = 0;
  for (const HeldUnit& held : task.units) {
    elements += 5 * c.catalog.unit(held.unit).activation_elements;
  }
  const int64_t size = ImageCase::SizeOf(c.spec), batch = 5 * 3 * size * size * 4;
  const int64_t measured =
      exchange.bytes_at_backward() - before - 4 * WeightsAtBackward(c, task.units) - batch;
  // 0.1%: a few scalars; of BatchNorm also the batch's statistics, 1% at this size.
  const double tolerance = HasBatchNorm(c.spec) ? 0.04 : 0.004;
  EXPECT_NEAR(static_cast<double>(measured), 4.0 * static_cast<double>(elements),
              64 + tolerance * static_cast<double>(elements))
      << "without " << absent.size() << ": measured " << measured / 4 << " elements, catalog "
      << elements;
}

class StoredImagesTest : public ::testing::TestWithParam<bool> {};  // recomputed
INSTANTIATE_TEST_SUITE_P(Recomputed, StoredImagesTest, ::testing::Bool());

TEST_P(StoredImagesTest, AreWhatTheAllocatorHolds) {
  const auto of = [](const ModelSpec& spec, CatalogOptions options) {
    options.recompute = GetParam();
    return ImageCase(spec, Layout::kMaxFragment, {1, 0}, options);
  };
  for (const ImageCase::Named& named : ImageCase::All()) {
    SCOPED_TRACE(named.name);
    const ImageCase blocks = of(named.spec, {});
    const std::vector<std::string> all = blocks.Masked();
    for (const std::vector<std::string>& absent :
         {std::vector<std::string>{}, {all[1]}, {all[2]}, {all[0], all[2]}, all}) {
      ExpectStored(blocks, absent);
    }
    const ImageCase parts = of(named.spec, ImageCase::OptionsOf(3));
    const std::vector<std::string> each = parts.Masked();
    for (const std::vector<std::string>& absent :
         {std::vector<std::string>{}, {each[1]}, {each[3], each[5], each[7], each[8]}}) {
      ExpectStored(parts, absent);
    }
  }
  const ImageCase parts = of(ImageCase::Swin(), kSwinParts);
  ExpectStored(parts, {});
  ExpectStored(parts, {"level1.0.attention.0", "level1.0.attention.2", "level2.1.attention.3",
                       "level1.1.mlp.4", "level2.0.mlp.0", "level2.0.mlp.2"});
}

// ---- Names, shapes, boundaries ----

TEST(CatalogAgreementTest, ImageModels_Boundaries) {
  for (const ImageCase::Named& named : ImageCase::All()) {
    const ImageCase c(named.spec);
    const Network network = MakeNetwork(c.spec, 1, at::kCPU);
    ASSERT_EQ(c.catalog.stages.size(), network.stages.size() + 1);
    at::Tensor h = c.data.Images({0, 1, 2});
    for (size_t stage = 0; stage < network.stages.size(); ++stage) {
      std::vector<at::Tensor> weights;
      for (const WeightNames& names : network.stages[stage]->Weights())
        weights.push_back(c.weights.at(names.front()));
      h = network.stages[stage]->Forward(h, weights, 1);
      EXPECT_EQ(h.numel(), 3 * c.catalog.stages[stage].boundary_elements)
          << named.name << " " << c.catalog.stages[stage].name;
    }
  }
}

TEST(CatalogAgreementTest, Stages_NamesShapesAndBoundaries) {
  for (const TransformerUnit unit : {TransformerUnit::kSublayer, TransformerUnit::kLayer}) {
    const LlamaCase c(LlamaCase::Spec(), unit);
    const Network network = LlamaNetwork(c.spec, c.seq_len);
    ASSERT_EQ(c.catalog.stages.size(), network.stages.size() + 1);
    at::Tensor h = c.data.Input({0, 1, 2});
    for (size_t stage = 0; stage < network.stages.size(); ++stage) {
      std::vector<at::Tensor> weights;
      for (const WeightNames& names : network.stages[stage]->Weights()) {
        std::vector<at::Tensor> parts;
        for (const std::string& name : names) parts.push_back(c.weights.at(name));
        weights.push_back(at::cat(parts));
      }
      h = network.stages[stage]->Forward(h, weights, 1);
      EXPECT_EQ(h.numel(), 3 * c.catalog.stages[stage].boundary_elements)
          << c.catalog.stages[stage].name;
    }
    EXPECT_EQ(c.catalog.stages.back().boundary_elements, 0);
  }
}

}  // namespace
}  // namespace sdp
