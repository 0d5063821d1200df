#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ATen/ATen.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/model/norms.h"
#include "worker/model/ranges.h"

// What an architecture gives to TorchModel: functions from one boundary activation to the next, a
// loss, and how samples become tensors. Legend: B samples of the micro-batch, L tokens, d width, C
// channels; boundary activations are [B, L, d] (LLaMA, Swin) or [B, C, height, width] (ResNet), in
// the type of the weights. Threads: all const; shared freely.   Errors: c10::Error, which
// TorchModel converts.
namespace sdp {

// A weight as a stage reads it: the catalog's tensors of these names stacked along dimension 0 in
// one contiguous slim tensor, so that one matrix product serves them all. Most weights are a single
// tensor.
using WeightNames = std::vector<std::string>;

// What is trained of a weight of which a stage also reads units that are not held (backward masking
// of parts of branches). Such a weight requires no gradient itself.
struct TrainedPart {
  // Has the shape of the part, and its gradient, but no memory of its own: its values mean nothing.
  // Undefined: the weight is trained as a whole, if it requires a gradient, or not at all.
  at::Tensor leaf;
  // The part's indices along the dimension in which units divide the weight.
  Ranges ranges;
};

// What a stage keeps of a sequence's earlier tokens while the sequence grows.
struct KeyValueCache {
  at::Tensor keys, values;  // [1, K, positions, e], keys rotated; undefined before the first token
  int64_t length = 0;       // positions that are filled
};

// One stage of the catalog's walk. Owns no parameters.
class Stage {
 public:
  virtual ~Stage() = default;
  // The weights that Forward expects, in this order.
  virtual std::vector<WeightNames> Weights() const = 0;
  // The next boundary activation; differentiable in h and weights. A residual stage returns h +
  // factor * branch(h). h is the batch's input in the first stage. Weights of which no unit is here
  // are undefined, where a stage stands alone.
  virtual at::Tensor Forward(const at::Tensor& h, absl::Span<const at::Tensor> weights,
                             double factor) const = 0;
  // Forward in training, with what is trained of each weight. As it is here: for stages whose
  // weights are trained as a whole, or not at all.
  virtual at::Tensor Train(const at::Tensor& h, absl::Span<const at::Tensor> weights,
                           absl::Span<const TrainedPart>, double factor) const {
    return Forward(h, weights, factor);
  }
  // Forward in evaluation, where `norms` says how norms are computed. As it is here: for stages
  // without norms that need more than their sample.
  virtual at::Tensor Evaluate(const at::Tensor& h, absl::Span<const at::Tensor> weights,
                              double factor, Norms&) const {
    return Forward(h, weights, factor);
  }
  // Whether the backward pass reads the weights' values; where it does not, their memory goes once
  // the last Forward that reads them is done.
  virtual bool BackwardReadsWeights() const { return true; }
  // Forward for the next tokens of one sequence, h [1, n, d], whose earlier ones went through this
  // with the same cache. Not differentiable. As it is here: for stages whose tokens do not see each
  // other.
  virtual at::Tensor Decode(const at::Tensor& h, absl::Span<const at::Tensor> weights,
                            double factor, KeyValueCache&) const {
    return Forward(h, weights, factor);
  }
};

// The last stage: from the last boundary activation to the loss.
class LossStage {
 public:
  virtual ~LossStage() = default;
  virtual std::vector<WeightNames> Weights() const = 0;
  // scale * (sum of the losses of all targets), [] f64, in nats; differentiable in h and weights.
  virtual at::Tensor Loss(const at::Tensor& h, const at::Tensor& target,
                          absl::Span<const at::Tensor> weights, double scale) const = 0;
  // For evaluation: the unscaled sum, and of classes how many targets have the largest logit.
  struct Score {
    double loss_sum = 0;
    std::optional<int64_t> correct;
  };
  virtual Score Evaluate(const at::Tensor& h, const at::Tensor& target,
                         absl::Span<const at::Tensor> weights, Norms&) const {
    return {Loss(h, target, weights, /*scale=*/1).item<double>(), std::nullopt};
  }
  virtual bool BackwardReadsWeights() const { return true; }  // as Stage's
  // What Loss makes of h before it compares: [tokens, V] f32. Not differentiable.
  virtual at::Tensor Logits(const at::Tensor& h, absl::Span<const at::Tensor> weights) const = 0;
};

// A model: the stages in the catalog's order, without its last one, which is the loss.
struct Network {
  std::vector<std::unique_ptr<Stage>> stages;
  std::unique_ptr<LossStage> loss;
  bool batch_norm = false;  // Evaluation learns NormStatistics first.
};

struct Batch {
  at::Tensor input;
  at::Tensor target;
};

// A data set as the network wants it.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  // `epochs` [samples] in which each is drawn; empty: 0. Errors: the data set's.
  virtual absl::StatusOr<Batch> Read(absl::Span<const int64_t> samples,
                                     absl::Span<const int64_t> epochs) const = 0;
  virtual int64_t samples() const = 0;
  virtual int64_t terms_per_sample() const = 0;  // targets
};

}  // namespace sdp
