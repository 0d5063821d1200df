#pragma once

#include <cstdint>

#include "ATen/ATen.h"
#include "worker/model/layer_norm.h"
#include "worker/model/swin_branches.h"

// What a Swin Transformer has around its blocks, one autograd function each. What is not kept is
// made anew.
namespace sdp {

// norm(patches weight^T + bias): image [B, c, s, s], weight [d, c, p, p] -> [B, L, d], patches row
// by row. Keeps nothing but the image, which has no gradient.
at::Tensor EmbedPatches(const at::Tensor& image, const LinearWeights& weights,
                        const LayerNormWeights& norm);

// norm(four tokens side by side) reduction^T: h [B, size size, d], reduction [2 d, 4 d], norm [4 d]
// -> [B, L / 4, 2 d]. Of 2 x 2 tokens those of the left column come first. Keeps h.
at::Tensor MergePatches(const at::Tensor& h, int64_t size, const at::Tensor& reduction,
                        const LayerNormWeights& norm);

// The mean of norm(h) over tokens: [B, L, d] -> [B, d]. Keeps h.
at::Tensor MeanOfNormed(const at::Tensor& h, const LayerNormWeights& norm);

}  // namespace sdp
