#include "common/model/llama.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sdp {
namespace {

constexpr TransformerUnit kBoth[] = {TransformerUnit::kSublayer, TransformerUnit::kLayer};

LlamaSpec Llama134m() {
  return {.dim = 768, .layers = 12, .heads = 12, .kv_heads = 12, .ffn_dim = 2048, .vocab = 32000};
}

LlamaSpec SmallGqa() {
  return {.dim = 24, .layers = 3, .heads = 6, .kv_heads = 2, .ffn_dim = 40, .vocab = 50};
}

std::map<std::string, std::vector<int64_t>> Shapes(const Catalog& catalog) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const TensorSpec& tensor : catalog.tensors) shapes[tensor.name] = tensor.shape;
  return shapes;
}

// method.md 7.3: half of the sub-layers of each kind plus what is shared.
TEST(LlamaTest, Llama134m_HasThePublishedCountAndShares) {
  const Catalog catalog = LlamaCatalog(Llama134m(), TransformerUnit::kSublayer, 1024);
  EXPECT_EQ(catalog.params(), 134105856);
  double params = 0, macs = 0, held_params = 0, held_macs = 0;
  for (const UnitSpec& unit : catalog.units) {
    const double share = unit.shared ? 1 : 0.5;
    params += static_cast<double>(unit.params);
    macs += static_cast<double>(unit.macs);
    held_params += share * static_cast<double>(unit.params);
    held_macs += share * static_cast<double>(unit.macs);
  }
  EXPECT_NEAR(held_params / params, 0.683, 0.0005);
  EXPECT_NEAR(held_macs / macs, 0.603, 0.0005);
}

// method.md 7.4, per layer: 4h^2 + 3hf + 2h parameters, 4h^2 + 3hf + Lh MACs per token. Of its
// 8h + 4f stored numbers the normed inputs (2h) and silu(gate) and its product with up (2f) are
// made anew, which leaves 6h + 2f; 1 / rms (twice) and logsumexp per head come on top.
TEST(LlamaTest, LayerCosts_AreMethodsFormulas) {
  const int64_t h = 768, f = 2048, length = 512;
  for (const TransformerUnit granularity : kBoth) {
    const Catalog catalog = LlamaCatalog(Llama134m(), granularity, length);
    int64_t params = 0, macs = 0, activations = 0;
    for (const UnitSpec& unit : catalog.units) {
      if (!absl::StartsWith(unit.name, "layers.7")) continue;
      params += unit.params;
      macs += unit.macs;
      activations += unit.activation_elements;
    }
    EXPECT_EQ(params, 4 * h * h + 3 * h * f + 2 * h);
    EXPECT_EQ(macs, length * (4 * h * h + 3 * h * f + length * h));
    EXPECT_EQ(activations, length * (6 * h + 2 * f + 2 + 12));
  }
}

TEST(LlamaTest, Layers_AreCountedFromTheInput) {
  for (const TransformerUnit granularity : kBoth) {
    const Catalog catalog = LlamaCatalog(SmallGqa(), granularity, 5);
    const int units = granularity == TransformerUnit::kSublayer ? 2 : 1;
    int next = 0;
    for (const UnitSpec& unit : catalog.units) {
      EXPECT_EQ(unit.layer, unit.shared ? -1 : next++ / units) << unit.name;
    }
    EXPECT_EQ(next, 3 * units);
  }
}

TEST(LlamaTest, Gqa_ShrinksKeysAndValues) {
  const Catalog catalog = LlamaCatalog(SmallGqa(), TransformerUnit::kSublayer, 5);
  const auto shapes = Shapes(catalog);
  EXPECT_EQ(shapes.at("model.layers.1.self_attn.q_proj.weight"), (std::vector<int64_t>{24, 24}));
  EXPECT_EQ(shapes.at("model.layers.1.self_attn.k_proj.weight"), (std::vector<int64_t>{8, 24}));
  EXPECT_EQ(shapes.at("model.layers.1.self_attn.v_proj.weight"), (std::vector<int64_t>{8, 24}));
  const UnitSpec& attention = catalog.units[3];
  ASSERT_EQ(attention.name, "layers.1.attention");
  EXPECT_EQ(attention.macs, 5 * (2 * 24 * 24 + 2 * 24 * 8 + 5 * 24));
  EXPECT_EQ(attention.activation_elements, 5 * (24 + 1 + 24 + 8 + 8 + 24 + 6));
}

