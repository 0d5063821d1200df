#include "worker/model/classifier.h"

#include "common/base/allocated.h"
#include "torch/autograd.h"
#include "worker/model/row_ops.h"

namespace sdp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class ClassifierFunction : public torch::autograd::Function<ClassifierFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& target,
                            const at::Tensor& weight, const at::Tensor& bias, double scale) {
    at::Tensor logits = ClassifierLogits(x, {weight, bias});
    const double sum = SumInOrder(SoftmaxLoss(logits, target));
    logits.mul_(scale);  // Its gradient by now.
    const at::Tensor dx = at::mm(logits, weight);
    const MemoryScope of_weights(MemoryKind::kGradients);
    context->save_for_backward({dx, at::mm(logits.t(), x), logits.sum(0)});
    return at::scalar_tensor(scale * sum, at::kDouble);
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    variable_list saved = context->get_saved_variables();
    const double factor = outer[0].item<double>();
    if (factor != 1) {
      for (at::Tensor& gradient : saved) gradient.mul_(factor);
    }
    return {saved[0], at::Tensor(), saved[1], saved[2], at::Tensor()};
  }
};

}  // namespace

at::Tensor ClassifierLoss(const at::Tensor& x, const at::Tensor& target,
                          const ClassifierWeights& weights, double scale) {
  if (!at::GradMode::is_enabled()) {
    const LossStage::Score score = ClassifierScore(x, target, weights);
    return at::scalar_tensor(scale * score.loss_sum, at::kDouble);
  }
  return ClassifierFunction::apply(x, target, weights.weight, weights.bias, scale);
}

LossStage::Score ClassifierScore(const at::Tensor& x, const at::Tensor& target,
                                 const ClassifierWeights& weights) {
  at::Tensor logits = ClassifierLogits(x, weights);
  const int64_t correct = logits.argmax(1).eq(target).sum().item<int64_t>();
  return {SumInOrder(SoftmaxLoss(logits, target)), correct};
}

at::Tensor ClassifierLogits(const at::Tensor& x, const ClassifierWeights& weights) {
  return at::addmm(weights.bias, x, weights.weight.t());
}

}  // namespace sdp
