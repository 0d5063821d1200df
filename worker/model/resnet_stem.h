#pragma once

#include <cstdint>

#include "ATen/ATen.h"
#include "worker/model/image_ops.h"
#include "worker/model/norms.h"

// The ends of a ResNet, one autograd function each. Norms as in residual_block.h.
namespace sdp {

struct StemShape {
  ConvShape conv;
  bool pooled = false;  // maximum of 3 x 3 with stride 2
};

// relu(norm(conv(image))), pooled if the shape says so. Keeps the image, conv's output, the norm's
// mean and 1 / std, its own output, and of a maximum where it came from. No gradient of the image.
at::Tensor PostStem(const at::Tensor& image, const at::Tensor& conv, const ImageNormWeights& norm,
                    const StemShape& shape, Norms& norms);

// relu(norm(x)). Keeps x.
at::Tensor NormReluLayer(const at::Tensor& x, const ImageNormWeights& norm, Norms& norms);

// The mean over the positions of each channel, [B, C]. Keeps nothing.
at::Tensor PositionMean(const at::Tensor& x);

}  // namespace sdp
