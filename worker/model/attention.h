#pragma once

#include "ATen/ATen.h"
#include "worker/model/row_ops.h"
#include "worker/model/stage.h"

namespace sdp {

// Causal grouped-query self-attention as a residual branch, one autograd function:
//   h + factor * attention(rotary(norm(h) qkv^T)) o^T      h [B, L, d]
// H query heads and K key and value heads (K divides H) of e elements follow from the weights'
// shapes, so that a subnetwork may hold only some heads. Keeps for the backward pass, per token: h
// (d), 1 / rms (1), q, k, v after rotation ((H + 2 K) e), the heads' output (H e) and their
// log-sum-exp (H). The normed input is made anew: a pass over memory against d more elements per
// token.
//
// Weights that require no gradient (a unit that is read only) get none, nor what only that would
// take: the products with the normed input and the heads' output. Where some heads are held and
// others read only, only the held ones' part of these products is made. What is kept is the same,
// since h's gradient needs all of it.
struct AttentionWeights {
  at::Tensor norm;  // [d]
  at::Tensor qkv;   // [(H + 2 K) e, d]
  at::Tensor o;     // [d, H e]
};
struct AttentionParts {
  TrainedPart qkv;  // its rows
  TrainedPart o;    // its columns
};
at::Tensor AttentionBranch(const at::Tensor& h, const AttentionWeights& weights,
                           const Rotary& rotary, double norm_eps, double factor,
                           const AttentionParts& parts = {});

}  // namespace sdp
