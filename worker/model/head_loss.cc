#include "worker/model/head_loss.h"

#include <algorithm>
#include <vector>

#include "common/base/allocated.h"
#include "torch/autograd.h"
#include "worker/model/matrix.h"
#include "worker/model/row_ops.h"

namespace sdp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Gradients {
  at::Tensor h, norm, projection;
};

// Per chunk [chunk] f32; the order of addition is part of a run's bits.
double SumOfLosses(const std::vector<at::Tensor>& losses) {
  double sum = 0;
  for (const at::Tensor& chunk : losses) sum += SumInOrder(chunk);
  return sum;
}

// The unscaled sum of losses. Fills `gradients`, scaled, unless it is null: of h, and of weights
// that require one.
double Compute(const at::Tensor& h, const at::Tensor& target, const HeadWeights& w, double eps,
               double scale, int64_t chunk, Gradients* gradients) {
  const at::Tensor rows = Rows(h);
  const at::Tensor targets = target.reshape({-1});
  if (gradients != nullptr) {
    // Sums over chunks are f32 whatever the type.
    const at::TensorOptions sums = h.options().dtype(at::kFloat);
    gradients->h = at::empty_like(h);
    const MemoryScope of_weights(MemoryKind::kGradients);
    if (w.norm.requires_grad()) gradients->norm = at::zeros(w.norm.sizes(), sums);
    if (w.projection.requires_grad()) gradients->projection = at::empty(w.projection.sizes(), sums);
  }
  const at::ScalarType type = h.scalar_type();
  std::vector<at::Tensor> losses;
  for (int64_t begin = 0; begin < rows.size(0); begin += chunk) {
    const int64_t n = std::min(chunk, rows.size(0) - begin);
    const at::Tensor part = rows.narrow(0, begin, n);
    Normed normed = RmsNorm(part, w.norm, eps);
    at::Tensor logits = Product(normed.y, w.projection.t()).to(at::kFloat);  // [n, V]
    losses.push_back(SoftmaxLoss(logits, targets.narrow(0, begin, n)));
    if (gradients == nullptr) continue;
    const at::Tensor dlogits = logits.to(type);
    if (gradients->projection.defined()) {
      AccumulateProduct(gradients->projection, dlogits.t(), normed.y, scale,
                        begin == 0 ? Sum::kFresh : Sum::kContinued);
    }
    const at::Tensor dnormed = ScaledProduct(dlogits, w.projection, scale);
    const RmsNormGradients through =
        RmsNormGradient(dnormed, part, w.norm, normed.rstd, at::Tensor());
    Rows(gradients->h).narrow(0, begin, n).copy_(through.dx);
    if (gradients->norm.defined()) gradients->norm.add_(through.dweight);
  }
  if (gradients != nullptr) {
    const MemoryScope of_weights(MemoryKind::kGradients);
    for (at::Tensor* sum : {&gradients->norm, &gradients->projection}) {
      if (sum->defined()) *sum = sum->to(type);
    }
  }
  return SumOfLosses(losses);
}

class HeadLossFunction : public torch::autograd::Function<HeadLossFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, const at::Tensor& target,
                            const at::Tensor& norm, const at::Tensor& projection, double eps,
                            double scale, int64_t chunk) {
    Gradients gradients;
    const double sum = Compute(h, target, {norm, projection}, eps, scale, chunk, &gradients);
    context->save_for_backward({gradients.h, gradients.norm, gradients.projection});
    return at::scalar_tensor(scale * sum, at::kDouble);
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    variable_list saved = context->get_saved_variables();
    const double factor = outer[0].item<double>();
    if (factor != 1) {
      for (at::Tensor& gradient : saved) {
        if (gradient.defined()) gradient.mul_(factor);
      }
    }
    return {saved[0], at::Tensor(), saved[1], saved[2], at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor HeadLoss(const at::Tensor& h, const at::Tensor& target, const HeadWeights& weights,
                    double norm_eps, double scale, int64_t chunk) {
  if (!at::GradMode::is_enabled()) {
    const double sum = Compute(h, target, weights, norm_eps, scale, chunk, nullptr);
    return at::scalar_tensor(scale * sum, at::kDouble);
  }
  return HeadLossFunction::apply(h, target, weights.norm, weights.projection, norm_eps, scale,
                                 chunk);
}

at::Tensor HeadLogits(const at::Tensor& h, const HeadWeights& weights, double norm_eps) {
  return at::mm(Rows(RmsNorm(h, weights.norm, norm_eps).y), weights.projection.t());
}

}  // namespace sdp
