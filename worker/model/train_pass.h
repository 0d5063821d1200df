#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ATen/ATen.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/model/slim_weights.h"
#include "worker/model/stage.h"
#include "worker/model/torch_model.h"
#include "worker/model/walk.h"
#include "worker/model/weight_map.h"

namespace sdp {

// One training step: for each micro-batch the walk over the held stages, the loss, and the backward
// pass of loss_sum / (targets of the whole task). Weights are taken right before the first stage
// that reads them; gradients add up over the micro-batches in order and in f32, and in the last one
// each is handed out and freed as soon as it is final. The last one also frees each weight once
// nothing reads it any more, so a parameter is a weight or a gradient on its way out, not both:
// what comes in for the next step meanwhile finds room. Units that are read only (backward masking)
// take part in both passes, but have no gradients: their weights go when the backward pass of the
// first stage that reads them is done; of a weight of which others are held, that part has one.
// common/plan/memory.cc walks the same way to predict the peak. Threads: confined to one; backward
// hooks run on it too.   Errors: as LocalModel::Train; LibTorch's exceptions pass through.
class TrainPass {
 public:
  // `plan`: PlanWalk's for the task's units and those that it only reads.
  TrainPass(const TorchWalk& walk, const WalkPlan& plan, const BatchSource& source,
            const TrainTask& task, Exchange& exchange);

  absl::StatusOr<TrainResult> Run();
  const std::string& doing() const {
    return doing_;
  }  // for errors: "step 3: forward of layers.2.mlp"

 private:
  enum class Micro { kLast, kOther };
  absl::StatusOr<at::Tensor> Forward(Batch batch, Micro micro);
  absl::Status TakeUnits(size_t stage);
  void ReleaseSpent(size_t stage);
  // The weights without gradients that `stage` was the first to read go once the gradient of its
  // input is there, as do their units. Precondition: `input` requires a gradient: a shared unit,
  // which is held, is below.
  void ReleaseAfterBackward(size_t stage, const at::Tensor& input);
  // Takes units whose stages are absent, as it must take all, and hands out their gradient: 0.
  absl::Status HandOutIdle(GradientPacker& packer);
  // Gradients are final when the next backward pass makes them: hand them out there.
  void HandOutGradients(GradientPacker& packer);
  // bf16: gradients of the micro-batches before the last add up in f32 beside the weights.
  void SumGradients();
  bool HasGradient(int weight) const { return weights_.leaf(weight).defined(); }
  void Doing(const char* what, const std::string& where);

  const TorchWalk& walk_;
  const WalkPlan& plan_;
  const BatchSource& source_;
  const TrainTask& task_;
  Exchange& exchange_;
  const int64_t terms_;              // targets of the whole task
  const std::vector<size_t> first_;  // [units] the first stage that reads it
  std::vector<bool> read_only_;      // [units]
  std::vector<at::Tensor> sums_;     // [weights] f32, of earlier micro-batches; only in bf16
  const SlimMap map_;                // of held units and those that are read only
  const SlimMap trained_;            // of held units
  SlimWeights weights_;
  TrainResult result_;
  std::string doing_ = "start";
};

}  // namespace sdp
