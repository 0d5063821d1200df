#pragma once

#include "ATen/ATen.h"
#include "worker/model/layer_norm.h"
#include "worker/model/stage.h"
#include "worker/model/window_attention.h"

// The residual branches of a Swin block, one autograd function each. h [B, L, d] f32, tokens row by
// row. What each keeps for the backward pass is stated with it; normed inputs, attention's weights
// and output, and GELU's output are made anew. Weights that require no gradient (a unit that is
// read only) get none, nor what only that would take. Where some heads or neurons are held and
// others read only, only the held ones' part of the products for weights' gradients is made. What
// is kept is the same, since h's gradient needs all of it.
namespace sdp {

struct LinearWeights {
  at::Tensor weight, bias;  // [out, in], [out]
};

// h + factor * (attention within windows(norm(h) qkv^T) proj^T + bias). H heads of `head_dim`
// elements follow from proj's shape, so that a subnetwork may hold only some of them. Keeps, per
// token: h (d) and q, k and v (3 H e).
struct WindowAttentionWeights {
  LayerNormWeights norm;  // [d]
  at::Tensor table;       // [(2 window - 1)^2, H]
  LinearWeights qkv;      // [3 H e, d]: all heads' rows of q, then of k, then of v
  LinearWeights proj;     // [d, H e]
};
struct WindowAttentionParts {
  TrainedPart table;          // its columns
  TrainedPart qkv, qkv_bias;  // rows
  TrainedPart proj;           // columns
};
// `windows` outlives the graph.
at::Tensor WindowAttentionBranch(const at::Tensor& h, const WindowAttentionWeights& weights,
                                 const Windows& windows, int64_t head_dim, double factor,
                                 const WindowAttentionParts& parts = {});

// h + factor * (gelu(norm(h) fc1^T) fc2^T + bias), GELU by the error function. Keeps, per token: h
// (d) and what goes into GELU (f).
struct GeluMlpWeights {
  LayerNormWeights norm;  // [d]
  LinearWeights fc1;      // [f, d]
  LinearWeights fc2;      // [d, f]
};
struct GeluMlpParts {
  TrainedPart fc1, fc1_bias;  // rows
  TrainedPart fc2;            // columns
};
at::Tensor GeluMlpBranch(const at::Tensor& h, const GeluMlpWeights& weights, double factor,
                         const GeluMlpParts& parts = {});

// What is left of either without any head or neuron: h + bias. The norm's gradient is 0. Keeps
// nothing.
at::Tensor BiasAlone(const at::Tensor& h, const LayerNormWeights& norm, const at::Tensor& bias);

}  // namespace sdp
