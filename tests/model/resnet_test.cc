#include "common/model/resnet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/model/image_mlp.h"

namespace sdp {
namespace {

using Order = ResnetSpec::Order;
using Stem = ResnetSpec::Stem;

ResnetSpec Resnet18(Stem stem = Stem::kCifar, Order order = Order::kPost) {
  ResnetSpec spec;
  spec.widths = {64, 128, 256, 512};
  spec.depths = {2, 2, 2, 2};
  spec.stem = stem;
  spec.order = order;
  spec.norm_groups = 32;
  return spec;
}

std::map<std::string, std::vector<int64_t>> Shapes(const Catalog& catalog) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const TensorSpec& tensor : catalog.tensors) shapes[tensor.name] = tensor.shape;
  return shapes;
}

int64_t Macs(const Catalog& catalog) {
  int64_t macs = 0;
  for (const UnitSpec& unit : catalog.units) macs += unit.macs;
  return macs;
}

std::vector<const UnitSpec*> Masked(const Catalog& catalog) {
  std::vector<const UnitSpec*> units;
  for (const UnitSpec& unit : catalog.units) {
    if (!unit.shared) units.push_back(&unit);
  }
  return units;
}

// method.md 7.3: 11.174M parameters, 0.555 GMAC; of the eight blocks 0.7 .. 42.2% of the parameters
// and 10.2 or 13.6% of the MACs, the projections of shortcuts not counted with them.
TEST(ResnetTest, Resnet18_HasThePublishedCountsAndShares) {
  const Catalog catalog = ResnetCatalog(Resnet18());
  EXPECT_EQ(catalog.params(), 11173962);
  EXPECT_NEAR(static_cast<double>(Macs(catalog)), 0.555e9, 0.0005e9);
  const std::vector<double> params = {0.7, 0.7, 2.0, 2.6, 7.9, 10.6, 31.7, 42.2};
  const std::vector<double> macs = {13.6, 13.6, 10.2, 13.6, 10.2, 13.6, 10.2, 13.6};
  const std::vector<const UnitSpec*> blocks = Masked(catalog);
  ASSERT_EQ(blocks.size(), 8u);
  for (size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(blocks[i]->layer, static_cast<int>(i));
    const auto share = [](int64_t part, int64_t all) {
      return 100 * static_cast<double>(part) / static_cast<double>(all);
    };
    EXPECT_NEAR(share(blocks[i]->params, catalog.params()), params[i], 0.051) << blocks[i]->name;
    EXPECT_NEAR(share(blocks[i]->macs, Macs(catalog)), macs[i], 0.051) << blocks[i]->name;
    EXPECT_EQ(blocks[i]->kind, "block");
  }
}

// torchvision's resnet18 on images of 224: 11.69M parameters with 1,000 classes, 1.814 GMAC.
TEST(ResnetTest, ImagenetStem_HasThePublishedCounts) {
  ResnetSpec spec = Resnet18(Stem::kImagenet);
  spec.image_size = 224;
  spec.classes = 1000;
  const Catalog catalog = ResnetCatalog(spec);
  EXPECT_EQ(catalog.params(), 11689512);
  EXPECT_NEAR(static_cast<double>(Macs(catalog)), 1.814e9, 0.0005e9);
  EXPECT_EQ(spec.stem_size(), 56);
  EXPECT_EQ(spec.level_size(3), 7);
}

TEST(ResnetTest, Tensors_AreTorchvisions) {
  const auto shapes = Shapes(ResnetCatalog(Resnet18(Stem::kImagenet)));
  std::map<std::string, std::vector<int64_t>> expected = {{"conv1.weight", {64, 3, 7, 7}},
                                                          {"bn1.weight", {64}},
                                                          {"bn1.bias", {64}},
                                                          {"fc.weight", {10, 512}},
                                                          {"fc.bias", {10}}};
  for (int64_t level = 1, width = 64, input = 64; level <= 4; ++level, width *= 2) {
    for (const int64_t block : {0, 1}) {
      const std::string name = absl::StrCat("layer", level, ".", block, ".");
      expected[name + "conv1.weight"] = {width, input, 3, 3};
      expected[name + "conv2.weight"] = {width, width, 3, 3};
      for (const char* norm : {"bn1", "bn2"}) {
        for (const char* part : {".weight", ".bias"}) expected[name + norm + part] = {width};
      }
      if (input != width) {
        expected[name + "downsample.0.weight"] = {width, input, 1, 1};
        expected[name + "downsample.1.weight"] = {width};
        expected[name + "downsample.1.bias"] = {width};
      }
      input = width;
    }
  }
  EXPECT_EQ(shapes, expected);
}

TEST(ResnetTest, PreActivation_NormsInputsAndHasOneMoreNormAtTheEnd) {
  const Catalog catalog = ResnetCatalog(Resnet18(Stem::kCifar, Order::kPre));
  const auto shapes = Shapes(catalog);
  EXPECT_EQ(shapes.at("layer2.0.bn1.weight"), (std::vector<int64_t>{64}));
  EXPECT_EQ(shapes.at("layer2.0.bn2.weight"), (std::vector<int64_t>{128}));
  EXPECT_EQ(shapes.at("bn.bias"), (std::vector<int64_t>{512}));
  EXPECT_FALSE(shapes.contains("bn1.weight"));
  EXPECT_FALSE(shapes.contains("layer2.0.downsample.1.weight"));
  EXPECT_EQ(Macs(catalog), Macs(ResnetCatalog(Resnet18())));
}

