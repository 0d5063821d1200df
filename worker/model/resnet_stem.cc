#include "worker/model/resnet_stem.h"

#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "torch/autograd.h"

namespace sdp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kKernel = 3, kStride = 2, kPadding = 1;  // of the maximum

struct Forward {
  at::Tensor y;
  at::Tensor a;  // conv's output
  at::Tensor mean, rstd;
  at::Tensor where;  // of each maximum; undefined: not pooled
};

// The maximum before ReLU: they commute, and ReLU's gradient then needs the output alone.
Forward ComputeStem(const at::Tensor& image, const at::Tensor& conv, const ImageNormWeights& norm,
                    const StemShape& shape, Norms& norms) {
  Forward f;
  f.a = Convolve(image, conv, shape.conv);
  ImageNormed normed = norms(f.a, norm);
  f.mean = std::move(normed.mean);
  f.rstd = std::move(normed.rstd);
  f.y = std::move(normed.y);
  if (shape.pooled) {
    std::tie(f.y, f.where) = at::max_pool2d_with_indices(f.y, {kKernel, kKernel},
                                                         {kStride, kStride}, {kPadding, kPadding});
  }
  f.y.relu_();
  return f;
}

class StemFunction : public torch::autograd::Function<StemFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& image,
                            const at::Tensor& conv, const at::Tensor& norm, const at::Tensor& bias,
                            int64_t stride, int64_t padding, bool pooled, int64_t groups,
                            double eps) {
    Norms own;
    const Forward f =
        ComputeStem(image, conv, {norm, bias, groups, eps}, {{stride, padding}, pooled}, own);
    context->save_for_backward({image, conv, norm, bias, f.y, f.a, f.mean, f.rstd, f.where});
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    context->saved_data["groups"] = groups;
    context->saved_data["eps"] = eps;
    return f.y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &image = saved[0], &conv = saved[1], &y = saved[4], &a = saved[5];
    const at::Tensor& where = saved[8];
    const ImageNormWeights norm = {saved[2], saved[3], context->saved_data["groups"].toInt(),
                                   context->saved_data["eps"].toDouble()};
    at::Tensor d = ReluGradient(outer[0].contiguous(ImageFormat(y)), y);
    if (where.defined()) {
      // Only the size of `a` is looked at, which is that of the maximum's input.
      d = at::max_pool2d_with_indices_backward(d, a, {kKernel, kKernel}, {kStride, kStride},
                                               {kPadding, kPadding}, {1, 1}, /*ceil_mode=*/false,
                                               where);
    }
    ImageNormGradients through = ImageNormGradient(d, a, saved[6], saved[7], norm);
    d.reset();
    const ConvGradients gradients = ConvolveGradient(
        through.dx, image, conv,
        {context->saved_data["stride"].toInt(), context->saved_data["padding"].toInt()},
        Of::kWeight);
    return {at::Tensor(), gradients.dweight, through.dweight, through.dbias, at::Tensor(),
            at::Tensor(), at::Tensor(),      at::Tensor(),    at::Tensor()};
  }
};

at::Tensor ComputeNormRelu(const at::Tensor& x, const ImageNormWeights& norm, Norms& norms) {
  return norms(x, norm).y.relu_();
}

class NormReluFunction : public torch::autograd::Function<NormReluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& norm,
                            const at::Tensor& bias, int64_t groups, double eps) {
    context->save_for_backward({x, norm, bias});
    context->saved_data["groups"] = groups;
    context->saved_data["eps"] = eps;
    Norms own;
    return ComputeNormRelu(x, {norm, bias, groups, eps}, own);
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    const variable_list saved = context->get_saved_variables();
    const ImageNormWeights norm = {saved[1], saved[2], context->saved_data["groups"].toInt(),
                                   context->saved_data["eps"].toDouble()};
    ImageNormed normed = ImageNorm(saved[0], norm);
    const at::Tensor d = ReluGradient(outer[0].contiguous(ImageFormat(saved[0])), normed.y.relu_());
    normed.y.reset();
    ImageNormGradients through = ImageNormGradient(d, saved[0], normed.mean, normed.rstd, norm);
    return {through.dx, through.dweight, through.dbias, at::Tensor(), at::Tensor()};
  }
};

class PositionMeanFunction : public torch::autograd::Function<PositionMeanFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x) {
    context->saved_data["sizes"] = x.sizes();
    return x.mean({2, 3});
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    const std::vector<int64_t> sizes = context->saved_data["sizes"].toIntVector();
    const at::Tensor part = outer[0] / static_cast<double>(sizes[2] * sizes[3]);
    return {part.view({sizes[0], sizes[1], 1, 1}).expand(sizes).contiguous(ImageFormat(part))};
  }
};

}  // namespace

at::Tensor PostStem(const at::Tensor& image, const at::Tensor& conv, const ImageNormWeights& norm,
                    const StemShape& shape, Norms& norms) {
  if (!at::GradMode::is_enabled()) return ComputeStem(image, conv, norm, shape, norms).y;
  return StemFunction::apply(image, conv, norm.weight, norm.bias, shape.conv.stride,
                             shape.conv.padding, shape.pooled, norm.groups, norm.eps);
}

at::Tensor NormReluLayer(const at::Tensor& x, const ImageNormWeights& norm, Norms& norms) {
  if (!at::GradMode::is_enabled()) return ComputeNormRelu(x, norm, norms);
  return NormReluFunction::apply(x, norm.weight, norm.bias, norm.groups, norm.eps);
}

at::Tensor PositionMean(const at::Tensor& x) {
  return at::GradMode::is_enabled() ? PositionMeanFunction::apply(x) : x.mean({2, 3});
}

}  // namespace sdp
