#include "common/model/swin.h"

#include <cassert>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/model/catalog_builder.h"

// What a stage costs, per token of its level. A unit's cost per sample is as many times that of its
// stages, or of its part of one: the lines "heads" and "neurons" are divided among the units that
// have them. d: width, f: hidden neurons, w: window, p: patch, c: channels. As worker/model/swin.cc
// computes:
//
//             multiply-accumulates   elements stored for the backward pass
//   embed     c p^2 d                0    (the image is there as long as the batch is)
//   attention                        d    input of the norm
//     heads   4 d d + 2 w^2 d        3d   q, k and v
//   mlp                              d    input of the norm
//     neurons 2 d f                  f    before GELU
//   merge     2 d d                  d    input
//   head                             d    input of the norm
//             C d per sample         d    per sample: gradient of the mean, made with the loss
//
// Normed inputs, attention's weights and output, and what GELU makes of the hidden neurons are not
// stored but made anew.

namespace sdp {
namespace {

constexpr double kStddev = 0.02;
constexpr int kRows = 0, kColumns = 1;  // dimensions of a matrix [out, in]

class Builder : public CatalogBuilder {
 public:
  explicit Builder(const SwinSpec& spec) : CatalogBuilder("swin"), spec_(spec) {}

  void AddEmbed() {
    const int64_t d = spec_.dim, p = spec_.patch, inputs = spec_.channels * p * p;
    const UnitId unit = AddUnit("embed", "embed");
    // The variance of torch's default for convolutions.
    TakeWhole(unit, AddTensor({"features.0.0.weight",
                               {d, spec_.channels, p, p},
                               {InitialValues::Kind::kNormal,
                                1 / std::sqrt(3.0 * static_cast<double>(inputs))}}));
    TakeWhole(unit, AddBias("features.0.0.bias", d));
    TakeNorm(unit, AddNorm("features.0.2", d));
    AddTokensCost(unit, inputs * d, 0);
    AddStage("embed", {unit}, spec_.tokens(0) * d);
  }

  // ---- A block: `block` of the level, `layer` of the model ----

  void BeginBlock(size_t level, int64_t block) {
    level_ = level;
    name_ = absl::StrCat("level", level + 1, ".", block);
    prefix_ = absl::StrCat("features.", 2 * level + 1, ".", block, ".");
    ++layer_;
  }
  const std::string& block_name() const { return name_; }
  int layer() const { return layer_; }

  void AddAttention(UnitId unit) {
    const Attention t = AddAttentionTensors();
    EndBranch({t.proj.weight, t.proj.bias});
    TakeNorm(unit, t.norm);
    for (const int tensor : {t.table, t.qkv.weight, t.qkv.bias, t.proj.weight, t.proj.bias})
      TakeWhole(unit, tensor);
    AddNormCost(unit);
    AddHeadsCost(unit, spec_.heads[level_]);
    AddStage(name_ + ".attention", {unit}, spec_.tokens(level_) * width());
  }

  void AddMlp(UnitId unit) {
    const Mlp t = AddMlpTensors();
    EndBranch({t.fc2.weight, t.fc2.bias});
    TakeNorm(unit, t.norm);
    for (const int tensor : {t.fc1.weight, t.fc1.bias, t.fc2.weight, t.fc2.bias})
      TakeWhole(unit, tensor);
    AddNormCost(unit);
    AddNeuronsCost(unit, spec_.hidden(level_));
    AddStage(name_ + ".mlp", {unit}, spec_.tokens(level_) * width());
  }

  void AddSplitAttention() {
    const std::string stage = name_ + ".attention";
    const Attention t = AddAttentionTensors();
    EndBranch({t.proj.weight});
    const int64_t d = width(), e = d / spec_.heads[level_];
    std::vector<UnitId> units = {AddSharedUnit(stage, t.norm, t.proj.bias)};
    for (int64_t head = 0; head < spec_.heads[level_]; ++head) {
      const UnitId unit = AddUnit(absl::StrCat(stage, ".", head), "attention", layer_);
      TakePart(unit, t.table, kColumns, head, head + 1);
      for (const int tensor : {t.qkv.weight, t.qkv.bias}) {
        for (int64_t which = 0; which < 3; ++which) {  // q, k, v
          const int64_t begin = which * d + head * e;
          TakePart(unit, tensor, kRows, begin, begin + e);
        }
      }
      TakePart(unit, t.proj.weight, kColumns, head * e, (head + 1) * e);
      AddHeadsCost(unit, 1);
      units.push_back(unit);
    }
    AddStage(stage, std::move(units), spec_.tokens(level_) * d).shared_end = true;
  }