TEST(ResnetTest, Stages_HaveTheirUnitsAndShortcuts) {
  for (const Order order : {Order::kPost, Order::kPre}) {
    const Catalog catalog = ResnetCatalog(Resnet18(Stem::kCifar, order));
    ASSERT_EQ(catalog.stages.size(), 10u);
    std::set<int> read;
    for (const StageSpec& stage : catalog.stages) {
      const bool projected =
          absl::StartsWith(stage.name, "layer") && stage.name[5] != '1' && stage.name[7] == '0';
      EXPECT_EQ(stage.has_shortcut, projected) << stage.name;
      ASSERT_EQ(stage.units.size(), projected ? 2u : 1u) << stage.name;
      EXPECT_EQ(catalog.unit(stage.units.back()).name, stage.name);
      if (projected) {
        EXPECT_EQ(catalog.unit(stage.units[0]).name, stage.name + ".downsample");
        EXPECT_TRUE(catalog.unit(stage.units[0]).shared);
      }
      for (const UnitId unit : stage.units) read.insert(unit.value());
    }
    EXPECT_EQ(read.size(), catalog.units.size());
    EXPECT_EQ(catalog.stages[3].boundary_elements, 128 * 16 * 16);
    EXPECT_EQ(catalog.stages.back().boundary_elements, 0);
  }
}

// A branch's factor can be folded into what it ends with: post the last norm, pre the last
// convolution.
TEST(ResnetTest, BranchesEndWhereAFactorCanBeFoldedIn) {
  for (const Order order : {Order::kPost, Order::kPre}) {
    for (const TensorSpec& tensor : ResnetCatalog(Resnet18(Stem::kCifar, order)).tensors) {
      const bool ends = absl::StartsWith(tensor.name, "layer") &&
                        (order == Order::kPost ? absl::StrContains(tensor.name, ".bn2.")
                                               : absl::StrContains(tensor.name, ".conv2."));
      EXPECT_EQ(tensor.ends_branch, ends) << tensor.name;
      EXPECT_EQ(tensor.decay, tensor.shape.size() > 1) << tensor.name;
    }
  }
}

// ---- Neuron granularity ----

// The same tensors, stages and costs, cut otherwise; each element of a tensor in one unit.
void ExpectSameModel(const Catalog& parts, const Catalog& blocks) {
  EXPECT_EQ(parts.params(), blocks.params());
  EXPECT_EQ(Macs(parts), Macs(blocks));
  EXPECT_EQ(Shapes(parts), Shapes(blocks));
  int64_t stored = 0, expected = 0;
  for (const UnitSpec& unit : parts.units) stored += unit.activation_elements;
  for (const UnitSpec& unit : blocks.units) expected += unit.activation_elements;
  EXPECT_EQ(stored, expected);
  std::vector<std::vector<int>> holders;  // [tensors][indices of the dimension that is cut]
  for (const TensorSpec& tensor : parts.tensors) holders.emplace_back(tensor.shape[0]);
  for (const UnitSpec& unit : parts.units) {
    int64_t params = 0;
    for (const Slice& slice : unit.slices) {
      std::vector<int>& count = holders[static_cast<size_t>(slice.tensor)];
      const auto& shape = parts.tensors[static_cast<size_t>(slice.tensor)].shape;
      if (!slice.whole()) count.resize(static_cast<size_t>(shape[static_cast<size_t>(slice.dim)]));
      const int64_t end = slice.whole() ? shape[0] : slice.end;
      for (int64_t i = slice.whole() ? 0 : slice.begin; i < end; ++i)
        ++count[static_cast<size_t>(i)];
      params += parts.elements(slice);
    }
    EXPECT_EQ(unit.params, params) << unit.name;
  }
  for (size_t tensor = 0; tensor < holders.size(); ++tensor)
    EXPECT_THAT(holders[tensor], testing::Each(1)) << parts.tensors[tensor].name;
  ASSERT_EQ(parts.stages.size(), blocks.stages.size());
  for (size_t stage = 0; stage < parts.stages.size(); ++stage) {
    EXPECT_EQ(parts.stages[stage].name, blocks.stages[stage].name);
    EXPECT_EQ(parts.stages[stage].boundary_elements, blocks.stages[stage].boundary_elements);
    EXPECT_EQ(parts.stages[stage].has_shortcut, blocks.stages[stage].has_shortcut);
  }
}

