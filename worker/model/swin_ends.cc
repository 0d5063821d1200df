#include "worker/model/swin_ends.h"

#include <utility>

#include "common/base/allocated.h"
#include "torch/autograd.h"
#include "worker/model/matrix.h"

namespace sdp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// ---- Patches ----

// [B, c, s, s] -> [B L, c p p], each in the order of the weight's elements.
at::Tensor PatchesOf(const at::Tensor& image, int64_t patch) {
  const int64_t size = image.size(2) / patch;
  return image.view({image.size(0), image.size(1), size, patch, size, patch})
      .permute({0, 2, 4, 1, 3, 5})
      .reshape({image.size(0) * size * size, image.size(1) * patch * patch});
}

// [B, L, d], before the norm.
at::Tensor Project(const at::Tensor& image, const at::Tensor& patches, const LinearWeights& w) {
  return at::addmm(w.bias, patches, w.weight.flatten(1).t())
      .view({image.size(0), -1, w.weight.size(0)});
}

class EmbedFunction : public torch::autograd::Function<EmbedFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& image,
                            const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& norm, const at::Tensor& norm_bias, double eps) {
    context->save_for_backward({image, weight, bias, norm, norm_bias});
    context->saved_data["eps"] = eps;
    return EmbedPatches(image, {weight, bias}, {norm, norm_bias, eps});
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    const variable_list saved = context->get_saved_variables();
    const LinearWeights w = {saved[1], saved[2]};
    const LayerNormWeights norm = {saved[3], saved[4], context->saved_data["eps"].toDouble()};
    const at::Tensor patches = PatchesOf(saved[0], w.weight.size(2));
    const at::Tensor x = Project(saved[0], patches, w);
    LayerNormed normed = LayerNorm(x, norm);
    normed.y.reset();
    const LayerNormGradients through = LayerNormGradient(outer[0].contiguous(), x, normed, norm);
    const at::Tensor dx = Rows(through.dx);
    const MemoryScope of_weights(MemoryKind::kGradients);
    return {at::Tensor(),  Product(dx.t(), patches).view(w.weight.sizes()),
            dx.sum(0),     through.dweight,
            through.dbias, at::Tensor()};
  }
};

// ---- Merging ----

// h [B, size size, d] -> [B, size / 2, size / 2, (column, row) of the 2 x 2, d], a view.
at::Tensor Fours(const at::Tensor& h, int64_t size) {
  return h.view({h.size(0), size / 2, 2, size / 2, 2, h.size(2)}).permute({0, 1, 3, 4, 2, 5});
}
at::Tensor Merged(const at::Tensor& h, int64_t size) {
  return Fours(h, size).reshape({h.size(0), size * size / 4, 4 * h.size(2)});
}

class MergeFunction : public torch::autograd::Function<MergeFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h,
                            const at::Tensor& reduction, const at::Tensor& norm,
                            const at::Tensor& norm_bias, int64_t size, double eps) {
    context->save_for_backward({h, reduction, norm, norm_bias});
    context->saved_data["size"] = size;
    context->saved_data["eps"] = eps;
    return MergePatches(h, size, reduction, {norm, norm_bias, eps});
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &h = saved[0], &reduction = saved[1];
    const LayerNormWeights norm = {saved[2], saved[3], context->saved_data["eps"].toDouble()};
    const int64_t size = context->saved_data["size"].toInt();
    const at::Tensor dy = Rows(outer[0].contiguous());
    at::Tensor merged = Merged(h, size);
    LayerNormed normed = LayerNorm(merged, norm);
    at::Tensor dreduction;
    {
      const MemoryScope of_weight(MemoryKind::kGradients);
      dreduction = Product(dy.t(), Rows(normed.y));
    }
    at::Tensor rows = Rows(normed.y);
    ProductInto(rows, dy, reduction);  // Its gradient takes its place.
    const LayerNormGradients through = LayerNormGradient(normed.y, merged, normed, norm);
    for (at::Tensor* const done : {&merged, &normed.y, &rows}) done->reset();
    at::Tensor dh = at::empty_like(h);
    at::Tensor fours = Fours(dh, size);
    fours.copy_(through.dx.view(fours.sizes()));
    return {dh, dreduction, through.dweight, through.dbias, at::Tensor(), at::Tensor()};
  }
};

// ---- The end ----

class MeanFunction : public torch::autograd::Function<MeanFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, const at::Tensor& norm,
                            const at::Tensor& norm_bias, double eps) {
    context->save_for_backward({h, norm, norm_bias});
    context->saved_data["eps"] = eps;
    return MeanOfNormed(h, {norm, norm_bias, eps});
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& h = saved[0];
    const LayerNormWeights norm = {saved[1], saved[2], context->saved_data["eps"].toDouble()};
    LayerNormed normed = LayerNorm(h, norm);
    normed.y.reset();
    const at::Tensor dy = (outer[0] / static_cast<double>(h.size(1))).unsqueeze(1).expand_as(h);
    const LayerNormGradients through = LayerNormGradient(dy.contiguous(), h, normed, norm);
    return {through.dx, through.dweight, through.dbias, at::Tensor()};
  }
};

}  // namespace

// Within the functions of autograd gradients are off, so that these compute.

at::Tensor EmbedPatches(const at::Tensor& image, const LinearWeights& w,
                        const LayerNormWeights& norm) {
  if (at::GradMode::is_enabled()) {
    return EmbedFunction::apply(image, w.weight, w.bias, norm.weight, norm.bias, norm.eps);
  }
  return LayerNorm(Project(image, PatchesOf(image, w.weight.size(2)), w), norm).y;
}

at::Tensor MergePatches(const at::Tensor& h, int64_t size, const at::Tensor& reduction,
                        const LayerNormWeights& norm) {
  if (at::GradMode::is_enabled()) {
    return MergeFunction::apply(h, reduction, norm.weight, norm.bias, size, norm.eps);
  }
  const at::Tensor normed = LayerNorm(Merged(h, size), norm).y;
  return Product(Rows(normed), reduction.t()).view({h.size(0), -1, reduction.size(0)});
}

at::Tensor MeanOfNormed(const at::Tensor& h, const LayerNormWeights& norm) {
  if (at::GradMode::is_enabled()) {
    return MeanFunction::apply(h, norm.weight, norm.bias, norm.eps);
  }
  return LayerNorm(h, norm).y.mean(1);
}

}  // namespace sdp
