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

namespace sdp {

// One training step: for each micro-batch the walk over the held stages, the loss, and the backward
// pass of loss_sum / (targets of the whole task). Weights are taken right before the first stage
// that reads them; gradients add up over the micro-batches in order and in f32, and in the last one
// each is handed out and freed as soon as it is final. The last one also frees each weight once
// nothing reads it any more, so a parameter is a weight or a gradient on its way out, not both:
// what comes in for the next step meanwhile finds room. common/plan/memory.cc walks the same way to
// predict the peak. Threads: confined to one; backward hooks run on it too.   Errors: as
// LocalModel::Train; LibTorch's exceptions pass through.
class TrainPass {
 public:
  TrainPass(const TorchWalk& walk, const BatchSource& source, const TrainTask& task,
            Exchange& exchange);

  absl::StatusOr<TrainResult> Run();
  const std::string& doing() const {
    return doing_;
  }  // for errors: "step 3: forward of layers.2.mlp"

 private:
  enum class Micro { kLast, kOther };
  absl::StatusOr<at::Tensor> Forward(const Batch& batch, Micro micro);
  absl::Status TakeUnits(size_t stage);
  void ReleaseSpent(size_t stage);
  // Gradients are final when the next backward pass makes them: hand them out there.
  void HandOutGradients(GradientPacker& packer);
  // bf16: gradients of the micro-batches before the last add up in f32 beside the weights.
  void SumGradients();
  void Doing(const char* what, const std::string& where);

  const TorchWalk& walk_;
  const BatchSource& source_;
  const TrainTask& task_;
  Exchange& exchange_;
  const int64_t terms_;           // targets of the whole task
  std::vector<at::Tensor> sums_;  // [weights] f32, of earlier micro-batches; only in bf16
  std::vector<StageUse> uses_;
  SlimWeights weights_;
  TrainResult result_;
  std::string doing_;
};

}  // namespace sdp
