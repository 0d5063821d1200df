#include "worker/model/residual_block.h"

#include <optional>
#include <utility>

#include "torch/autograd.h"
#include "worker/model/image_ops.h"

namespace sdp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr ConvShape kThree{.stride = 1, .padding = 1};
constexpr int64_t kOutputs = 0, kInputs = 1;  // dimensions of a convolution's weight

ConvShape First(const BlockShape& shape) { return {.stride = shape.stride, .padding = 1}; }
ConvShape Projection(const BlockShape& shape) { return {.stride = shape.stride, .padding = 0}; }

ImageNormWeights Norm(const NormPair& pair, const BlockShape& shape) {
  return {pair.weight, pair.bias, shape.norm_groups, shape.norm_eps};
}

// The norm between the convolutions, of n of c channels: as many to a group as where all are here.
BlockShape Inner(BlockShape shape, const BranchWeights& branch) {
  shape.norm_groups = shape.norm_groups * branch.conv2.size(1) / branch.conv2.size(0);
  return shape;
}

// relu(norm(x)), with the norm's statistics.
ImageNormed NormRelu(const at::Tensor& x, const ImageNormWeights& norm, Norms& norms) {
  ImageNormed normed = norms(x, norm);
  normed.y.relu_();
  return normed;
}

// What a block is given beside its input; its gradients have the same form.
struct Weights {
  BranchWeights branch;
  ShortcutWeights shortcut;

  Weights() = default;
  Weights(const BranchWeights& b, const ShortcutWeights& s) : branch(b), shortcut(s) {}
  // In the order of List().
  explicit Weights(const at::Tensor* list)
      : branch{list[0], {list[1], list[2]}, list[3], {list[4], list[5]}},
        shortcut{list[6], {list[7], list[8]}} {}
  static constexpr size_t kCount = 9;
  variable_list List() const {
    return {branch.conv1,        branch.norm1.weight,  branch.norm1.bias,
            branch.conv2,        branch.norm2.weight,  branch.norm2.bias,
            shortcut.projection, shortcut.norm.weight, shortcut.norm.bias};
  }
};

struct Forward {
  at::Tensor y;
  variable_list kept;  // beside x and the weights
};

// The gradients of the last convolution's input and weight go on through relu(norm(x)), which is
// made anew: returns the gradient of x. Each tensor goes when it has been used. `part`: what is
// trained of the convolution, and of the norm if that is of the same channels.
at::Tensor ThroughConvAndNorm(at::Tensor dy, const at::Tensor& x, const at::Tensor& conv,
                              const NormPair& norm, ConvShape conv_shape, const BlockShape& shape,
                              const ConvPart& part, at::Tensor* dconv, NormPair* dnorm) {
  Norms own;
  ImageNormed hidden = NormRelu(x, Norm(norm, shape), own);
  ConvGradients through =
      ConvolveGradient(dy, hidden.y, conv, conv_shape, Of::kInputAndWeight, part);
  dy.reset();
  *dconv = std::move(through.dweight);
  ReluGradientInto(through.dx, hidden.y);
  hidden.y.reset();
  ImageNormGradients gradients =
      ImageNormGradient(through.dx, x, hidden.mean, hidden.rstd, Norm(norm, shape),
                        part.dim == kInputs ? part.channels : Ranges());
  *dnorm = {std::move(gradients.dweight), std::move(gradients.dbias)};
  return gradients.dx;
}

// ---- Activation after the sum ----

struct Post {
  enum Kept { kY, kA1, kA2, kAp, kMean2, kRstd2, kMeanP, kRstdP };  // a: outputs of convolutions
  static NormPair& InnerNorm(BranchWeights& branch) { return branch.norm1; }

  static Forward Compute(const at::Tensor& x, const Weights& w, const BlockShape& shape,
                         double factor, Norms& norms) {
    ImageNormed shortcut, branch;
    at::Tensor ap, a1, a2;
    if (w.shortcut.projection.defined()) {
      ap = Convolve(x, w.shortcut.projection, Projection(shape));
      shortcut = norms(ap, Norm(w.shortcut.norm, shape));
    }
    at::Tensor y;
    if (w.branch.conv1.defined()) {
      const ImageNormWeights inner = Norm(w.branch.norm1, Inner(shape, w.branch));
      a1 = Convolve(x, w.branch.conv1, First(shape));
      a2 = Convolve(NormRelu(a1, inner, norms).y, w.branch.conv2, kThree);
      branch = norms(a2, Norm(w.branch.norm2, shape));
      y = branch.y;
      at::add_out(y, ap.defined() ? shortcut.y : x, branch.y, factor);
    } else if (w.branch.norm2.bias.defined()) {
      y = at::add(ap.defined() ? shortcut.y : x, w.branch.norm2.bias.view({-1, 1, 1}), factor);
    } else {
      y = shortcut.y;
    }
    y.relu_();
    return {y, {y, a1, a2, ap, branch.mean, branch.rstd, shortcut.mean, shortcut.rstd}};
  }

