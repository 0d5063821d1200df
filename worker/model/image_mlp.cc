#include "worker/model/image_mlp.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/allocated.h"
#include "torch/autograd.h"
#include "worker/model/classifier.h"
#include "worker/model/matrix.h"

namespace sdp {
namespace {

using Tensors = absl::Span<const at::Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor Linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return at::addmm(bias, x, weight.t());
}

// h + factor * fc2(relu(fc1(h))). Keeps what ReLU makes of the neurons, and h where fc1 is trained,
// if only in part.
class LayerFunction : public torch::autograd::Function<LayerFunction> {
  static constexpr size_t kArguments = 10;
  enum Input : size_t { kH, kFc1, kBias1, kFc2, kBias2 };

 public:
  // The first five tensors have gradients: of a weight of which some neurons are trained that
  // part's leaf. `held`: those neurons.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h,
                            const at::Tensor& fc1_or_part, const at::Tensor&, const at::Tensor&,
                            const at::Tensor& bias2, const at::Tensor& fc1, const at::Tensor& bias1,
                            const at::Tensor& fc2, const Ranges& held, double factor) {
    const at::Tensor hidden = Linear(h, fc1, bias1).relu_();
    context->save_for_backward({fc1_or_part.requires_grad() ? h : at::Tensor(), hidden, fc1, fc2});
    context->saved_data["held"] = held;
    context->saved_data["factor"] = factor;
    return at::add(h, Linear(hidden, fc2, bias2), factor);
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &h = saved[0], &hidden = saved[1], &fc1 = saved[2], &fc2 = saved[3];
    const Ranges held = context->saved_data["held"].toIntVector();
    const double factor = context->saved_data["factor"].toDouble();
    variable_list d(kArguments);
    if (context->needs_input_grad(kBias2)) {
      d[kBias2] = outer[0].sum(0);
      if (factor != 1) d[kBias2].mul_(factor);
    }
    if (context->needs_input_grad(kFc2)) {
      const at::Tensor x = Select(hidden, 1, held);
      const MemoryScope gradient(MemoryKind::kGradients);
      d[kFc2] = ScaledProduct(outer[0].t(), x, factor);
    }
    const at::Tensor dneurons =
        at::threshold_backward(ScaledProduct(outer[0], fc2, factor), hidden, 0);
    d[kH] = at::addmm(outer[0], dneurons, fc1);
    if (!context->needs_input_grad(kFc1)) return d;
    const at::Tensor dheld = Select(dneurons, 1, held);
    const MemoryScope of_weights(MemoryKind::kGradients);
    d[kFc1] = at::mm(dheld.t(), h);
    d[kBias1] = dheld.sum(0);
    return d;
  }
};

class StemStage : public Stage {
 public:
  std::vector<WeightNames> Weights() const override { return {{"stem.weight"}, {"stem.bias"}}; }
  at::Tensor Forward(const at::Tensor& h, Tensors w, double) const override {
    return Linear(h.flatten(1), w[0], w[1]);
  }
  bool BackwardReadsWeights() const override { return false; }  // The pixels have no gradient.
};

class LayerStage : public Stage {
 public:
  explicit LayerStage(int64_t layer) : name_(absl::StrCat("layers.", layer)) {}

  std::vector<WeightNames> Weights() const override {
    return {{name_ + ".fc1.weight"},
            {name_ + ".fc1.bias"},
            {name_ + ".fc2.weight"},
            {name_ + ".fc2.bias"}};
  }
  at::Tensor Forward(const at::Tensor& h, Tensors w, double factor) const override {
    return at::add(h, Linear(Linear(h, w[0], w[1]).relu_(), w[2], w[3]), factor);
  }
  at::Tensor Train(const at::Tensor& h, Tensors w, absl::Span<const TrainedPart> parts,
                   double factor) const override {
    if (!w[0].defined()) return at::add(h, w[3], factor);  // None of its neurons is here.
    return LayerFunction::apply(h, GradientOf(w[0], parts[0].leaf), GradientOf(w[1], parts[1].leaf),
                                GradientOf(w[2], parts[2].leaf), w[3], w[0], w[1], w[2],
                                parts[0].ranges, factor);
  }

 private:
  const std::string name_;
};

class HeadStage : public LossStage {
 public:
  std::vector<WeightNames> Weights() const override { return {{"head.weight"}, {"head.bias"}}; }
  at::Tensor Loss(const at::Tensor& h, const at::Tensor& target, Tensors w,
                  double scale) const override {
    return ClassifierLoss(h, target, {w[0], w[1]}, scale);
  }
  Score Evaluate(const at::Tensor& h, const at::Tensor& target, Tensors w, Norms&) const override {
    return ClassifierScore(h, target, {w[0], w[1]});
  }
  at::Tensor Logits(const at::Tensor& h, Tensors w) const override {
    return ClassifierLogits(h, {w[0], w[1]});
  }
  bool BackwardReadsWeights() const override { return false; }  // Gradients come with the loss.
};

}  // namespace

Network ImageMlpNetwork(const ImageMlpSpec& spec) {
  Network network;
  network.stages.push_back(std::make_unique<StemStage>());
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    network.stages.push_back(std::make_unique<LayerStage>(layer));
  }
  network.loss = std::make_unique<HeadStage>();
  return network;
}

}  // namespace sdp
