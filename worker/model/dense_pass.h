#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "ATen/ATen.h"
#include "absl/status/status.h"
#include "worker/logic/local_model.h"
#include "worker/model/passing_weights.h"
#include "worker/model/slim_weights.h"
#include "worker/model/stage.h"
#include "worker/model/torch_model.h"
#include "worker/model/walk.h"

namespace sdp {

// The gradient of the full model's mean loss over the task's samples, without ever having all of
// the model. Forward without a graph, stage by stage, each for all micro-batches before its weights
// are dropped, keeping the boundary activations; then from the loss down each stage is taken again
// and done again with a graph, its gradient is packed, handed out and dropped. In memory are the
// boundary activations of all samples, one stage's weights, gradients and activations (of a
// micro-batch), and the next stage's weights on their way; a weight that two stages read (a tied
// head) and its gradient stay from one to the other. Shapes: micro-batches as TrainPass cuts them,
// so at coverage 1 the gradients are training's, bit by bit (in bf16, those that several
// micro-batches or stages add to: up to one rounding). BatchNorm goes by each micro-batch's own
// statistics, as in training. Threads: confined to one.   Errors: as LocalModel::DenseGradient;
// LibTorch's exceptions pass through.
class DensePass {
 public:
  // `plan`: PlanWalk's for the task's units.
  DensePass(const TorchWalk& walk, const WalkPlan& plan, const BatchSource& source,
            const DenseTask& task, Exchange& exchange);

  absl::Status Run();
  const std::string& doing() const { return doing_; }

 private:
  absl::Status ReadSamples();
  absl::Status Take(size_t stage);
  absl::Status Forward(size_t stage);
  absl::Status Backward(size_t stage);
  at::Tensor Output(size_t stage, const at::Tensor& input) const;
  // Of what the stage makes of a micro-batch, with respect to `leaves`.
  std::vector<at::Tensor> GradientsOf(size_t stage, size_t micro, const at::Tensor& input,
                                      const std::vector<at::Tensor>& leaves) const;
  // Hands out the gradients of weights that no stage below reads.
  void HandOut(size_t stage);
  void Doing(const char* what, size_t stage);

  const TorchWalk& walk_;
  const WalkPlan& plan_;
  const BatchSource& source_;
  const DenseTask& task_;
  const double scale_;  // of a target's loss: the mean over all of the task's
  PassingWeights weights_;
  GradientPacker packer_;
  std::vector<std::vector<at::Tensor>> inputs_;  // [stages][micro-batches]
  std::vector<at::Tensor> targets_;              // [micro-batches]
  std::vector<at::Tensor> outer_;                // [micro-batches] gradient of the boundary above
  std::vector<at::Tensor> sums_;  // [weights] gradients so far, in f32 if there are several
  std::string doing_;
};

}  // namespace sdp