  static at::Tensor Gradient(const at::Tensor& dy, const at::Tensor& x, const Weights& w,
                             const at::Tensor* kept, const BlockShape& shape, double factor,
                             const Ranges& held, Weights* d) {
    const at::Tensor dsum = ReluGradient(dy, kept[kY]);
    at::Tensor dx;
    if (w.branch.conv1.defined()) {
      ImageNormGradients norm = ImageNormGradient(dsum * factor, kept[kA2], kept[kMean2],
                                                  kept[kRstd2], Norm(w.branch.norm2, shape));
      d->branch.norm2 = {std::move(norm.dweight), std::move(norm.dbias)};
      ConvGradients conv =
          ConvolveGradient(ThroughConvAndNorm(std::move(norm.dx), kept[kA1], w.branch.conv2,
                                              w.branch.norm1, kThree, Inner(shape, w.branch),
                                              {kInputs, held}, &d->branch.conv2, &d->branch.norm1),
                           x, w.branch.conv1, First(shape), Of::kInputAndWeight, {kOutputs, held});
      d->branch.conv1 = std::move(conv.dweight);
      dx = std::move(conv.dx);
    } else if (w.branch.norm2.bias.defined()) {
      d->branch.norm2.bias = dsum.sum({0, 2, 3}) * factor;
    }
    if (!w.shortcut.projection.defined()) return dx.defined() ? dx.add_(dsum) : dsum;
    ImageNormGradients norm = ImageNormGradient(dsum, kept[kAp], kept[kMeanP], kept[kRstdP],
                                                Norm(w.shortcut.norm, shape));
    d->shortcut.norm = {std::move(norm.dweight), std::move(norm.dbias)};
    ConvGradients conv = ConvolveGradient(norm.dx, x, w.shortcut.projection, Projection(shape));
    d->shortcut.projection = std::move(conv.dweight);
    return dx.defined() ? dx.add_(conv.dx) : conv.dx;
  }
};

// ---- Activation before the convolutions ----

struct Pre {
  enum Kept { kA1 };
  static NormPair& InnerNorm(BranchWeights& branch) { return branch.norm2; }

  static Forward Compute(const at::Tensor& x, const Weights& w, const BlockShape& shape,
                         double factor, Norms& norms) {
    const at::Tensor base =
        w.shortcut.projection.defined() ? Convolve(x, w.shortcut.projection, Projection(shape)) : x;
    if (!w.branch.conv1.defined()) return {base, {at::Tensor()}};
    at::Tensor a1 =
        Convolve(NormRelu(x, Norm(w.branch.norm1, shape), norms).y, w.branch.conv1, First(shape));
    const ImageNormWeights inner = Norm(w.branch.norm2, Inner(shape, w.branch));
    at::Tensor y = Convolve(NormRelu(a1, inner, norms).y, w.branch.conv2, kThree);
    at::add_out(y, base, y, factor);
    return {y, {a1}};
  }

  static at::Tensor Gradient(const at::Tensor& dy, const at::Tensor& x, const Weights& w,
                             const at::Tensor* kept, const BlockShape& shape, double factor,
                             const Ranges& held, Weights* d) {
    at::Tensor dx;
    if (w.branch.conv1.defined()) {
      at::Tensor da1 = ThroughConvAndNorm(dy * factor, kept[kA1], w.branch.conv2, w.branch.norm2,
                                          kThree, Inner(shape, w.branch), {kInputs, held},
                                          &d->branch.conv2, &d->branch.norm2);
      dx = ThroughConvAndNorm(std::move(da1), x, w.branch.conv1, w.branch.norm1, First(shape),
                              shape, {kOutputs, held}, &d->branch.conv1, &d->branch.norm1);
    }
    if (!w.shortcut.projection.defined()) return dx.add_(dy);
    ConvGradients conv = ConvolveGradient(dy, x, w.shortcut.projection, Projection(shape));
    d->shortcut.projection = std::move(conv.dweight);
    return dx.defined() ? dx.add_(conv.dx) : conv.dx;
  }
};

// ---- Both, as a function of autograd ----

// Autograd takes no undefined tensor.
using MaybeTensor = std::optional<at::Tensor>;
MaybeTensor Maybe(const at::Tensor& tensor) {
  return tensor.defined() ? MaybeTensor(tensor) : std::nullopt;
}