  void AddSplitMlp(int64_t groups) {
    const std::string stage = name_ + ".mlp";
    const Mlp t = AddMlpTensors();
    EndBranch({t.fc2.weight});
    const int64_t hidden = spec_.hidden(level_);
    std::vector<UnitId> units = {AddSharedUnit(stage, t.norm, t.fc2.bias)};
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t begin = hidden * group / groups, end = hidden * (group + 1) / groups;
      const UnitId unit = AddUnit(absl::StrCat(stage, ".", group), "mlp", layer_);
      TakePart(unit, t.fc1.weight, kRows, begin, end);
      TakePart(unit, t.fc1.bias, kRows, begin, end);
      TakePart(unit, t.fc2.weight, kColumns, begin, end);
      AddNeuronsCost(unit, end - begin);
      units.push_back(unit);
    }
    AddStage(stage, std::move(units), spec_.tokens(level_) * width()).shared_end = true;
  }

  // ---- Between and after the levels ----

  void AddMerge() {
    const int64_t d = width();
    const std::string name = absl::StrCat("merge", level_ + 1);
    const std::string prefix = absl::StrCat("features.", 2 * level_ + 2, ".");
    const UnitId unit = AddUnit(name, "merge");
    TakeWhole(unit, AddMatrix(prefix + "reduction.weight", 2 * d, 4 * d));
    TakeNorm(unit, AddNorm(prefix + "norm", 4 * d));
    AddTokensCost(unit, 2 * d * d, d);
    AddStage(name, {unit}, spec_.tokens(level_) * d / 2);
  }

  void AddHead() {
    const int64_t d = width();
    const UnitId unit = AddUnit("head", "head");
    TakeNorm(unit, AddNorm("norm", d));
    const Linear head = AddLinear("head", d, spec_.classes);
    TakeWhole(unit, head.weight);
    TakeWhole(unit, head.bias);
    AddNormCost(unit);
    AddCost(unit, spec_.classes * d, d);
    AddStage("head", {unit}, 0);
  }

 private:
  // Tensors by their places in the catalog.
  struct Linear {
    int weight, bias;
  };
  using Norm = Linear;
  struct Attention {
    Norm norm;
    int table;
    Linear qkv, proj;
  };
  struct Mlp {
    Norm norm;
    Linear fc1, fc2;
  };

  int64_t width() const { return spec_.width(level_); }

  Attention AddAttentionTensors() {
    const int64_t d = width(), positions = 2 * spec_.window - 1;
    Attention t;
    t.norm = AddNorm(prefix_ + "norm1", d);
    t.table = AddTensor({prefix_ + "attn.relative_position_bias_table",
                         {positions * positions, spec_.heads[level_]},
                         {InitialValues::Kind::kNormal, kStddev},
                         /*decay=*/false});
    t.qkv = AddLinear(prefix_ + "attn.qkv", d, 3 * d);
    t.proj = AddLinear(prefix_ + "attn.proj", d, d);
    return t;
  }

  Mlp AddMlpTensors() {
    Mlp t;
    t.norm = AddNorm(prefix_ + "norm2", width());
    t.fc1 = AddLinear(prefix_ + "mlp.0", width(), spec_.hidden(level_));
    t.fc2 = AddLinear(prefix_ + "mlp.3", spec_.hidden(level_), width());
    return t;
  }

  Norm AddNorm(const std::string& name, int64_t width) {
    const int weight =
        AddTensor({name + ".weight", {width}, {InitialValues::Kind::kOnes, 0}, /*decay=*/false});
    return {weight, AddBias(name + ".bias", width)};
  }
  Linear AddLinear(const std::string& name, int64_t in, int64_t out) {
    const int weight = AddMatrix(name + ".weight", out, in);
    return {weight, AddBias(name + ".bias", out)};
  }
  int AddMatrix(std::string name, int64_t out, int64_t in) {
    return AddTensor({std::move(name), {out, in}, {InitialValues::Kind::kNormal, kStddev}});
  }
  int AddBias(std::string name, int64_t width) {
    return AddTensor({std::move(name), {width}, {}, /*decay=*/false});
  }
  void EndBranch(const std::vector<int>& tensors) {
    for (const int index : tensors) tensor(index).ends_branch = true;
  }

