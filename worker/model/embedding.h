#pragma once

#include "ATen/ATen.h"

namespace sdp {

// Rows of `weight` [V, d] for `tokens` [B, L] i64 -> [B, L, d], differentiable in weight. Keeps the
// tokens for the backward pass. A token's gradient is summed in f32 in the order of its
// occurrences, whatever the type: in bf16 a frequent token's sum would stop growing after some
// hundred terms. A weight that requires no gradient keeps nothing.   Errors: c10::Error - a token
// outside of [0, V).
at::Tensor Embedding(const at::Tensor& weight, const at::Tensor& tokens);

}  // namespace sdp
