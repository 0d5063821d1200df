#pragma once

#include "ATen/ATen.h"
#include "worker/model/attention.h"
#include "worker/model/row_ops.h"
#include "worker/model/stage.h"

namespace sdp {

// AttentionBranch for the next n tokens of one sequence, h [1, n, d]: their keys and values go into
// the cache, and each token attends to itself and all before it. The cache gets room for as many
// positions as `rotary` has; more are a c10::Error. Not differentiable.
at::Tensor DecodeAttention(const at::Tensor& h, const AttentionWeights& weights,
                           const Rotary& rotary, double norm_eps, double factor,
                           KeyValueCache& cache);

}  // namespace sdp
