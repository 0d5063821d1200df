#include "worker/model/embedding.h"

#include "common/base/allocated.h"
#include "torch/autograd.h"
#include "worker/model/row_ops.h"

namespace sdp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class EmbeddingFunction : public torch::autograd::Function<EmbeddingFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& weight,
                            const at::Tensor& tokens) {
    context->save_for_backward({tokens});
    context->saved_data["vocab"] = weight.size(0);
    return at::embedding(weight, tokens);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor tokens = context->get_saved_variables()[0];
    const int64_t vocab = context->saved_data["vocab"].toInt();
    const MemoryScope gradient(MemoryKind::kGradients);
    return {EmbeddingGradient(gradients[0].contiguous(), tokens, vocab), at::Tensor()};
  }
};

}  // namespace

at::Tensor Embedding(const at::Tensor& weight, const at::Tensor& tokens) {
  if (!at::GradMode::is_enabled()) return at::embedding(weight, tokens);
  return EmbeddingFunction::apply(weight, tokens);
}

}  // namespace sdp
