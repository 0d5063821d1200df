#pragma once

#include "ATen/ATen.h"
#include "worker/model/stage.h"

namespace sdp {

// Projection and cross-entropy of classes, one autograd function:
//   scale * sum over samples of -log softmax(x weight^T + bias)[target]
//   x [B, C], weight [classes, C], bias [classes], target [B] i64 -> [] f64
// With gradients wanted they are computed with the loss, while the logits are there. Keeps the
// gradients of x (C per sample), weight and bias. The sum of losses is f64.
struct ClassifierWeights {
  at::Tensor weight, bias;
};
at::Tensor ClassifierLoss(const at::Tensor& x, const at::Tensor& target,
                          const ClassifierWeights& weights, double scale);

LossStage::Score ClassifierScore(const at::Tensor& x, const at::Tensor& target,
                                 const ClassifierWeights& weights);

// [B, classes] f32. Not differentiable.
at::Tensor ClassifierLogits(const at::Tensor& x, const ClassifierWeights& weights);

}  // namespace sdp
