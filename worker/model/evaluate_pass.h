#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ATen/ATen.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/plan/memory.h"
#include "worker/model/passing_weights.h"
#include "worker/model/stage.h"
#include "worker/model/torch_model.h"
#include "worker/model/walk.h"

namespace sdp {

// Validation of the full model without ever having all of it: samples go in chunks, and each chunk
// walks the stages once. A stage computes the whole chunk, micro-batch by micro-batch, before its
// weights are dropped; the next stage's are on their way meanwhile. So the boundary activations of
// a chunk and the weights of two stages are in memory, and the model is pulled once per chunk.
// BatchNorm's statistics are not those of training, where each worker has another network: before
// the validation samples the first training samples, as epoch 0 shows them, walk the full model in
// the same way, and every stage learns its statistics. Threads: confined to one.   Errors: as
// LocalModel::Evaluate; LibTorch's exceptions pass through.
class EvaluatePass {
 public:
  // `plan`: PlanWalk's for the task's units. `norms` [stages]: BatchNorm's statistics, which are
  // then not learnt; empty: they are not known.
  EvaluatePass(const TorchWalk& walk, const WalkPlan& plan, const BatchSource& training,
               const BatchSource& validation, std::vector<NormStatistics> norms,
               int64_t memory_bytes, const EvaluateTask& task, Exchange& exchange);

  absl::StatusOr<LossSum> Run();
  // [stages] as Run learns them; the task's samples are not looked at.
  absl::StatusOr<std::vector<NormStatistics>> RunNorms();
  const std::string& doing() const { return doing_; }

 private:
  absl::Status Learn();
  enum class What { kLearn, kEvaluate };
  absl::Status RunChunks(What what, int64_t first, int64_t samples);
  enum class Next { kChunk, kEnd };
  // Samples [first, first + samples), then another chunk or the end.
  absl::Status RunChunk(int64_t first, int64_t samples, Next next);
  absl::Status ReadChunk(int64_t first, int64_t samples);
  Norms NormsOf(size_t stage);
  void ComputeStage(size_t stage);
  void Doing(const char* what, const std::string& where);

  const TorchWalk& walk_;
  const WalkPlan& plan_;
  const BatchSource& training_;
  const BatchSource& validation_;
  const EvaluateTask& task_;
  const EvaluationSizes sizes_;
  const std::vector<size_t> last_;          // [units] the last stage that reads it
  std::vector<NormStatistics> statistics_;  // [stages]; empty: not known yet
  What what_ = What::kEvaluate;             // of the chunk under way
  PassingWeights weights_;
  std::vector<at::Tensor> h_;       // [micro-batches of the chunk] at the current boundary
  std::vector<at::Tensor> target_;  // [micro-batches of the chunk]
  LossSum result_;
  std::string doing_ = "start";
};

}  // namespace sdp