TEST(LlamaTest, Names_AreHuggingFaces) {
  const auto shapes = Shapes(LlamaCatalog(SmallGqa(), TransformerUnit::kLayer, 5));
  EXPECT_EQ(shapes.size(), 3u * 9 + 3);
  EXPECT_EQ(shapes.at("model.embed_tokens.weight"), (std::vector<int64_t>{50, 24}));
  EXPECT_EQ(shapes.at("lm_head.weight"), (std::vector<int64_t>{50, 24}));
  EXPECT_EQ(shapes.at("model.norm.weight"), (std::vector<int64_t>{24}));
  for (const std::string layer : {"model.layers.0.", "model.layers.1.", "model.layers.2."}) {
    EXPECT_EQ(shapes.at(layer + "input_layernorm.weight"), (std::vector<int64_t>{24}));
    EXPECT_EQ(shapes.at(layer + "self_attn.o_proj.weight"), (std::vector<int64_t>{24, 24}));
    EXPECT_EQ(shapes.at(layer + "post_attention_layernorm.weight"), (std::vector<int64_t>{24}));
    EXPECT_EQ(shapes.at(layer + "mlp.gate_proj.weight"), (std::vector<int64_t>{40, 24}));
    EXPECT_EQ(shapes.at(layer + "mlp.up_proj.weight"), (std::vector<int64_t>{40, 24}));
    EXPECT_EQ(shapes.at(layer + "mlp.down_proj.weight"), (std::vector<int64_t>{24, 40}));
  }
}

TEST(LlamaTest, InitialValuesAndDecay_ByTensor) {
  for (const TensorSpec& tensor : LlamaCatalog(SmallGqa(), TransformerUnit::kLayer, 5).tensors) {
    if (absl::StrContains(tensor.name, "norm")) {
      EXPECT_EQ(tensor.initial.kind, InitialValues::Kind::kOnes) << tensor.name;
      EXPECT_FALSE(tensor.decay) << tensor.name;
      continue;
    }
    EXPECT_EQ(tensor.initial.kind, InitialValues::Kind::kNormal) << tensor.name;
    EXPECT_TRUE(tensor.decay) << tensor.name;
    const bool ends_branch =
        absl::StrContains(tensor.name, "o_proj") || absl::StrContains(tensor.name, "down_proj");
    EXPECT_DOUBLE_EQ(tensor.initial.stddev, ends_branch ? 0.02 / std::sqrt(6.0) : 0.02)
        << tensor.name;
  }
}

TEST(LlamaTest, TiedHead_ReadsTheEmbeddingsUnit) {
  LlamaSpec spec = SmallGqa();
  const Catalog untied = LlamaCatalog(spec, TransformerUnit::kSublayer, 5);
  spec.tied = true;
  const Catalog tied = LlamaCatalog(spec, TransformerUnit::kSublayer, 5);
  EXPECT_EQ(Shapes(tied).count("lm_head.weight"), 0u);
  EXPECT_EQ(untied.params() - tied.params(), 50 * 24);
  const StageSpec& head = tied.stages.back();
  ASSERT_EQ(head.units.size(), 2u);
  EXPECT_EQ(tied.unit(head.units[0]).name, "embed");
  EXPECT_EQ(tied.unit(head.units[1]).name, "head");
  EXPECT_EQ(tied.units.back().params, 24);
  EXPECT_EQ(tied.units.back().macs, untied.units.back().macs);
}

TEST(LlamaTest, Stages_WalkTheUnitsInOrder) {
  for (const TransformerUnit granularity : kBoth) {
    const Catalog catalog = LlamaCatalog(SmallGqa(), granularity, 5);
    ASSERT_EQ(catalog.stages.size(), 8u);
    EXPECT_EQ(catalog.stages[0].name, "embed");
    EXPECT_EQ(catalog.stages[3].name, "layers.1.attention");
    EXPECT_EQ(catalog.stages[4].name, "layers.1.mlp");
    EXPECT_EQ(catalog.stages[7].name, "head");
    UnitId last;
    std::set<UnitId> seen;
    for (const StageSpec& stage : catalog.stages) {
      ASSERT_EQ(stage.units.size(), 1u);
      EXPECT_GE(stage.units[0], last);
      last = stage.units[0];
      seen.insert(last);
      EXPECT_EQ(stage.boundary_elements, stage.name == "head" ? 0 : 5 * 24);
      EXPECT_EQ(catalog.unit(last).shared, stage.name == "embed" || stage.name == "head");
    }
    EXPECT_EQ(seen.size(), catalog.units.size());
  }
  const Catalog layers = LlamaCatalog(SmallGqa(), TransformerUnit::kLayer, 5);
  EXPECT_EQ(layers.stages[3].units, layers.stages[4].units);
  EXPECT_EQ(layers.unit(layers.stages[3].units[0]).name, "layers.1");
  EXPECT_EQ(layers.unit(layers.stages[3].units[0]).kind, "layer");
}

