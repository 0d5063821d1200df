#include "common/model/swin.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/plan/vision_costs.h"

namespace sdp {
namespace {

SwinSpec SwinT() {
  SwinSpec spec;
  spec.dim = 96;
  spec.depths = {2, 2, 6, 2};
  spec.heads = {3, 6, 12, 24};
  spec.window = 7;
  spec.patch = 4;
  return spec;
}

template <typename Get>
int64_t Sum(const Catalog& catalog, const Get& get) {
  int64_t sum = 0;
  for (const UnitSpec& unit : catalog.units) sum += get(unit);
  return sum;
}
int64_t Macs(const Catalog& catalog) {
  return Sum(catalog, [](const UnitSpec& unit) { return unit.macs; });
}

const UnitSpec& Unit(const Catalog& catalog, const std::string& name) {
  return *std::find_if(catalog.units.begin(), catalog.units.end(),
                       [&](const UnitSpec& unit) { return unit.name == name; });
}

std::map<std::string, std::vector<int64_t>> Shapes(const Catalog& catalog) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const TensorSpec& tensor : catalog.tensors) shapes[tensor.name] = tensor.shape;
  return shapes;
}

// method.md 7.3: 28.288M parameters and 4.49 GMAC.
TEST(SwinTest, SwinT_HasThePublishedCounts) {
  const Catalog catalog = SwinCatalog(SwinT(), TransformerUnit::kSublayer);
  EXPECT_EQ(catalog.params(), 28288354);
  EXPECT_NEAR(static_cast<double>(Macs(catalog)), 4.49e9, .005e9);
}

// Unit by unit what the formulas of the method's description give.
TEST(SwinTest, SwinT_CostsAreThoseOfTheFormulas) {
  const Catalog catalog = SwinCatalog(SwinT(), TransformerUnit::kSublayer);
  const Catalog expected = testing::SwinTCosts();
  ASSERT_EQ(catalog.units.size(), expected.units.size());
  for (size_t i = 0; i < catalog.units.size(); ++i) {
    const UnitSpec &unit = catalog.units[i], &want = expected.units[i];
    EXPECT_EQ(unit.params, want.params) << unit.name;
    EXPECT_EQ(unit.macs, want.macs) << unit.name;
    EXPECT_EQ(unit.kind, want.kind) << unit.name;
    EXPECT_EQ(unit.layer, want.layer) << unit.name;
    EXPECT_EQ(unit.shared, want.shared) << unit.name;
  }
}

TEST(SwinTest, Tensors_AreTorchvisions) {
  std::map<std::string, std::vector<int64_t>> expected = {{"features.0.0.weight", {96, 3, 4, 4}},
                                                          {"features.0.0.bias", {96}},
                                                          {"features.0.2.weight", {96}},
                                                          {"features.0.2.bias", {96}},
                                                          {"norm.weight", {768}},
                                                          {"norm.bias", {768}},
                                                          {"head.weight", {1000, 768}},
                                                          {"head.bias", {1000}}};
  int64_t width = 96, heads = 3;
  int part = 1;
  for (const int blocks : {2, 2, 6, 2}) {
    for (int block = 0; block < blocks; ++block) {
      const std::string name = absl::StrCat("features.", part, ".", block, ".");
      for (const char* const norm : {"norm1", "norm2"}) {
        for (const char* const tensor : {".weight", ".bias"})
          expected[name + norm + tensor] = {width};
      }
      expected[name + "attn.relative_position_bias_table"] = {169, heads};
      expected[name + "attn.qkv.weight"] = {3 * width, width};
      expected[name + "attn.qkv.bias"] = {3 * width};
      expected[name + "attn.proj.weight"] = {width, width};
      expected[name + "attn.proj.bias"] = {width};
      expected[name + "mlp.0.weight"] = {4 * width, width};
      expected[name + "mlp.0.bias"] = {4 * width};
      expected[name + "mlp.3.weight"] = {width, 4 * width};
      expected[name + "mlp.3.bias"] = {width};
    }
    if (part < 7) {
      const std::string merge = absl::StrCat("features.", part + 1, ".");
      expected[merge + "reduction.weight"] = {2 * width, 4 * width};
      expected[merge + "norm.weight"] = {4 * width};
      expected[merge + "norm.bias"] = {4 * width};
    }
    part += 2;
    width *= 2;
    heads *= 2;
  }
  EXPECT_EQ(Shapes(SwinCatalog(SwinT(), TransformerUnit::kSublayer)), expected);
  EXPECT_EQ(Shapes(SwinCatalog(SwinT(), TransformerUnit::kLayer)), expected);
  EXPECT_EQ(Shapes(SwinNeuronCatalog(SwinT(), {.groups = 24})), expected);
}

TEST(SwinTest, Stages_AndTheirBoundaries) {
  const Catalog catalog = SwinCatalog(SwinT(), TransformerUnit::kSublayer);
  ASSERT_EQ(catalog.stages.size(), 1u + 2 * 12 + 3 + 1);
  for (const StageSpec& stage : catalog.stages) {
    ASSERT_EQ(stage.units.size(), 1u);
    EXPECT_EQ(catalog.unit(stage.units[0]).name, stage.name);
    EXPECT_FALSE(stage.stands_alone());
  }
  EXPECT_EQ(catalog.stages[0].name, "embed");
  EXPECT_EQ(catalog.stages[0].boundary_elements, 56 * 56 * 96);
  EXPECT_EQ(catalog.stages[3].name, "level1.1.attention");
  EXPECT_EQ(catalog.stages[5].name, "merge1");
  EXPECT_EQ(catalog.stages[5].boundary_elements, 28 * 28 * 192);
  EXPECT_EQ(catalog.stages[6].name, "level2.0.attention");
  EXPECT_EQ(catalog.stages.back().boundary_elements, 0);
  const Catalog layers = SwinCatalog(SwinT(), TransformerUnit::kLayer);
  ASSERT_EQ(layers.stages.size(), catalog.stages.size());
  EXPECT_EQ(layers.units.size(), 1u + 12 + 3 + 1);
  EXPECT_EQ(layers.stages[1].units, layers.stages[2].units);
  EXPECT_EQ(layers.unit(layers.stages[1].units[0]).name, "level1.0");
  EXPECT_EQ(Macs(layers), Macs(catalog));
}

