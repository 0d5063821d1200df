#include "worker/model/recompute.h"

#include <utility>
#include <vector>

#include "torch/autograd.h"

namespace sdp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What to do again. Autograd takes no undefined tensors: it is given the weights that are here,
// each followed by its part's leaf where a part is trained.
struct Recipe : torch::CustomClassHolder {
  const Stage* stage = nullptr;
  double factor = 1;
  // [weights]
  std::vector<bool> here;
  std::vector<Ranges> trained;  // empty: not a part

  at::Tensor Train(const at::Tensor& h, at::TensorList given) const {
    std::vector<at::Tensor> weights(here.size());
    std::vector<TrainedPart> parts(here.size());
    size_t next = 0;
    for (size_t i = 0; i < here.size(); ++i) {
      if (here[i]) weights[i] = given[next++];
      if (!trained[i].empty()) parts[i] = {given[next++], trained[i]};
    }
    return stage->Train(h, weights, parts, factor);
  }
};

// Shares its memory, so that it goes when that of the tensor does; a graph begins here.
at::Tensor Leaf(const at::Tensor& tensor) {
  return tensor.detach().requires_grad_(tensor.requires_grad());
}

class RecomputeFunction : public torch::autograd::Function<RecomputeFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, at::TensorList given,
                            const c10::intrusive_ptr<Recipe>& recipe) {
    variable_list saved = {h};
    saved.insert(saved.end(), given.begin(), given.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["recipe"] = c10::IValue::make_capsule(recipe);
    return recipe->Train(h, given);
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    variable_list leaves;  // h and what was given
    for (const at::Tensor& saved : context->get_saved_variables()) leaves.push_back(Leaf(saved));
    const auto capsule = context->saved_data["recipe"].toCapsule();
    at::Tensor y;
    {
      const at::AutoGradMode with_graph(true);
      y = static_cast<const Recipe&>(*capsule).Train(leaves[0], at::TensorList(leaves).slice(1));
    }
    variable_list wanted;
    for (const at::Tensor& leaf : leaves) {
      if (leaf.requires_grad()) wanted.push_back(leaf);
    }
    variable_list made = torch::autograd::grad({y}, wanted, {outer[0]});
    variable_list gradients;
    size_t next = 0;
    for (const at::Tensor& leaf : leaves)
      gradients.push_back(leaf.requires_grad() ? std::move(made[next++]) : at::Tensor());
    gradients.emplace_back();  // The recipe has none.
    return gradients;
  }
};

}  // namespace

at::Tensor RecomputedTrain(const Stage& stage, const at::Tensor& h,
                           absl::Span<const at::Tensor> weights,
                           absl::Span<const TrainedPart> parts, double factor) {
  auto recipe = c10::make_intrusive<Recipe>();
  recipe->stage = &stage;
  recipe->factor = factor;
  std::vector<at::Tensor> given;
  for (size_t i = 0; i < weights.size(); ++i) {
    recipe->here.push_back(weights[i].defined());
    recipe->trained.push_back(parts[i].ranges);
    if (weights[i].defined()) given.push_back(weights[i]);
    if (parts[i].leaf.defined()) given.push_back(parts[i].leaf);
  }
  return RecomputeFunction::apply(h, at::TensorList(given), recipe);
}

}  // namespace sdp