// Units of one kind stand for each other in a plan, so they must cost the same.
TEST(LlamaTest, UnitsOfOneKind_CostTheSame) {
  for (const TransformerUnit granularity : kBoth) {
    const Catalog catalog = LlamaCatalog(SmallGqa(), granularity, 5);
    std::map<std::string, const UnitSpec*> first;
    for (const UnitSpec& unit : catalog.units) {
      const UnitSpec& other = *first.emplace(unit.kind, &unit).first->second;
      EXPECT_EQ(unit.params, other.params) << unit.name;
      EXPECT_EQ(unit.macs, other.macs) << unit.name;
      EXPECT_EQ(unit.activation_elements, other.activation_elements) << unit.name;
    }
  }
}

TEST(LlamaTest, Recomputed_LayersKeepTheirInputsAlone) {
  for (const TransformerUnit granularity : kBoth) {
    const Catalog stored = LlamaCatalog(SmallGqa(), granularity, 5);
    const Catalog catalog = Recomputed(stored);
    for (const StageSpec& stage : catalog.stages)
      EXPECT_EQ(stage.recomputed, stage.name != "embed" && stage.name != "head") << stage.name;
    const int64_t stages_of_unit = granularity == TransformerUnit::kLayer ? 2 : 1;
    for (size_t i = 0; i < catalog.units.size(); ++i) {
      const UnitSpec &unit = catalog.units[i], &before = stored.units[i];
      EXPECT_EQ(unit.macs, before.macs);
      EXPECT_EQ(unit.recomputed_macs, unit.shared ? 0 : unit.macs) << unit.name;
      EXPECT_EQ(unit.activation_elements,
                unit.shared ? before.activation_elements : stages_of_unit * 5 * 24)
          << unit.name;
    }
  }
}

// ---- Neuron granularity ----

const UnitSpec& Unit(const Catalog& catalog, const std::string& name) {
  for (const UnitSpec& unit : catalog.units) {
    if (unit.name == name) return unit;
  }
  ADD_FAILURE() << "no unit " << name;
  return catalog.units.front();
}

TEST(LlamaNeuronTest, TensorsStagesAndCosts_AreThoseOfBlocks) {
  for (const bool tied : {false, true}) {
    for (const auto attention : {NeuronUnits::Attention::kSplit, NeuronUnits::Attention::kShared}) {
      LlamaSpec spec = SmallGqa();
      spec.tied = tied;
      const Catalog blocks = LlamaCatalog(spec, TransformerUnit::kSublayer, 5);
      const Catalog parts = LlamaNeuronCatalog(spec, {.attention = attention, .groups = 7}, 5);
      EXPECT_EQ(Shapes(parts), Shapes(blocks));
      EXPECT_EQ(parts.params(), blocks.params());
      ASSERT_EQ(parts.stages.size(), blocks.stages.size());
      for (size_t i = 0; i < parts.stages.size(); ++i) {
        EXPECT_EQ(parts.stages[i].name, blocks.stages[i].name);
        EXPECT_EQ(parts.stages[i].boundary_elements, blocks.stages[i].boundary_elements);
        const auto sums = [&](const Catalog& catalog) {
          std::vector<int64_t> sums(3);
          for (const UnitId id : catalog.stages[i].units) {
            sums[0] += catalog.unit(id).params;
            sums[1] += catalog.unit(id).macs;
            sums[2] += catalog.unit(id).activation_elements;
          }
          return sums;
        };
        EXPECT_EQ(sums(parts), sums(blocks)) << parts.stages[i].name;
      }
    }
  }
}

