#include "common/model/llama.h"

#include <cassert>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/model/catalog_builder.h"

// What a stage costs, per token. A unit's cost per sample is L times that of its stages, or of its
// part of one: the lines "heads" and "neurons" are divided among the units that have them.
// d: dim, f: ffn_dim, h: heads, k: kv_heads * head_dim, V: vocab, L: seq_len.
//
//             multiply-accumulates    elements stored for the backward pass
//   embed     0                       0       token ids only
//   attention                         d + 1   input of the norm, and its 1 / rms
//     heads   2 d d + 2 d k           d + 2k  q and k (after RoPE) and v
//             + L d (causal half)     d + h   output (o_proj's input) and its logsumexp per head
//   mlp                               d + 1   input of the norm, and its 1 / rms
//     neurons 3 d f                   2f      gate and up
//   head      V d                     d       gradient of its input, made with the loss; logits
//                                             exist for one chunk of tokens only
//
// Normed inputs and the product silu(gate) * up are not stored but made anew: worker/model states
// it stage by stage. A branch's output is not stored: it is scaled and added to the residual
// stream.

namespace sdp {
namespace {

constexpr double kStddev = 0.02;

class Builder : public CatalogBuilder {
 public:
  Builder(const LlamaSpec& spec, int64_t seq_len)
      : CatalogBuilder("llama"),
        spec_(spec),
        seq_len_(seq_len),
        d_(spec.dim),
        kv_(spec.kv_heads * spec.head_dim()),
        branch_stddev_(kStddev / std::sqrt(2.0 * static_cast<double>(spec.layers))) {}

  void AddEmbedding(UnitId unit) {
    TakeWhole(unit, AddWeight("model.embed_tokens.weight", spec_.vocab, d_, kStddev));
    AddStage("embed", {unit}, seq_len_ * d_);
  }

  void AddAttention(UnitId unit, int64_t layer) {
    const AttentionTensors t = AddAttentionTensors(layer);
    for (const int tensor : {t.norm, t.q, t.k, t.v, t.o}) TakeWhole(unit, tensor);
    AddNormCost(unit);
    AddHeadsCost(unit, spec_.kv_heads);
    AddStage(absl::StrCat("layers.", layer, ".attention"), {unit}, seq_len_ * d_);
  }

  void AddMlp(UnitId unit, int64_t layer) {
    const MlpTensors t = AddMlpTensors(layer);
    for (const int tensor : {t.norm, t.gate, t.up, t.down}) TakeWhole(unit, tensor);
    AddNormCost(unit);
    AddNeuronsCost(unit, spec_.ffn_dim);
    AddStage(absl::StrCat("layers.", layer, ".mlp"), {unit}, seq_len_ * d_);
  }

  void AddSplitAttention(int64_t layer) {
    const std::string stage = absl::StrCat("layers.", layer, ".attention");
    const AttentionTensors t = AddAttentionTensors(layer);
    const int64_t e = spec_.head_dim(), queries = spec_.heads / spec_.kv_heads * e;
    std::vector<UnitId> units = {AddNormUnit(stage, t.norm)};
    for (int64_t i = 0; i < spec_.kv_heads; ++i) {
      const UnitId unit = AddUnit(absl::StrCat(stage, ".", i), "attention", layer);
      TakePart(unit, t.q, kRows, i * queries, (i + 1) * queries);
      TakePart(unit, t.k, kRows, i * e, (i + 1) * e);
      TakePart(unit, t.v, kRows, i * e, (i + 1) * e);
      TakePart(unit, t.o, kColumns, i * queries, (i + 1) * queries);
      AddHeadsCost(unit, 1);
      units.push_back(unit);
    }
    AddStage(stage, std::move(units), seq_len_ * d_);
  }

  void AddSplitMlp(int64_t layer, int64_t groups) {
    const std::string stage = absl::StrCat("layers.", layer, ".mlp");
    const MlpTensors t = AddMlpTensors(layer);
    std::vector<UnitId> units = {AddNormUnit(stage, t.norm)};
    for (int64_t i = 0; i < groups; ++i) {
      const int64_t begin = spec_.ffn_dim * i / groups, end = spec_.ffn_dim * (i + 1) / groups;
      const UnitId unit = AddUnit(absl::StrCat(stage, ".", i), "mlp", layer);
      TakePart(unit, t.gate, kRows, begin, end);
      TakePart(unit, t.up, kRows, begin, end);
      TakePart(unit, t.down, kColumns, begin, end);
      AddNeuronsCost(unit, end - begin);
      units.push_back(unit);
    }
    AddStage(stage, std::move(units), seq_len_ * d_);
  }

  // A tied head projects with the embedding's tensor, so its stage reads that unit too.
  void AddHead(UnitId unit, UnitId embedding) {
    TakeWhole(unit, AddNorm("model.norm.weight"));
    std::vector<UnitId> units = {unit};
    if (spec_.tied) {
      units.insert(units.begin(), embedding);
    } else {
      TakeWhole(unit, AddWeight("lm_head.weight", spec_.vocab, d_, kStddev));
    }
    AddTokenCost(unit, spec_.vocab * d_, d_);
    AddStage("head", std::move(units), 0);
  }

 private:
  static constexpr int kRows = 0, kColumns = 1;  // dimensions of a matrix [out, in]

