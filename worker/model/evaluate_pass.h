#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ATen/ATen.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/plan/memory.h"
#include "worker/model/slim_weights.h"
#include "worker/model/stage.h"
#include "worker/model/torch_model.h"
#include "worker/model/walk.h"
#include "worker/model/weight_map.h"

namespace sdp {

// Validation of the full model without ever having all of it: samples go in chunks, and each chunk
// walks the stages once. A stage computes the whole chunk, micro-batch by micro-batch, before its
// weights are dropped; the next stage's are on their way meanwhile. So the boundary activations of
// a chunk and the weights of two stages are in memory, and the model is pulled once per chunk.
// Threads: confined to one.   Errors: as LocalModel::Evaluate; LibTorch's exceptions pass through.
class EvaluatePass {
 public:
  // `plan`: PlanWalk's for the task's units.
  EvaluatePass(const TorchWalk& walk, const WalkPlan& plan, const BatchSource& source,
               int64_t memory_bytes, const EvaluateTask& task, Exchange& exchange);

  absl::StatusOr<LossSum> Run();
  const std::string& doing() const { return doing_; }

 private:
  enum class Next { kChunk, kEnd };
  // Samples [first, first + samples), then another chunk or the end.
  absl::Status RunChunk(int64_t first, int64_t samples, Next next);
  void ReadChunk(int64_t first, int64_t samples);
  void ComputeStage(size_t stage);
  void WantUnits(size_t stage);
  absl::Status TakeUnits(size_t stage);
  void Doing(const char* what, const std::string& where);

  const TorchWalk& walk_;
  const WalkPlan& plan_;
  const BatchSource& source_;
  const EvaluateTask& task_;
  Exchange& exchange_;
  const EvaluationSizes sizes_;
  const std::vector<size_t> last_;  // [units] the last stage that reads it
  const SlimMap map_;
  SlimWeights weights_;
  std::vector<bool> wanted_;        // [units] asked for and not here yet
  std::vector<at::Tensor> h_;       // [micro-batches of the chunk] at the current boundary
  std::vector<at::Tensor> target_;  // [micro-batches of the chunk]
  LossSum result_;
  std::string doing_;
};

}  // namespace sdp
