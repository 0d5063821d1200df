#pragma once

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/model/image_mlp.h"
#include "common/model/resnet.h"
#include "torch/autograd.h"

// The image models written down with plain differentiable torch operations, nothing shared with the
// product: the reference of its tests. Works in the type of the weights; tests use f64, so that
// differences are the product's own rounding.
namespace sdp::naive {

using Weights = std::map<std::string, at::Tensor>;  // by torchvision's names

// Of the branches by their units' names; 1 where there is none. 0 leaves a branch out.
using BranchFactors = std::map<std::string, double>;
inline double FactorOf(const BranchFactors& factors, const std::string& unit) {
  const auto found = factors.find(unit);
  return found == factors.end() ? 1 : found->second;
}

// BatchNorm's statistics by the norms' names: [C] each, and of how many batches they are the mean.
// While `learning` they become those of one more batch; else they are used. None: every batch by
// its own.
struct Statistics {
  std::map<std::string, at::Tensor> mean, variance;
  int64_t batches = 0;
  bool learning = false;
};

inline at::Tensor BatchNorm(const ResnetSpec& spec, const Weights& w, const std::string& name,
                            const at::Tensor& x, Statistics* statistics) {
  const at::Tensor flat = x.transpose(0, 1).flatten(1);  // [C, values]
  at::Tensor mean = flat.mean(1), variance = (flat - mean.view({-1, 1})).square().mean(1);
  if (statistics != nullptr && statistics->learning) {
    const auto n = static_cast<double>(flat.size(1));
    const auto learn = [&](at::Tensor& known, const at::Tensor& seen) {
      if (!known.defined()) known = at::zeros_like(seen);
      known = known + (seen - known) / static_cast<double>(statistics->batches);
    };
    learn(statistics->mean[name], mean);
    learn(statistics->variance[name], variance * (n / (n - 1)));
  } else if (statistics != nullptr) {
    mean = statistics->mean.at(name);
    variance = statistics->variance.at(name);
  }
  const auto channel = [](const at::Tensor& values) { return values.view({1, -1, 1, 1}); };
  return (x - channel(mean)) / channel((variance + spec.norm_eps).sqrt()) *
             channel(w.at(name + ".weight")) +
         channel(w.at(name + ".bias"));
}

inline at::Tensor Norm(const ResnetSpec& spec, const Weights& w, const std::string& name,
                       const at::Tensor& x, Statistics* statistics) {
  if (spec.norm_groups == 0) return BatchNorm(spec, w, name, x, statistics);
  const at::Tensor grouped = x.reshape({x.size(0), spec.norm_groups, -1});
  const at::Tensor centred = grouped - grouped.mean(-1, true);
  const at::Tensor normed =
      (centred / (centred.square().mean(-1, true) + spec.norm_eps).sqrt()).view(x.sizes());
  return normed * w.at(name + ".weight").view({1, -1, 1, 1}) +
         w.at(name + ".bias").view({1, -1, 1, 1});
}

inline at::Tensor Conv(const at::Tensor& x, const at::Tensor& weight, int64_t stride) {
  return at::conv2d(x, weight, {}, stride, weight.size(2) / 2);
}

inline at::Tensor Block(const ResnetSpec& spec, const Weights& w, const std::string& name,
                        const at::Tensor& x, double factor, Statistics* statistics) {
  const bool projected = w.contains(name + ".downsample.0.weight");
  const int64_t stride = projected ? 2 : 1;
  const auto conv = [&](const char* part, const at::Tensor& input, int64_t step) {
    return Conv(input, w.at(name + part), step);
  };
  const auto norm = [&](const char* part, const at::Tensor& input) {
    return Norm(spec, w, name + part, input, statistics);
  };
  at::Tensor shortcut = projected ? conv(".downsample.0.weight", x, stride) : x;
  if (spec.order == ResnetSpec::Order::kPre) {
    const at::Tensor hidden = conv(".conv1.weight", norm(".bn1", x).relu(), stride);
    return shortcut + factor * conv(".conv2.weight", norm(".bn2", hidden).relu(), 1);
  }
  if (projected) shortcut = norm(".downsample.1", shortcut);
  const at::Tensor hidden = norm(".bn1", conv(".conv1.weight", x, stride)).relu();
  return (shortcut + factor * norm(".bn2", conv(".conv2.weight", hidden, 1))).relu();
}

// images [B, C, size, size] -> logits [B, classes]
inline at::Tensor Logits(const ResnetSpec& spec, const Weights& w, const at::Tensor& images,
                         const BranchFactors& factors, Statistics* statistics = nullptr) {
  const bool post = spec.order == ResnetSpec::Order::kPost;
  const bool imagenet = spec.stem == ResnetSpec::Stem::kImagenet;
  at::Tensor h = Conv(images, w.at("conv1.weight"), imagenet ? 2 : 1);
  if (post) h = Norm(spec, w, "bn1", h, statistics).relu();
  if (imagenet) h = at::max_pool2d(h, 3, 2, 1);
  for (size_t level = 0; level < spec.depths.size(); ++level) {
    for (int64_t block = 0; block < spec.depths[level]; ++block) {
      const std::string name = absl::StrCat("layer", level + 1, ".", block);
      h = Block(spec, w, name, h, FactorOf(factors, name), statistics);
    }
  }
  if (!post) h = Norm(spec, w, "bn", h, statistics).relu();
  return at::matmul(h.flatten(2).mean(2), w.at("fc.weight").t()) + w.at("fc.bias");
}

inline at::Tensor Logits(const ImageMlpSpec& spec, const Weights& w, const at::Tensor& images,
                         const BranchFactors& factors) {
  const auto linear = [&](const std::string& name, const at::Tensor& x) {
    return at::matmul(x, w.at(name + ".weight").t()) + w.at(name + ".bias");
  };
  at::Tensor h = linear("stem", images.flatten(1));
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    const std::string name = absl::StrCat("layers.", layer);
    h = h + FactorOf(factors, name) * linear(name + ".fc2", linear(name + ".fc1", h).relu());
  }
  return linear("head", h);
}

// Over all images.
inline at::Tensor MeanLoss(const at::Tensor& logits, const at::Tensor& classes) {
  return -at::log_softmax(logits, -1).gather(-1, classes.unsqueeze(-1)).mean();
}

}  // namespace sdp::naive
