#include "worker/model/swin.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/model/classifier.h"
#include "worker/model/swin_branches.h"
#include "worker/model/swin_ends.h"
#include "worker/model/window_attention.h"

namespace sdp {
namespace {

using Tensors = absl::Span<const at::Tensor>;

class EmbedStage : public Stage {
 public:
  explicit EmbedStage(double eps) : eps_(eps) {}

  std::vector<WeightNames> Weights() const override {
    return {{"features.0.0.weight"},
            {"features.0.0.bias"},
            {"features.0.2.weight"},
            {"features.0.2.bias"}};
  }
  at::Tensor Forward(const at::Tensor& h, Tensors w, double) const override {
    return EmbedPatches(h, {w[0], w[1]}, {w[2], w[3], eps_});
  }

 private:
  const double eps_;
};

class AttentionStage : public Stage {
 public:
  AttentionStage(std::string prefix, std::shared_ptr<const Windows> windows, int64_t head_dim,
                 double eps)
      : prefix_(std::move(prefix)), windows_(std::move(windows)), head_dim_(head_dim), eps_(eps) {}

  std::vector<WeightNames> Weights() const override {
    std::vector<WeightNames> names;
    for (const char* const name :
         {"norm1.weight", "norm1.bias", "attn.relative_position_bias_table", "attn.qkv.weight",
          "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias"}) {
      names.push_back({prefix_ + name});
    }
    return names;
  }
  at::Tensor Forward(const at::Tensor& h, Tensors w, double factor) const override {
    return Compute(h, w, factor, {});
  }
  at::Tensor Train(const at::Tensor& h, Tensors w, absl::Span<const TrainedPart> parts,
                   double factor) const override {
    return Compute(h, w, factor,
                   {.table = parts[2], .qkv = parts[3], .qkv_bias = parts[4], .proj = parts[5]});
  }

 private:
  at::Tensor Compute(const at::Tensor& h, Tensors w, double factor,
                     const WindowAttentionParts& parts) const {
    const LayerNormWeights norm = {w[0], w[1], eps_};
    if (!w[3].defined()) return BiasAlone(h, norm, w[6]);  // No head is here.
    return WindowAttentionBranch(h, {norm, w[2], {w[3], w[4]}, {w[5], w[6]}}, *windows_, head_dim_,
                                 factor, parts);
  }

  const std::string prefix_;
  const std::shared_ptr<const Windows> windows_;
  const int64_t head_dim_;
  const double eps_;
};

class MlpStage : public Stage {
 public:
  MlpStage(std::string prefix, double eps) : prefix_(std::move(prefix)), eps_(eps) {}

  std::vector<WeightNames> Weights() const override {
    std::vector<WeightNames> names;
    for (const char* const name :
         {"norm2.weight", "norm2.bias", "mlp.0.weight", "mlp.0.bias", "mlp.3.weight", "mlp.3.bias"})
      names.push_back({prefix_ + name});
    return names;
  }
  at::Tensor Forward(const at::Tensor& h, Tensors w, double factor) const override {
    return Compute(h, w, factor, {});
  }
  at::Tensor Train(const at::Tensor& h, Tensors w, absl::Span<const TrainedPart> parts,
                   double factor) const override {
    return Compute(h, w, factor, {.fc1 = parts[2], .fc1_bias = parts[3], .fc2 = parts[4]});
  }

 private:
  at::Tensor Compute(const at::Tensor& h, Tensors w, double factor,
                     const GeluMlpParts& parts) const {
    const LayerNormWeights norm = {w[0], w[1], eps_};
    if (!w[2].defined()) return BiasAlone(h, norm, w[5]);  // No neuron is here.
    return GeluMlpBranch(h, {norm, {w[2], w[3]}, {w[4], w[5]}}, factor, parts);
  }

  const std::string prefix_;
  const double eps_;
};

class MergeStage : public Stage {
 public:
  MergeStage(std::string prefix, int64_t size, double eps)
      : prefix_(std::move(prefix)), size_(size), eps_(eps) {}

  std::vector<WeightNames> Weights() const override {
    return {{prefix_ + "reduction.weight"}, {prefix_ + "norm.weight"}, {prefix_ + "norm.bias"}};
  }
  at::Tensor Forward(const at::Tensor& h, Tensors w, double) const override {
    return MergePatches(h, size_, w[0], {w[1], w[2], eps_});
  }

 private:
  const std::string prefix_;
  const int64_t size_;
  const double eps_;
};

class HeadStage : public LossStage {
 public:
  explicit HeadStage(double eps) : eps_(eps) {}

  std::vector<WeightNames> Weights() const override {
    return {{"norm.weight"}, {"norm.bias"}, {"head.weight"}, {"head.bias"}};
  }
  at::Tensor Loss(const at::Tensor& h, const at::Tensor& target, Tensors w,
                  double scale) const override {
    return ClassifierLoss(Features(h, w), target, {w[2], w[3]}, scale);
  }
  Score Evaluate(const at::Tensor& h, const at::Tensor& target, Tensors w, Norms&) const override {
    return ClassifierScore(Features(h, w), target, {w[2], w[3]});
  }
  at::Tensor Logits(const at::Tensor& h, Tensors w) const override {
    return ClassifierLogits(Features(h, w), {w[2], w[3]});
  }

 private:
  at::Tensor Features(const at::Tensor& h, Tensors w) const {
    return MeanOfNormed(h, {w[0], w[1], eps_});
  }

  const double eps_;
};

// Those of the blocks of a level: not shifted, shifted.
std::shared_ptr<const Windows> WindowsOf(const SwinSpec& spec, size_t level, int64_t block,
                                         at::Device device) {
  return std::make_shared<const Windows>(spec.size(level), spec.window, spec.shift(level, block),
                                         device);
}

}  // namespace

Network SwinNetwork(const SwinSpec& spec, at::Device device) {
  Network network;
  network.stages.push_back(std::make_unique<EmbedStage>(spec.norm_eps));
  for (size_t level = 0; level < spec.depths.size(); ++level) {
    const std::shared_ptr<const Windows> windows[] = {WindowsOf(spec, level, 0, device),
                                                      WindowsOf(spec, level, 1, device)};
    for (int64_t block = 0; block < spec.depths[level]; ++block) {
      const std::string prefix = absl::StrCat("features.", 2 * level + 1, ".", block, ".");
      network.stages.push_back(std::make_unique<AttentionStage>(
          prefix, windows[block % 2], spec.width(level) / spec.heads[level], spec.norm_eps));
      network.stages.push_back(std::make_unique<MlpStage>(prefix, spec.norm_eps));
    }
    if (level + 1 == spec.depths.size()) break;
    network.stages.push_back(std::make_unique<MergeStage>(
        absl::StrCat("features.", 2 * level + 2, "."), spec.size(level), spec.norm_eps));
  }
  network.loss = std::make_unique<HeadStage>(spec.norm_eps);
  return network;
}

}  // namespace sdp
