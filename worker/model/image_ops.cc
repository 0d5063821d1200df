#include "worker/model/image_ops.h"

#include <array>
#include <optional>
#include <tuple>

namespace sdp {

at::Tensor Convolve(const at::Tensor& x, const at::Tensor& weight, ConvShape shape) {
  return at::convolution(x, weight, /*bias=*/{}, {shape.stride, shape.stride},
                         {shape.padding, shape.padding}, /*dilation=*/{1, 1}, /*transposed=*/false,
                         /*output_padding=*/{0, 0}, /*groups=*/1);
}

ConvGradients ConvolveGradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                               ConvShape shape, Of of) {
  const std::array<bool, 3> mask = {of == Of::kInputAndWeight, weight.requires_grad(), false};
  ConvGradients gradients;
  std::tie(gradients.dx, gradients.dweight, std::ignore) = at::convolution_backward(
      dy, x, weight, /*bias_sizes=*/std::nullopt, {shape.stride, shape.stride},
      {shape.padding, shape.padding}, /*dilation=*/{1, 1}, /*transposed=*/false,
      /*output_padding=*/{0, 0}, /*groups=*/1, mask);
  return gradients;
}

ImageNormed ImageNorm(const at::Tensor& x, const ImageNormWeights& w) {
  ImageNormed normed;
  if (w.groups == 0) {
    std::tie(normed.y, normed.mean, normed.rstd) =
        at::native_batch_norm(x, w.weight, w.bias, /*running_mean=*/{}, /*running_var=*/{},
                              /*training=*/true, /*momentum=*/0, w.eps);
  } else {
    std::tie(normed.y, normed.mean, normed.rstd) = at::native_group_norm(
        x, w.weight, w.bias, x.size(0), x.size(1), x.size(2) * x.size(3), w.groups, w.eps);
  }
  return normed;
}

ImageNormGradients ImageNormGradient(const at::Tensor& dy, const at::Tensor& x,
                                     const at::Tensor& mean, const at::Tensor& rstd,
                                     const ImageNormWeights& w) {
  const std::array<bool, 3> mask = {true, w.weight.requires_grad(), w.bias.requires_grad()};
  ImageNormGradients gradients;
  if (w.groups == 0) {
    std::tie(gradients.dx, gradients.dweight, gradients.dbias) =
        at::native_batch_norm_backward(dy, x, w.weight, /*running_mean=*/{}, /*running_var=*/{},
                                       mean, rstd, /*train=*/true, w.eps, mask);
  } else {
    std::tie(gradients.dx, gradients.dweight, gradients.dbias) = at::native_group_norm_backward(
        dy, x, mean, rstd, w.weight, x.size(0), x.size(1), x.size(2) * x.size(3), w.groups, mask);
  }
  return gradients;
}

at::Tensor ReluGradient(const at::Tensor& dy, const at::Tensor& y) {
  return at::threshold_backward(dy, y, 0);
}

}  // namespace sdp
