#include "common/model/llama.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

// What a stage costs, per token. A unit's cost per sample is L times that of its stages.
// d: dim, f: ffn_dim, h: heads, k: kv_heads * head_dim, V: vocab, L: seq_len.
//
//             multiply-accumulates    elements stored for the backward pass
//   embed     0                       0       token ids only
//   attention 2 d d + 2 d k           d + 1   input of the norm, and its 1 / rms
//             + L d (causal half)     d + 2k  q and k (after RoPE) and v
//                                     d + h   output (o_proj's input) and its logsumexp per head
//   mlp       3 d f                   d + 1   input of the norm, and its 1 / rms
//                                     2f      gate and up
//   head      V d                     d       gradient of its input, made with the loss; logits
//                                             exist for one chunk of tokens only
//
// Normed inputs and the product silu(gate) * up are not stored but made anew: worker/model states
// it stage by stage. A branch's output is not stored: it is scaled and added to the residual
// stream.

namespace sdp {
namespace {

constexpr double kStddev = 0.02;

class Builder {
 public:
  Builder(const LlamaSpec& spec, int64_t seq_len)
      : spec_(spec),
        seq_len_(seq_len),
        d_(spec.dim),
        kv_(spec.kv_heads * spec.head_dim()),
        branch_stddev_(kStddev / std::sqrt(2.0 * static_cast<double>(spec.layers))) {
    catalog_.arch = "llama";
  }

  // `layer` < 0: it belongs to none, and everybody holds it.
  UnitId AddUnit(std::string name, std::string kind, int64_t layer = -1) {
    UnitSpec unit;
    unit.name = std::move(name);
    unit.kind = std::move(kind);
    unit.shared = layer < 0;
    unit.layer = static_cast<int>(layer);
    catalog_.units.push_back(std::move(unit));
    return UnitId(static_cast<int32_t>(catalog_.units.size()) - 1);
  }

  void AddEmbedding(UnitId unit) {
    AddWeight(unit, "model.embed_tokens.weight", spec_.vocab, d_, kStddev);
    AddStage("embed", {unit}, seq_len_ * d_);
  }

  void AddAttention(UnitId unit, int64_t layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    AddNorm(unit, absl::StrCat(prefix, "input_layernorm.weight"));
    AddWeight(unit, absl::StrCat(prefix, "self_attn.q_proj.weight"), d_, d_, kStddev);
    AddWeight(unit, absl::StrCat(prefix, "self_attn.k_proj.weight"), kv_, d_, kStddev);
    AddWeight(unit, absl::StrCat(prefix, "self_attn.v_proj.weight"), kv_, d_, kStddev);
    AddWeight(unit, absl::StrCat(prefix, "self_attn.o_proj.weight"), d_, d_, branch_stddev_);
    EndBranch();
    AddCost(unit, 2 * d_ * d_ + 2 * d_ * kv_ + seq_len_ * d_, 3 * d_ + 2 * kv_ + spec_.heads + 1);
    AddStage(absl::StrCat("layers.", layer, ".attention"), {unit}, seq_len_ * d_);
  }

  void AddMlp(UnitId unit, int64_t layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    const int64_t f = spec_.ffn_dim;
    AddNorm(unit, absl::StrCat(prefix, "post_attention_layernorm.weight"));
    AddWeight(unit, absl::StrCat(prefix, "mlp.gate_proj.weight"), f, d_, kStddev);
    AddWeight(unit, absl::StrCat(prefix, "mlp.up_proj.weight"), f, d_, kStddev);
    AddWeight(unit, absl::StrCat(prefix, "mlp.down_proj.weight"), d_, f, branch_stddev_);
    EndBranch();
    AddCost(unit, 3 * d_ * f, d_ + 1 + 2 * f);
    AddStage(absl::StrCat("layers.", layer, ".mlp"), {unit}, seq_len_ * d_);
  }

  // A tied head projects with the embedding's tensor, so its stage reads that unit too.
  void AddHead(UnitId unit, UnitId embedding) {
    AddNorm(unit, "model.norm.weight");
    std::vector<UnitId> units = {unit};
    if (spec_.tied) {
      units.insert(units.begin(), embedding);
    } else {
      AddWeight(unit, "lm_head.weight", spec_.vocab, d_, kStddev);
    }
    AddCost(unit, spec_.vocab * d_, d_);
    AddStage("head", std::move(units), 0);
  }

  Catalog Take() { return std::move(catalog_); }

 private:
  // [out, in]
  void AddWeight(UnitId unit, std::string name, int64_t out, int64_t in, double stddev) {
    AddTensor(unit, {std::move(name), {out, in}, {InitialValues::Kind::kNormal, stddev}});
  }

  // The tensor added last is the last of its branch.
  void EndBranch() { catalog_.tensors.back().ends_branch = true; }

  void AddNorm(UnitId unit, std::string name) {
    AddTensor(unit, {std::move(name), {d_}, {InitialValues::Kind::kOnes, 0}, /*decay=*/false});
  }

  void AddTensor(UnitId id, TensorSpec tensor) {
    UnitSpec& unit = Unit(id);
    Slice slice;
    slice.tensor = static_cast<int>(catalog_.tensors.size());
    unit.slices.push_back(slice);
    unit.params += tensor.elements();
    catalog_.tensors.push_back(std::move(tensor));
  }

  void AddCost(UnitId id, int64_t macs_per_token, int64_t activations_per_token) {
    Unit(id).macs += macs_per_token * seq_len_;
    Unit(id).activation_elements += activations_per_token * seq_len_;
  }

  void AddStage(std::string name, std::vector<UnitId> units, int64_t boundary_elements) {
    catalog_.stages.push_back({std::move(name), std::move(units), boundary_elements});
  }

  UnitSpec& Unit(UnitId id) { return catalog_.units[static_cast<size_t>(id.value())]; }

  const LlamaSpec spec_;
  const int64_t seq_len_;
  const int64_t d_;
  const int64_t kv_;
  const double branch_stddev_;  // o_proj and down_proj: the sum of 2 layers branches then has the
                                // scale of one.
  Catalog catalog_;
};

}  // namespace

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

}  // namespace sdp