  // What every part of a branch needs.
  UnitId AddSharedUnit(const std::string& stage, const Norm& norm, int bias) {
    const UnitId unit = AddUnit(stage + ".shared", "shared");
    TakeNorm(unit, norm);
    TakeWhole(unit, bias);
    AddNormCost(unit);
    return unit;
  }

  void TakeNorm(UnitId unit, const Norm& norm) {
    TakeWhole(unit, norm.weight);
    TakeWhole(unit, norm.bias);
  }

  void AddNormCost(UnitId unit) { AddTokensCost(unit, 0, width()); }
  void AddHeadsCost(UnitId unit, int64_t heads) {
    const int64_t d = width(), part = heads * (d / spec_.heads[level_]);
    AddTokensCost(unit, 4 * d * part + 2 * spec_.window * spec_.window * part, 3 * part);
  }
  void AddNeuronsCost(UnitId unit, int64_t neurons) {
    AddTokensCost(unit, 2 * width() * neurons, neurons);
  }
  void AddTokensCost(UnitId unit, int64_t macs_per_token, int64_t activations_per_token) {
    const int64_t tokens = spec_.tokens(level_);
    AddCost(unit, macs_per_token * tokens, activations_per_token * tokens);
  }

  const SwinSpec& spec_;
  // Of the block that is added.
  size_t level_ = 0;
  std::string name_, prefix_;
  int layer_ = -1;
};

// `add_block` adds the units and stages of the block that the builder has begun.
template <typename AddBlock>
Catalog Build(const SwinSpec& spec, const AddBlock& add_block) {
  Builder builder(spec);
  builder.AddEmbed();
  for (size_t level = 0; level < spec.depths.size(); ++level) {
    for (int64_t block = 0; block < spec.depths[level]; ++block) {
      builder.BeginBlock(level, block);
      add_block(builder);
    }
    if (level + 1 < spec.depths.size()) builder.AddMerge();
  }
  builder.AddHead();
  return builder.Take();
}

}  // namespace

absl::Status CheckParts(const SwinSpec& spec, const NeuronUnits& units) {
  if (units.groups >= 1 && units.groups <= spec.hidden(0)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("sdp.groups = ", units.groups,
                   ": must be in [1, model.dim * model.mlp_ratio = ", spec.hidden(0), "]"));
}

PartsText PartsTextOf(const SwinSpec&, const std::string& stage, const std::string& kind,
                      int64_t parts) {
  if (kind == "attention") {
    return {absl::StrCat("model.level_heads = ", parts, ", so ", stage, " has as many parts"),
            "keep attention whole on every worker with sdp.attention = \"shared\""};
  }
  return {absl::StrCat("sdp.groups = ", parts, " of ", stage), "take more groups"};
}

Catalog SwinCatalog(const SwinSpec& spec, TransformerUnit unit) {
  return Build(spec, [&](Builder& builder) {
    const std::string& name = builder.block_name();
    if (unit == TransformerUnit::kLayer) {
      const UnitId both = builder.AddUnit(name, "layer", builder.layer());
      builder.AddAttention(both);
      builder.AddMlp(both);
    } else {
      builder.AddAttention(builder.AddUnit(name + ".attention", "attention", builder.layer()));
      builder.AddMlp(builder.AddUnit(name + ".mlp", "mlp", builder.layer()));
    }
  });
}

Catalog SwinNeuronCatalog(const SwinSpec& spec, const NeuronUnits& units) {
  assert(units.groups >= 1 && units.groups <= spec.hidden(0));
  return Build(spec, [&](Builder& builder) {
    if (units.attention == NeuronUnits::Attention::kSplit) {
      builder.AddSplitAttention();
    } else {
      builder.AddAttention(builder.AddUnit(builder.block_name() + ".attention", "attention"));
    }
    builder.AddSplitMlp(units.groups);
  });
}

}  // namespace sdp