// 7.4 of the method: of n inner channels 9 (b + c) n + 2 n parameters, the other norm for
// everybody.
TEST(ResnetTest, Neurons_AreInnerChannelsInWholeNormGroups) {
  for (const Order order : {Order::kPost, Order::kPre}) {
    ResnetSpec spec = Resnet18(Stem::kCifar, order);
    const Catalog catalog = ResnetNeuronCatalog(spec, {.groups = 5});
    ExpectSameModel(catalog, ResnetCatalog(spec));
    const StageSpec& stage = catalog.stages[3];  // layer2.0: from 64 to 128 channels
    ASSERT_EQ(stage.units.size(), 7u);
    EXPECT_EQ(catalog.unit(stage.units[0]).name, "layer2.0.downsample");
    EXPECT_EQ(stage.shared_end, order == Order::kPost);
    // Of 32 norm groups of 4 channels: 6, 6, 7, 6, 7.
    const int64_t channels[] = {24, 24, 28, 24, 28};
    for (size_t i = 0; i < 5; ++i) {
      const UnitSpec& unit = catalog.unit(stage.units[1 + i]);
      EXPECT_EQ(unit.name, absl::StrCat("layer2.0.", i));
      EXPECT_EQ(unit.kind, "block");
      EXPECT_EQ(unit.layer, 2);
      EXPECT_EQ(unit.params, channels[i] * (9 * (64 + 128) + 2));
      EXPECT_EQ(unit.macs, channels[i] * 9 * (64 + 128) * 256);
      EXPECT_EQ(unit.activation_elements, channels[i] * 256);
    }
    const UnitSpec& norm = catalog.unit(stage.units.back());
    EXPECT_EQ(norm.name, "layer2.0.norm");
    EXPECT_TRUE(norm.shared);
    EXPECT_EQ(norm.params, 2 * (order == Order::kPost ? 128 : 64));
    EXPECT_EQ(norm.macs, 0);
    for (const TensorSpec& tensor : catalog.tensors)
      EXPECT_EQ(tensor.ends_branch, absl::StrContains(tensor.name, ".conv2.")) << tensor.name;
    spec.norm_groups = 0;  // 64 channels in 5 parts
    const Catalog batch = ResnetNeuronCatalog(spec, {.groups = 5});
    ExpectSameModel(batch, ResnetCatalog(spec));
    EXPECT_EQ(batch.unit(batch.stages[1].units[1]).params, 13 * (9 * (64 + 64) + 2));
  }
}

TEST(ResnetTest, Neurons_MorePartsThanNormGroupsOrChannels_InvalidArgument) {
  ResnetSpec spec = Resnet18();
  EXPECT_TRUE(CheckParts(spec, {.groups = 32}).ok());
  for (const int64_t groups : {0, 33}) {
    const absl::Status status = CheckParts(spec, {.groups = groups});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(),
              absl::StrCat("sdp.groups = ", groups, ": must be in [1, model.norm_groups = 32]"));
  }
  spec.norm_groups = 0;
  EXPECT_TRUE(CheckParts(spec, {.groups = 64}).ok());
  EXPECT_THAT(CheckParts(spec, {.groups = 65}).message(),
              testing::HasSubstr("the least of model.widths, 64]"));
}

TEST(ImageMlpTest, Neurons_AreHiddenOnesAndTheLastBiasIsShared) {
  const ImageMlpSpec spec = {.dim = 16, .layers = 3, .ffn_dim = 20, .inputs = 3072, .classes = 10};
  const Catalog catalog = ImageMlpNeuronCatalog(spec, {.groups = 3});
  ExpectSameModel(catalog, ImageMlpCatalog(spec));
  const StageSpec& stage = catalog.stages[2];
  EXPECT_TRUE(stage.shared_end);
  const int64_t neurons[] = {6, 7, 7};
  ASSERT_EQ(stage.units.size(), 4u);
  for (size_t i = 0; i < 3; ++i) {
    const UnitSpec& unit = catalog.unit(stage.units[i]);
    EXPECT_EQ(unit.name, absl::StrCat("layers.1.", i));
    EXPECT_EQ(unit.params, neurons[i] * (16 + 1 + 16));
    EXPECT_EQ(unit.macs, neurons[i] * 2 * 16);
    EXPECT_EQ(unit.layer, 1);
  }
  EXPECT_EQ(catalog.unit(stage.units[3]).name, "layers.1.bias");
  EXPECT_TRUE(catalog.unit(stage.units[3]).shared);
  EXPECT_EQ(CheckParts(spec, {.groups = 21}).message(),
            "sdp.groups = 21: must be in [1, model.ffn_dim = 20]");
}

TEST(ImageMlpTest, CountsUnitsAndEnds) {
  const Catalog catalog =
      ImageMlpCatalog({.dim = 16, .layers = 3, .ffn_dim = 20, .inputs = 3072, .classes = 10});
  EXPECT_EQ(catalog.params(), 3073 * 16 + 3 * (16 * 20 + 20 + 20 * 16 + 16) + 17 * 10);
  EXPECT_EQ(Macs(catalog), 3072 * 16 + 3 * 2 * 16 * 20 + 160);
  ASSERT_EQ(Masked(catalog).size(), 3u);
  EXPECT_EQ(Masked(catalog)[2]->layer, 2);
  EXPECT_EQ(std::count_if(catalog.tensors.begin(), catalog.tensors.end(),
                          [](const TensorSpec& tensor) { return tensor.ends_branch; }),
            6);
}

}  // namespace
}  // namespace sdp