  struct AttentionTensors {
    int norm, q, k, v, o;
  };
  AttentionTensors AddAttentionTensors(int64_t layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    AttentionTensors t;
    t.norm = AddNorm(absl::StrCat(prefix, "input_layernorm.weight"));
    t.q = AddWeight(absl::StrCat(prefix, "self_attn.q_proj.weight"), d_, d_, kStddev);
    t.k = AddWeight(absl::StrCat(prefix, "self_attn.k_proj.weight"), kv_, d_, kStddev);
    t.v = AddWeight(absl::StrCat(prefix, "self_attn.v_proj.weight"), kv_, d_, kStddev);
    t.o = AddWeight(absl::StrCat(prefix, "self_attn.o_proj.weight"), d_, d_, branch_stddev_);
    tensor(t.o).ends_branch = true;
    return t;
  }

  struct MlpTensors {
    int norm, gate, up, down;
  };
  MlpTensors AddMlpTensors(int64_t layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    const int64_t f = spec_.ffn_dim;
    MlpTensors t;
    t.norm = AddNorm(absl::StrCat(prefix, "post_attention_layernorm.weight"));
    t.gate = AddWeight(absl::StrCat(prefix, "mlp.gate_proj.weight"), f, d_, kStddev);
    t.up = AddWeight(absl::StrCat(prefix, "mlp.up_proj.weight"), f, d_, kStddev);
    t.down = AddWeight(absl::StrCat(prefix, "mlp.down_proj.weight"), d_, f, branch_stddev_);
    tensor(t.down).ends_branch = true;
    return t;
  }

  // The pre-norm of a stage whose other units are parts of it.
  UnitId AddNormUnit(const std::string& stage, int tensor) {
    const UnitId unit = AddUnit(absl::StrCat(stage, ".norm"), "norm");
    TakeWhole(unit, tensor);
    AddNormCost(unit);
    return unit;
  }

  int AddWeight(std::string name, int64_t out, int64_t in, double stddev) {
    return AddTensor({std::move(name), {out, in}, {InitialValues::Kind::kNormal, stddev}});
  }

  int AddNorm(std::string name) {
    return AddTensor({std::move(name), {d_}, {InitialValues::Kind::kOnes, 0}, /*decay=*/false});
  }

  void AddNormCost(UnitId unit) { AddTokenCost(unit, 0, d_ + 1); }

  // Of so many kv heads and the query heads that read them.
  void AddHeadsCost(UnitId unit, int64_t kv_heads) {
    const int64_t heads = kv_heads * (spec_.heads / spec_.kv_heads);
    const int64_t queries = heads * spec_.head_dim(), keys = kv_heads * spec_.head_dim();
    AddTokenCost(unit, 2 * d_ * queries + 2 * d_ * keys + seq_len_ * queries,
                 2 * queries + 2 * keys + heads);
  }

  void AddNeuronsCost(UnitId unit, int64_t neurons) {
    AddTokenCost(unit, 3 * d_ * neurons, 2 * neurons);
  }

  void AddTokenCost(UnitId unit, int64_t macs, int64_t activation_elements) {
    AddCost(unit, macs * seq_len_, activation_elements * seq_len_);
  }

  const LlamaSpec spec_;
  const int64_t seq_len_;
  const int64_t d_;
  const int64_t kv_;
  const double branch_stddev_;  // o_proj and down_proj: the sum of 2 layers branches then has the
                                // scale of one.
};

}  // namespace

absl::Status CheckParts(const LlamaSpec& spec, const NeuronUnits& units) {
  if (units.groups >= 1 && units.groups <= spec.ffn_dim) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "sdp.groups = ", units.groups, ": must be in [1, model.ffn_dim = ", spec.ffn_dim, "]"));
}

PartsText PartsTextOf(const LlamaSpec&, const std::string& stage, const std::string& kind,
                      int64_t parts) {
  if (kind == "attention") {
    return {absl::StrCat("model.kv_heads = ", parts, ", so ", stage, " has as many parts"),
            "keep attention whole on every worker with sdp.attention = \"shared\""};
  }
  return {absl::StrCat("sdp.groups = ", parts, " of ", stage), "take more groups"};
}

Catalog LlamaCatalog(const LlamaSpec& spec, TransformerUnit unit, int64_t seq_len) {
  Builder builder(spec, seq_len);
  const UnitId embedding = builder.AddUnit("embed", "embed");
  builder.AddEmbedding(embedding);
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    const std::string name = absl::StrCat("layers.", layer);
    if (unit == TransformerUnit::kLayer) {
      const UnitId both = builder.AddUnit(name, "layer", layer);
      builder.AddAttention(both, layer);
      builder.AddMlp(both, layer);
    } else {
      builder.AddAttention(builder.AddUnit(absl::StrCat(name, ".attention"), "attention", layer),
                           layer);
      builder.AddMlp(builder.AddUnit(absl::StrCat(name, ".mlp"), "mlp", layer), layer);
    }
  }
  builder.AddHead(builder.AddUnit("head", "head"), embedding);
  return builder.Take();
}

Catalog LlamaNeuronCatalog(const LlamaSpec& spec, const NeuronUnits& units, int64_t seq_len) {
  assert(CheckParts(spec, units).ok());
  Builder builder(spec, seq_len);
  const UnitId embedding = builder.AddUnit("embed", "embed");
  builder.AddEmbedding(embedding);
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    if (units.attention == NeuronUnits::Attention::kSplit) {
      builder.AddSplitAttention(layer);
    } else {
      const std::string name = absl::StrCat("layers.", layer, ".attention");
      builder.AddAttention(builder.AddUnit(name, "attention"), layer);
    }
    builder.AddSplitMlp(layer, units.groups);
  }
  builder.AddHead(builder.AddUnit("head", "head"), embedding);
  return builder.Take();
}

}  // namespace sdp