template <typename Kind>
class BlockFunction : public torch::autograd::Function<BlockFunction<Kind>> {
  static constexpr size_t kArguments = 1 + Weights::kCount + 4 + 5;

 public:
  // The four last tensors are the leaves of BranchParts.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const MaybeTensor& conv1,
                            const MaybeTensor& norm1, const MaybeTensor& bias1,
                            const MaybeTensor& conv2, const MaybeTensor& norm2,
                            const MaybeTensor& bias2, const MaybeTensor& projection,
                            const MaybeTensor& norm_p, const MaybeTensor& bias_p,
                            const MaybeTensor&, const MaybeTensor&, const MaybeTensor&,
                            const MaybeTensor&, const Ranges& held, int64_t stride, int64_t groups,
                            double eps, double factor) {
    variable_list saved;
    for (const MaybeTensor* const weight :
         {&conv1, &norm1, &bias1, &conv2, &norm2, &bias2, &projection, &norm_p, &bias_p}) {
      saved.push_back(weight->value_or(at::Tensor()));
    }
    Norms own;
    Forward f = Kind::Compute(x, Weights(saved.data()), {stride, groups, eps}, factor, own);
    saved.push_back(x);
    saved.insert(saved.end(), f.kept.begin(), f.kept.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["held"] = held;
    context->saved_data["stride"] = stride;
    context->saved_data["groups"] = groups;
    context->saved_data["eps"] = eps;
    context->saved_data["factor"] = factor;
    return f.y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    const variable_list saved = context->get_saved_variables();
    const BlockShape shape = {context->saved_data["stride"].toInt(),
                              context->saved_data["groups"].toInt(),
                              context->saved_data["eps"].toDouble()};
    const Ranges held = context->saved_data["held"].toIntVector();
    Weights d;
    const at::Tensor dx =
        Kind::Gradient(outer[0].contiguous(ImageFormat(outer[0])), saved[Weights::kCount],
                       Weights(saved.data()), saved.data() + Weights::kCount + 1, shape,
                       context->saved_data["factor"].toDouble(), held, &d);
    variable_list parts;
    if (!held.empty()) parts = TakeParts(Kind::InnerNorm(d.branch), d.branch);
    variable_list gradients = {dx};
    for (at::Tensor& gradient : d.List()) {
      // A norm's, beside a branch of which no channel is here.
      const at::Tensor& weight = saved[gradients.size() - 1];
      if (!gradient.defined() && weight.defined() && weight.requires_grad()) {
        gradient = at::zeros_like(weight);
      }
      gradients.push_back(std::move(gradient));
    }
    gradients.insert(gradients.end(), parts.begin(), parts.end());
    gradients.resize(kArguments);  // The numbers have none.
    return gradients;
  }

  static at::Tensor Run(const at::Tensor& x, const Weights& w, const BlockShape& shape,
                        double factor, Norms& norms, const BranchParts& parts) {
    if (!at::GradMode::is_enabled()) return Kind::Compute(x, w, shape, factor, norms).y;
    const BranchWeights& b = w.branch;
    const ShortcutWeights& s = w.shortcut;
    return BlockFunction::apply(x, Maybe(b.conv1), Maybe(b.norm1.weight), Maybe(b.norm1.bias),
                                Maybe(b.conv2), Maybe(b.norm2.weight), Maybe(b.norm2.bias),
                                Maybe(s.projection), Maybe(s.norm.weight), Maybe(s.norm.bias),
                                Maybe(parts.conv1), Maybe(parts.norm.weight),
                                Maybe(parts.norm.bias), Maybe(parts.conv2), parts.channels,
                                shape.stride, shape.norm_groups, shape.norm_eps, factor);
  }

 private:
  // The gradients of parts, in the order of forward's; they are not those of whole weights.
  static variable_list TakeParts(NormPair& norm, BranchWeights& d) {
    variable_list parts;
    for (at::Tensor* const part : {&d.conv1, &norm.weight, &norm.bias, &d.conv2})
      parts.push_back(std::exchange(*part, at::Tensor()));
    return parts;
  }
};

}  // namespace

at::Tensor PostBlock(const at::Tensor& x, const BranchWeights& branch,
                     const ShortcutWeights& shortcut, const BlockShape& shape, double factor,
                     Norms& norms, const BranchParts& parts) {
  return BlockFunction<Post>::Run(x, Weights(branch, shortcut), shape, factor, norms, parts);
}

at::Tensor PreBlock(const at::Tensor& x, const BranchWeights& branch,
                    const ShortcutWeights& shortcut, const BlockShape& shape, double factor,
                    Norms& norms, const BranchParts& parts) {
  return BlockFunction<Pre>::Run(x, Weights(branch, shortcut), shape, factor, norms, parts);
}

}  // namespace sdp
