#include "worker/model/image_mlp.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/model/classifier.h"

// Of LibTorch's own operations: a linear map keeps its input and ReLU its output, which is the next
// map's input, so nothing is kept that a gradient does not need.
namespace sdp {
namespace {

using Tensors = absl::Span<const at::Tensor>;

at::Tensor Linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return at::addmm(bias, x, weight.t());
}

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
    return at::add(h, Linear(at::relu(Linear(h, w[0], w[1])), w[2], w[3]), factor);
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
