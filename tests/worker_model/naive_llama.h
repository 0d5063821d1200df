#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/model/llama.h"
#include "torch/autograd.h"

// LLaMA written down with plain differentiable torch operations, nothing shared with the product:
// the reference of its tests. Works in the type of the weights; tests use f64, so that differences
// are the product's own rounding.
namespace sdp::naive {

using Weights = std::map<std::string, at::Tensor>;  // by Hugging Face's names

inline at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return x * at::rsqrt(x.square().mean(-1, true) + eps) * weight;
}

// x [B, heads, L, e]
inline at::Tensor Rotate(const at::Tensor& x, double theta) {
  const int64_t e = x.size(3);
  const at::Tensor frequency = at::pow(
      theta, -at::arange(0, e, 2, x.options().requires_grad(false)) / static_cast<double>(e));
  const at::Tensor position = at::arange(x.size(2), x.options().requires_grad(false));
  const at::Tensor angle = at::outer(position, frequency).repeat({1, 2});  // [L, e]
  const at::Tensor half = at::cat({-x.narrow(3, e / 2, e / 2), x.narrow(3, 0, e / 2)}, 3);
  return x * angle.cos() + half * angle.sin();
}

inline at::Tensor Attention(const LlamaSpec& spec, const at::Tensor& x, const at::Tensor& q_weight,
                            const at::Tensor& k_weight, const at::Tensor& v_weight,
                            const at::Tensor& o_weight) {
  const int64_t batch = x.size(0), length = x.size(1), e = spec.head_dim(),
                group = spec.heads / spec.kv_heads;
  const auto heads = [&](const at::Tensor& weight) {
    return at::matmul(x, weight.t()).view({batch, length, -1, e}).transpose(1, 2);
  };
  const at::Tensor q = Rotate(heads(q_weight), spec.rope_theta);
  const at::Tensor k = Rotate(heads(k_weight), spec.rope_theta).repeat_interleave(group, 1);
  const at::Tensor v = heads(v_weight).repeat_interleave(group, 1);
  const at::Tensor future = at::ones({length, length}, at::kBool).triu(1);
  const at::Tensor scores = (at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(e)))
                                .masked_fill(future, -INFINITY);
  const at::Tensor out = at::matmul(at::softmax(scores, -1), v);
  return at::matmul(out.transpose(1, 2).reshape({batch, length, -1}), o_weight.t());
}

// Factors of the branches, 2 per layer: attention, MLP. 0 leaves a branch out.
using Factors = std::vector<double>;

// tokens [B, L] i64 -> logits [B, L, V]
inline at::Tensor Logits(const LlamaSpec& spec, const Weights& w, const at::Tensor& tokens,
                         const Factors& factors) {
  at::Tensor h = w.at("model.embed_tokens.weight").index_select(0, tokens.reshape({-1}));
  h = h.view({tokens.size(0), tokens.size(1), spec.dim});
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    const auto weight = [&](const char* name) {
      return w.at(absl::StrCat("model.layers.", layer, ".", name));
    };
    const at::Tensor x = RmsNorm(h, weight("input_layernorm.weight"), spec.norm_eps);
    const size_t attention = static_cast<size_t>(2 * layer);
    h = h + factors[attention] * Attention(spec, x, weight("self_attn.q_proj.weight"),
                                           weight("self_attn.k_proj.weight"),
                                           weight("self_attn.v_proj.weight"),
                                           weight("self_attn.o_proj.weight"));
    const at::Tensor y = RmsNorm(h, weight("post_attention_layernorm.weight"), spec.norm_eps);
    const at::Tensor product = at::silu(at::matmul(y, weight("mlp.gate_proj.weight").t())) *
                               at::matmul(y, weight("mlp.up_proj.weight").t());
    h = h + factors[attention + 1] * at::matmul(product, weight("mlp.down_proj.weight").t());
  }
  h = RmsNorm(h, w.at("model.norm.weight"), spec.norm_eps);
  return at::matmul(h, w.at(spec.tied ? "model.embed_tokens.weight" : "lm_head.weight").t());
}

// Mean over all targets.
inline at::Tensor Loss(const LlamaSpec& spec, const Weights& w, const at::Tensor& tokens,
                       const at::Tensor& target, const Factors& factors) {
  const at::Tensor logits = Logits(spec, w, tokens, factors);
  return -at::log_softmax(logits, -1).gather(-1, target.unsqueeze(-1)).mean();
}

}  // namespace sdp::naive
