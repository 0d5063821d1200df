#pragma once

#include "ATen/ATen.h"

// LayerNorm over the last dimension, forth and back, for the autograd functions of transformers of
// images. None of these is differentiable. Tensors are contiguous.   Errors: c10::Error on a wrong
// shape.
namespace sdp {

struct LayerNormWeights {
  at::Tensor weight, bias;  // [d]
  double eps = 0;
};
struct LayerNormed {
  at::Tensor y;           // as x
  at::Tensor mean, rstd;  // [..., 1]
};
LayerNormed LayerNorm(const at::Tensor& x, const LayerNormWeights& w);

// Weights that require no gradient (a unit that is read only) get none: undefined.
struct LayerNormGradients {
  at::Tensor dx, dweight, dbias;
};
// `normed`: LayerNorm's of x; y is not read.
LayerNormGradients LayerNormGradient(const at::Tensor& dy, const at::Tensor& x,
                                     const LayerNormed& normed, const LayerNormWeights& w);

}  // namespace sdp
