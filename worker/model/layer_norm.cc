#include "worker/model/layer_norm.h"

#include <array>
#include <tuple>

namespace sdp {

LayerNormed LayerNorm(const at::Tensor& x, const LayerNormWeights& w) {
  LayerNormed normed;
  std::tie(normed.y, normed.mean, normed.rstd) =
      at::native_layer_norm(x, {x.size(-1)}, w.weight, w.bias, w.eps);
  return normed;
}

LayerNormGradients LayerNormGradient(const at::Tensor& dy, const at::Tensor& x,
                                     const LayerNormed& normed, const LayerNormWeights& w) {
  const std::array<bool, 3> mask = {true, w.weight.requires_grad(), w.bias.requires_grad()};
  LayerNormGradients gradients;
  std::tie(gradients.dx, gradients.dweight, gradients.dbias) = at::native_layer_norm_backward(
      dy, x, {x.size(-1)}, normed.mean, normed.rstd, w.weight, w.bias, mask);
  return gradients;
}

}  // namespace sdp
