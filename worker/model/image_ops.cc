#include "worker/model/image_ops.h"

#include <array>
#include <optional>
#include <tuple>

#include "common/base/allocated.h"

namespace sdp {

at::Tensor Convolve(const at::Tensor& x, const at::Tensor& weight, ConvShape shape) {
  return at::convolution(x, weight, /*bias=*/{}, {shape.stride, shape.stride},
                         {shape.padding, shape.padding}, /*dilation=*/{1, 1}, /*transposed=*/false,
                         /*output_padding=*/{0, 0}, /*groups=*/1);
}

namespace {

// Channels of an activation, in an activation's order.
at::Tensor SelectChannels(const at::Tensor& x, const Ranges& channels) {
  return Select(x, 1, channels).contiguous(ImageFormat(x));
}

// Of x and weight, as far as they are wanted.
ConvGradients Backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                       ConvShape shape, bool of_x, bool of_weight) {
  ConvGradients gradients;
  std::tie(gradients.dx, gradients.dweight, std::ignore) = at::convolution_backward(
      dy, x, weight, /*bias_sizes=*/std::nullopt, {shape.stride, shape.stride},
      {shape.padding, shape.padding}, /*dilation=*/{1, 1}, /*transposed=*/false,
      /*output_padding=*/{0, 0}, /*groups=*/1, {of_x, of_weight, false});
  if (of_weight) {
    const MemoryScope gradient(MemoryKind::kGradients);
    gradients.dweight = gradients.dweight.contiguous();
  }
  return gradients;
}

// The weight's, at the channels that are trained: a copy of theirs goes with the call.
at::Tensor PartGradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                        ConvShape shape, const ConvPart& part) {
  const at::Tensor held_dy = part.dim == 0 ? SelectChannels(dy, part.channels) : dy;
  const at::Tensor held_x = part.dim == 1 ? SelectChannels(x, part.channels) : x;
  // Of the weight's part only the shape matters.
  const at::Tensor held = weight.narrow(part.dim, 0, (part.dim == 0 ? held_dy : held_x).size(1));
  return Backward(held_dy, held_x, held, shape, false, true).dweight;
}

}  // namespace

ConvGradients ConvolveGradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                               ConvShape shape, Of of, const ConvPart& part) {
  const bool of_x = of == Of::kInputAndWeight;
  if (part.channels.empty()) return Backward(dy, x, weight, shape, of_x, weight.requires_grad());
  ConvGradients gradients;
  gradients.dweight = PartGradient(dy, x, weight, shape, part);
  if (of_x) gradients.dx = Backward(dy, x, weight, shape, true, false).dx;
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
                                     const ImageNormWeights& w, const Ranges& held) {
  const std::array<bool, 3> mask = {true, !held.empty() || w.weight.requires_grad(),
                                    !held.empty() || w.bias.requires_grad()};
  ImageNormGradients gradients;
  if (w.groups == 0) {
    std::tie(gradients.dx, gradients.dweight, gradients.dbias) =
        at::native_batch_norm_backward(dy, x, w.weight, /*running_mean=*/{}, /*running_var=*/{},
                                       mean, rstd, /*train=*/true, w.eps, mask);
  } else {
    std::tie(gradients.dx, gradients.dweight, gradients.dbias) = at::native_group_norm_backward(
        dy, x, mean, rstd, w.weight, x.size(0), x.size(1), x.size(2) * x.size(3), w.groups, mask);
  }
  if (held.empty()) return gradients;
  gradients.dweight = Select(gradients.dweight, 0, held);
  gradients.dbias = Select(gradients.dbias, 0, held);
  return gradients;
}

at::Tensor ReluGradient(const at::Tensor& dy, const at::Tensor& y) {
  return at::threshold_backward(dy, y, 0);
}

void ReluGradientInto(at::Tensor& dy, const at::Tensor& y) {
  at::threshold_backward_out(dy, dy, y, 0);
}

}  // namespace sdp