TEST(LlamaNeuronTest, Units_AreHeadsWithTheirColumnsAndGroupsOfNeurons) {
  const Catalog catalog = LlamaNeuronCatalog(SmallGqa(), {.groups = 7}, 5);
  std::vector<std::string> names;
  for (const UnitId id : catalog.stages[1].units) names.push_back(catalog.unit(id).name);
  EXPECT_EQ(names, (std::vector<std::string>{"layers.0.attention.norm", "layers.0.attention.0",
                                             "layers.0.attention.1"}));
  EXPECT_TRUE(Unit(catalog, "layers.0.attention.norm").shared);
  for (const UnitSpec& unit : catalog.units) {
    if (unit.shared) {
      EXPECT_EQ(unit.layer, -1) << unit.name;
    } else {
      EXPECT_TRUE(absl::StartsWith(unit.name, absl::StrCat("layers.", unit.layer, ".")))
          << unit.name << " " << unit.layer;
    }
  }
  // 3 query heads of 4 elements read a kv head.
  const UnitSpec& head = Unit(catalog, "layers.2.attention.1");
  EXPECT_EQ(head.kind, "attention");
  const std::vector<std::string> tensors = {"q_proj", "k_proj", "v_proj", "o_proj"};
  ASSERT_EQ(head.slices.size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Slice& slice = head.slices[i];
    EXPECT_TRUE(absl::StrContains(catalog.tensors[static_cast<size_t>(slice.tensor)].name,
                                  "layers.2.self_attn." + tensors[i]));
    EXPECT_EQ(slice.dim, i == 3 ? 1 : 0);
    EXPECT_EQ(slice.begin, i == 0 || i == 3 ? 12 : 4);
    EXPECT_EQ(slice.end, i == 0 || i == 3 ? 24 : 8);
  }
  // 40 neurons in 7 groups.
  int64_t end = 0;
  for (int i = 0; i < 7; ++i) {
    const UnitSpec& group = Unit(catalog, absl::StrCat("layers.1.mlp.", i));
    EXPECT_EQ(group.kind, "mlp");
    ASSERT_EQ(group.slices.size(), 3u);
    for (const Slice& slice : group.slices) {
      EXPECT_EQ(slice.begin, end);
      EXPECT_TRUE(slice.end - slice.begin == 5 || slice.end - slice.begin == 6);
    }
    EXPECT_EQ(group.slices[2].dim, 1);
    end = group.slices[2].end;
    EXPECT_EQ(group.params, 3 * 24 * (group.slices[0].end - group.slices[0].begin));
  }
  EXPECT_EQ(end, 40);
}

// method.md 7.4, per token of a layer at coverage C: of 8h + C(8h + 8f) bytes in bf16 the normed
// inputs (4h) and two of four times f are made anew, which leaves 2h + C(4h + 2f) numbers; 1 / rms
// (twice) and, of the held heads, log-sum-exp come on top.
TEST(LlamaNeuronTest, HalfOfALayersParts_CostsAreMethodsFormulas) {
  const int64_t h = 768, f = 2048, length = 512;
  const Catalog catalog = LlamaNeuronCatalog(Llama134m(), {.groups = 32}, length);
  int64_t params = 0, macs = 0, activations = 0;
  for (const UnitSpec& unit : catalog.units) {
    if (!absl::StartsWith(unit.name, "layers.7.")) continue;
    if (!unit.shared && (unit.name.back() - '0') % 2 == 0) continue;  // Every other one.
    params += unit.params;
    macs += unit.macs;
    activations += unit.activation_elements;
  }
  EXPECT_EQ(params, 2 * h + (4 * h * h + 3 * h * f) / 2);
  EXPECT_EQ(macs, length * (4 * h * h + 3 * h * f + length * h) / 2);
  EXPECT_EQ(activations, length * (2 * h + 2 + (4 * h + 2 * f + 12) / 2));
}

TEST(LlamaNeuronTest, SharedAttention_IsOneUnit) {
  const Catalog catalog = LlamaNeuronCatalog(
      SmallGqa(), {.attention = NeuronUnits::Attention::kShared, .groups = 2}, 5);
  ASSERT_EQ(catalog.stages[1].units.size(), 1u);
  const UnitSpec& attention = catalog.unit(catalog.stages[1].units[0]);
  EXPECT_EQ(attention.name, "layers.0.attention");
  EXPECT_TRUE(attention.shared);
  EXPECT_EQ(attention.slices.size(), 5u);
}

}  // namespace
}  // namespace sdp