// Where one window is all, there is nothing to shift it over.
TEST(SwinTest, Windows_AreShiftedInEverySecondBlockButOfTheLastLevel) {
  const SwinSpec spec = SwinT();
  for (size_t level = 0; level < 3; ++level) {
    EXPECT_EQ(spec.shift(level, 0), 0);
    EXPECT_EQ(spec.shift(level, 1), 3);
  }
  EXPECT_EQ(spec.size(3), 7);
  EXPECT_EQ(spec.shift(3, 1), 0);
}

// A branch's factor is folded into its last map; into the bias too, where that is the unit's.
TEST(SwinTest, BranchesEndWhereAFactorCanBeFoldedIn) {
  const auto ends = [](const Catalog& catalog) {
    std::set<std::string> names;
    for (const TensorSpec& tensor : catalog.tensors) {
      if (tensor.ends_branch && absl::StartsWith(tensor.name, "features.3.1."))
        names.insert(tensor.name.substr(13));
    }
    return names;
  };
  EXPECT_EQ(
      ends(SwinCatalog(SwinT(), TransformerUnit::kSublayer)),
      (std::set<std::string>{"attn.proj.weight", "attn.proj.bias", "mlp.3.weight", "mlp.3.bias"}));
  EXPECT_EQ(ends(SwinNeuronCatalog(SwinT(), {.groups = 24})),
            (std::set<std::string>{"attn.proj.weight", "mlp.3.weight"}));
  EXPECT_EQ(ends(SwinNeuronCatalog(SwinT(),
                                   {.attention = NeuronUnits::Attention::kShared, .groups = 24})),
            (std::set<std::string>{"attn.proj.weight", "attn.proj.bias", "mlp.3.weight"}));
}

TEST(SwinTest, NormsBiasesAndTables_DoNotDecay) {
  for (const TensorSpec& tensor : SwinCatalog(SwinT(), TransformerUnit::kSublayer).tensors) {
    const bool matrix = tensor.shape.size() > 1 && !absl::EndsWith(tensor.name, "_table");
    EXPECT_EQ(tensor.decay, matrix) << tensor.name;
  }
}

// ---- Neurons ----

TEST(SwinTest, Head_HasItsPartOfEachTensor) {
  const Catalog catalog = SwinNeuronCatalog(SwinT(), {.groups = 24});
  const UnitSpec& head = Unit(catalog, "level2.0.attention.4");  // of 6 heads of 32
  EXPECT_EQ(head.kind, "attention");
  EXPECT_EQ(head.layer, 2);
  std::vector<std::string> slices;
  for (const Slice& slice : head.slices) {
    slices.push_back(
        absl::StrCat(catalog.tensors[static_cast<size_t>(slice.tensor)].name.substr(18), " ",
                     slice.dim, " ", slice.begin, "-", slice.end));
  }
  EXPECT_EQ(slices, (std::vector<std::string>{
                        "relative_position_bias_table 1 4-5", "qkv.weight 0 128-160",
                        "qkv.weight 0 320-352", "qkv.weight 0 512-544", "qkv.bias 0 128-160",
                        "qkv.bias 0 320-352", "qkv.bias 0 512-544", "proj.weight 1 128-160"}));
}

TEST(SwinTest, Neurons_AddUpToTheBlocks) {
  // 7 does not divide the 384 hidden neurons: parts of 54 and 55.
  for (const int64_t groups : {1, 7, 24}) {
    const Catalog blocks = SwinCatalog(SwinT(), TransformerUnit::kSublayer);
    const Catalog parts = SwinNeuronCatalog(SwinT(), {.groups = groups});
    ASSERT_EQ(parts.stages.size(), blocks.stages.size());
    for (size_t i = 0; i < parts.stages.size(); ++i) {
      const StageSpec& stage = parts.stages[i];
      const UnitSpec& whole = blocks.unit(blocks.stages[i].units[0]);
      EXPECT_EQ(stage.name, blocks.stages[i].name);
      EXPECT_EQ(stage.boundary_elements, blocks.stages[i].boundary_elements);
      EXPECT_EQ(stage.shared_end, stage.units.size() > 1) << stage.name;
      int64_t params = 0, macs = 0, activations = 0;
      for (const UnitId id : stage.units) {
        const UnitSpec& unit = parts.unit(id);
        params += unit.params;
        macs += unit.macs;
        activations += unit.activation_elements;
        EXPECT_EQ(unit.shared, id == stage.units.front()) << unit.name;
      }
      EXPECT_EQ(params, whole.params) << stage.name;
      EXPECT_EQ(macs, whole.macs) << stage.name;
      EXPECT_EQ(activations, whole.activation_elements) << stage.name;
    }
  }
}

TEST(SwinTest, SharedAttention_IsWhole) {
  const Catalog catalog =
      SwinNeuronCatalog(SwinT(), {.attention = NeuronUnits::Attention::kShared, .groups = 24});
  EXPECT_TRUE(Unit(catalog, "level3.5.attention").shared);
  EXPECT_FALSE(Unit(catalog, "level3.5.mlp.23").shared);
  EXPECT_EQ(catalog.params(), 28288354);
}

}  // namespace
}  // namespace sdp
