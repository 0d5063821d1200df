#pragma once

#include <cstdint>

#include "common/model/llama.h"
#include "worker/model/stage.h"

namespace sdp {

// The stages of LLaMA's catalogs: "embed", per layer "layers.i.attention" and "layers.i.mlp", and
// "head" as the loss. Input and target are [B, L] i64 token ids, L <= seq_len; boundary activations
// [B, L, d] in the weights' type, f32 or bf16; all on `device`. Weights by Hugging Face's names, in
// their conventions (rotate_half, [out, in] matrices).
//
// In bf16: weights, boundary activations, the operands of matrix products and what they return are
// bf16. Products are summed in f32. Norms, rotation, SwiGLU's sigmoid, softmax and loss compute in
// f32 and round on the way out; 1 / rms and attention's log-sum-exp, one number per token (and
// head), are kept in f32. Weights' gradients are bf16, after sums in f32 over tokens, chunks and
// blocks.
Network LlamaNetwork(const LlamaSpec& spec, int64_t seq_len, at::Device device = at::kCPU);

}  // namespace sdp
