#pragma once

#include <cstdint>

#include "ATen/ATen.h"
#include "worker/model/ranges.h"

// Convolution and norms, forth and back, for the autograd functions of the stages for images:
// in LibTorch's own, both keep their input even where the weight needs no gradient. None of these
// is differentiable. Activations are [B, C, height, width], in memory as ImageFormat says. Weights
// and their gradients are contiguous.   Errors: c10::Error on a wrong shape.
namespace sdp {

// Of activations on the device of `x`. Channels last on a CPU: as its convolutions work, which copy
// any other order on the way in and out. On a GPU as they come, the only order that GroupNorm has
// there.
inline at::MemoryFormat ImageFormat(const at::Tensor& x) {
  return x.is_cpu() ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

struct ConvShape {
  int64_t stride = 1;
  int64_t padding = 0;
};
// weight [out, in, kernel, kernel]; no bias.
at::Tensor Convolve(const at::Tensor& x, const at::Tensor& weight, ConvShape shape);

// Weights that require no gradient (a unit that is read only) get none, here and below: undefined.
struct ConvGradients {
  at::Tensor dx, dweight;
};
enum class Of { kInputAndWeight, kWeight };  // kWeight: dx is undefined
// Where some channels are held and others read only: the weight's gradient is that of its part at
// these channels of the outputs, dimension 0, or the inputs, 1. Without ranges there are no such.
struct ConvPart {
  int64_t dim = 0;
  Ranges channels;
};
ConvGradients ConvolveGradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                               ConvShape shape, Of of = Of::kInputAndWeight,
                               const ConvPart& part = {});

// GroupNorm, or BatchNorm by the batch's own statistics.
struct ImageNormWeights {
  at::Tensor weight, bias;  // [C]
  int64_t groups = 1;       // divides C; 0: BatchNorm
  double eps = 0;
};
struct ImageNormed {
  at::Tensor y;           // as x
  at::Tensor mean, rstd;  // [B, groups]; BatchNorm: [C]
};
ImageNormed ImageNorm(const at::Tensor& x, const ImageNormWeights& w);

struct ImageNormGradients {
  at::Tensor dx, dweight, dbias;
};
// `held`: as above, channels of which weight and bias have gradients although others have not.
ImageNormGradients ImageNormGradient(const at::Tensor& dy, const at::Tensor& x,
                                     const at::Tensor& mean, const at::Tensor& rstd,
                                     const ImageNormWeights& w, const Ranges& held = {});

// relu's gradient from its output `y`; or in place of `dy`.
at::Tensor ReluGradient(const at::Tensor& dy, const at::Tensor& y);
void ReluGradientInto(at::Tensor& dy, const at::Tensor& y);

}  // namespace sdp
