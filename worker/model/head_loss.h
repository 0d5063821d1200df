#pragma once

#include <cstdint>

#include "ATen/ATen.h"

namespace sdp {

// Final norm, projection and cross-entropy, one autograd function:
//   scale * sum over tokens of -log softmax(norm(h) projection^T)[target]      h [B, L, d], target
//   [B, L] i64 -> [] f64
// Works in chunks of tokens, so that logits [chunk, V] exist for one chunk only. With gradients
// wanted they are computed in the same pass, while the logits are there: three matrix products
// instead of the four of computing logits again. What that costs is the projection's gradient [V,
// d] from the end of the forward pass on, and the backward pass that needs it starts right there.
// Softmax in f32, the sum of losses in f64. In bf16 the logits and their gradients are widened and
// rounded for that by explicit casts, and sums over chunks (the weights' gradients) stay in f32
// until the last: 6 bytes per element of the projection for a while. Keeps per token: the gradient
// of h (d) in h's place. A weight that requires no gradient has none made.
struct HeadWeights {
  at::Tensor norm;        // [d]
  at::Tensor projection;  // [V, d]
};
at::Tensor HeadLoss(const at::Tensor& h, const at::Tensor& target, const HeadWeights& weights,
                    double norm_eps, double scale, int64_t chunk);

// The logits of all tokens, [B L, V] f32, for who wants them rather than the loss. Not
// differentiable.
at::Tensor HeadLogits(const at::Tensor& h, const HeadWeights& weights, double norm_eps);

}  // namespace sdp
