#include "worker/model/resnet.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/model/classifier.h"
#include "worker/model/residual_block.h"
#include "worker/model/resnet_stem.h"

namespace sdp {
namespace {

using Order = ResnetSpec::Order;
using Tensors = absl::Span<const at::Tensor>;

class StemStage : public Stage {
 public:
  explicit StemStage(const ResnetSpec& spec)
      : order_(spec.order), groups_(spec.norm_groups), eps_(spec.norm_eps) {
    if (spec.stem == ResnetSpec::Stem::kImagenet) {
      shape_ = {{.stride = 2, .padding = 3}, /*pooled=*/true};
    }
  }

  std::vector<WeightNames> Weights() const override {
    if (order_ == Order::kPre) return {{"conv1.weight"}};
    return {{"conv1.weight"}, {"bn1.weight"}, {"bn1.bias"}};
  }
  at::Tensor Forward(const at::Tensor& h, Tensors w, double factor) const override {
    Norms own;
    return Evaluate(h, w, factor, own);
  }
  at::Tensor Evaluate(const at::Tensor& h, Tensors w, double, Norms& norms) const override {
    const at::Tensor image = h.contiguous(ImageFormat(h));
    if (order_ == Order::kPost) {
      return PostStem(image, w[0], {w[1], w[2], groups_, eps_}, shape_, norms);
    }
    // Keeps its input, the image; and of a maximum the convolution's output and the places.
    const at::Tensor y = Convolve(image, w[0], shape_.conv);
    return shape_.pooled ? at::max_pool2d(y, {3, 3}, {2, 2}, {1, 1}) : y;
  }

 private:
  const Order order_;
  const int64_t groups_;
  const double eps_;
  StemShape shape_ = {{.stride = 1, .padding = 1}, /*pooled=*/false};
};

class BlockStage : public Stage {
 public:
  BlockStage(const ResnetSpec& spec, std::string name, int64_t stride, bool projected)
      : order_(spec.order),
        name_(std::move(name)),
        shape_{stride, spec.norm_groups, spec.norm_eps},
        projected_(projected) {}

  std::vector<WeightNames> Weights() const override {
    std::vector<WeightNames> names;
    for (const char* tensor : {".conv1.weight", ".bn1.weight", ".bn1.bias", ".conv2.weight",
                               ".bn2.weight", ".bn2.bias"}) {
      names.push_back({name_ + tensor});
    }
    if (!projected_) return names;
    names.push_back({name_ + ".downsample.0.weight"});
    if (order_ == Order::kPre) return names;
    names.push_back({name_ + ".downsample.1.weight"});
    names.push_back({name_ + ".downsample.1.bias"});
    return names;
  }
  at::Tensor Forward(const at::Tensor& h, Tensors w, double factor) const override {
    Norms own;
    return Compute(h, w, factor, own, {});
  }
  at::Tensor Train(const at::Tensor& h, Tensors w, absl::Span<const TrainedPart> parts,
                   double factor) const override {
    Norms own;
    const size_t norm = order_ == Order::kPost ? 1 : 4;  // between the convolutions
    return Compute(h, w, factor, own,
                   {.conv1 = parts[0].leaf,
                    .norm = {parts[norm].leaf, parts[norm + 1].leaf},
                    .conv2 = parts[3].leaf,
                    .channels = parts[0].ranges});
  }
  at::Tensor Evaluate(const at::Tensor& h, Tensors w, double factor, Norms& norms) const override {
    return Compute(h, w, factor, norms, {});
  }

 private:
  at::Tensor Compute(const at::Tensor& h, Tensors w, double factor, Norms& norms,
                     const BranchParts& parts) const {
    const BranchWeights branch = {w[0], {w[1], w[2]}, w[3], {w[4], w[5]}};
    ShortcutWeights shortcut;
    if (projected_) shortcut.projection = w[6];
    if (order_ == Order::kPre) return PreBlock(h, branch, shortcut, shape_, factor, norms, parts);
    if (projected_) shortcut.norm = {w[7], w[8]};
    return PostBlock(h, branch, shortcut, shape_, factor, norms, parts);
  }

  const Order order_;
  const std::string name_;
  const BlockShape shape_;
  const bool projected_;
};

class HeadStage : public LossStage {
 public:
  explicit HeadStage(const ResnetSpec& spec)
      : order_(spec.order), groups_(spec.norm_groups), eps_(spec.norm_eps) {}

  std::vector<WeightNames> Weights() const override {
    if (order_ == Order::kPost) return {{"fc.weight"}, {"fc.bias"}};
    return {{"fc.weight"}, {"fc.bias"}, {"bn.weight"}, {"bn.bias"}};
  }
  at::Tensor Loss(const at::Tensor& h, const at::Tensor& target, Tensors w,
                  double scale) const override {
    Norms own;
    return ClassifierLoss(Features(h, w, own), target, {w[0], w[1]}, scale);
  }
  Score Evaluate(const at::Tensor& h, const at::Tensor& target, Tensors w,
                 Norms& norms) const override {
    return ClassifierScore(Features(h, w, norms), target, {w[0], w[1]});
  }
  at::Tensor Logits(const at::Tensor& h, Tensors w) const override {
    Norms own;
    return ClassifierLogits(Features(h, w, own), {w[0], w[1]});
  }
  // With kPre the norm's gradient does.
  bool BackwardReadsWeights() const override { return order_ == Order::kPre; }

 private:
  at::Tensor Features(const at::Tensor& h, Tensors w, Norms& norms) const {
    const at::Tensor last =
        order_ == Order::kPost ? h : NormReluLayer(h, {w[2], w[3], groups_, eps_}, norms);
    return PositionMean(last);
  }

  const Order order_;
  const int64_t groups_;
  const double eps_;
};

}  // namespace

Network ResnetNetwork(const ResnetSpec& spec) {
  Network network;
  network.stages.push_back(std::make_unique<StemStage>(spec));
  for (size_t level = 0; level < spec.widths.size(); ++level) {
    for (int64_t index = 0; index < spec.depths[level]; ++index) {
      const bool first = level > 0 && index == 0;
      network.stages.push_back(
          std::make_unique<BlockStage>(spec, absl::StrCat("layer", level + 1, ".", index),
                                       /*stride=*/first ? 2 : 1, /*projected=*/first));
    }
  }
  network.loss = std::make_unique<HeadStage>(spec);
  network.batch_norm = spec.norm_groups == 0;
  return network;
}

}  // namespace sdp
