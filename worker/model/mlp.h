#pragma once

#include "ATen/ATen.h"
#include "worker/model/stage.h"

namespace sdp {

// SwiGLU feed-forward as a residual branch, one autograd function:
//   h + factor * (silu(gate) * up) down^T,  [gate, up] = norm(h) gate_up^T      h [B, L, d]
// Keeps for the backward pass, per token: h (d), 1 / rms (1), gate and up (2 f). The normed input
// and the product are made anew: a pass over memory each against d + f more elements per token.
// Weights that require no gradient get none, as in attention.h, or the gradient of a part: what is
// kept is the same.
struct MlpWeights {
  at::Tensor norm;     // [d]
  at::Tensor gate_up;  // [2 f, d]: gate, then up
  at::Tensor down;     // [d, f]
};
struct MlpParts {
  TrainedPart gate_up;  // its rows
  TrainedPart down;     // its columns
};
at::Tensor MlpBranch(const at::Tensor& h, const MlpWeights& weights, double norm_eps, double factor,
                     const MlpParts& parts = {});

}  // namespace sdp
