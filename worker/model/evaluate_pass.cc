#include "worker/model/evaluate_pass.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "c10/core/InferenceMode.h"
#include "common/base/allocated.h"
#include "common/base/status.h"

namespace sdp {
namespace {

// More would change the statistics by less than a few percent, and all workers pass them forward.
constexpr int64_t kSamplesToLearnFrom = 2048;

}  // namespace

EvaluatePass::EvaluatePass(const TorchWalk& walk, const WalkPlan& plan, const BatchSource& training,
                           const BatchSource& validation, std::vector<NormStatistics> norms,
                           int64_t memory_bytes, const EvaluateTask& task, Exchange& exchange)
    : walk_(walk),
      plan_(plan),
      training_(training),
      validation_(validation),
      task_(task),
      sizes_(EvaluationSizesFor(walk.catalog, validation.terms_per_sample(), task.micro_batch,
                                memory_bytes, BytesPerElement(walk.placement.type))),
      last_(LastUses(walk.catalog)),
      statistics_(std::move(norms)),
      weights_(walk, plan, PassingWeights::Gradients::kNone, exchange) {}

absl::StatusOr<LossSum> EvaluatePass::Run() {
  const MemoryScope activations(MemoryKind::kActivations);
  const c10::InferenceMode no_gradients;
  Doing("start", "");
  SDP_RETURN_IF_ERROR(weights_.Check());
  SDP_RETURN_IF_ERROR(Learn());
  SDP_RETURN_IF_ERROR(RunChunks(What::kEvaluate, task_.first_sample, task_.samples));
  if (!std::isfinite(result_.loss_sum)) {
    return absl::OutOfRangeError(
        absl::StrCat("evaluation of version ", task_.step, ": the loss is ", result_.loss_sum));
  }
  return result_;
}

absl::StatusOr<std::vector<NormStatistics>> EvaluatePass::RunNorms() {
  const c10::InferenceMode no_gradients;
  Doing("start", "");
  SDP_RETURN_IF_ERROR(weights_.Check());
  SDP_RETURN_IF_ERROR(Learn());
  return statistics_;
}

absl::Status EvaluatePass::Learn() {
  if (!walk_.network.batch_norm || !statistics_.empty()) return absl::OkStatus();
  statistics_.resize(walk_.catalog.stages.size());
  const int64_t samples = std::min(kSamplesToLearnFrom, training_.samples());
  // In whole micro-batches: a last one of one image might have no variance.
  const int64_t rest = samples > sizes_.micro ? samples % sizes_.micro : 0;
  return RunChunks(What::kLearn, 0, samples - rest);
}

absl::Status EvaluatePass::RunChunks(What what, int64_t first, int64_t samples) {
  what_ = what;
  for (int64_t done = 0; done < samples; done += sizes_.chunk) {
    const int64_t count = std::min(sizes_.chunk, samples - done);
    const bool more = done + count < samples || what == What::kLearn;
    SDP_RETURN_IF_ERROR(RunChunk(first + done, count, more ? Next::kChunk : Next::kEnd));
  }
  return absl::OkStatus();
}

absl::Status EvaluatePass::RunChunk(int64_t first, int64_t samples, Next next) {
  weights_.Want(0);
  SDP_RETURN_IF_ERROR(ReadChunk(first, samples));
  const size_t stages = walk_.catalog.stages.size();
  for (size_t stage = 0; stage < stages; ++stage) {
    Doing("weights of ", walk_.catalog.stages[stage].name);
    SDP_RETURN_IF_ERROR(Context(weights_.Take(stage), doing_));
    if (stage + 1 < stages) {
      weights_.Want(stage + 1);
    } else if (next == Next::kChunk) {
      weights_.Want(0);
    }
    Doing("forward of ", walk_.catalog.stages[stage].name);
    ComputeStage(stage);
    weights_.Drop(stage, last_);
  }
  if (what_ == What::kEvaluate) result_.terms += samples * validation_.terms_per_sample();
  return absl::OkStatus();
}

absl::Status EvaluatePass::ReadChunk(int64_t first, int64_t samples) {
  Doing("reading samples", "");
  h_.clear();
  target_.clear();
  for (int64_t begin = 0; begin < samples; begin += sizes_.micro) {
    std::vector<int64_t> indices(static_cast<size_t>(std::min(sizes_.micro, samples - begin)));
    std::iota(indices.begin(), indices.end(), first + begin);
    const BatchSource& source = what_ == What::kLearn ? training_ : validation_;
    const absl::StatusOr<Batch> batch = source.Read(indices, /*epochs=*/{});
    if (!batch.ok()) return Context(batch.status(), doing_);
    h_.push_back(ToDevice(batch->input, walk_.placement.device));
    target_.push_back(ToDevice(batch->target, walk_.placement.device));
  }
  return absl::OkStatus();
}

void EvaluatePass::ComputeStage(size_t stage) {
  const std::vector<at::Tensor> weights = weights_.here().OfStage(stage);
  for (size_t i = 0; i < h_.size(); ++i) {
    Norms norms = NormsOf(stage);
    if (stage < walk_.network.stages.size()) {
      h_[i] =
          walk_.network.stages[stage]->Evaluate(h_[i], weights, plan_.stages[stage].factor, norms);
    } else {
      const LossStage::Score score =
          walk_.network.loss->Evaluate(h_[i], target_[i], weights, norms);
      h_[i].reset();
      if (what_ == What::kLearn) continue;
      result_.loss_sum += score.loss_sum;
      if (score.correct.has_value()) {
        result_.correct = result_.correct.value_or(0) + *score.correct;
      }
    }
  }
}

Norms EvaluatePass::NormsOf(size_t stage) {
  if (!walk_.network.batch_norm) return Norms();
  return what_ == What::kLearn ? Norms::Learn(statistics_[stage]) : Norms::Use(statistics_[stage]);
}

void EvaluatePass::Doing(const char* what, const std::string& where) {
  doing_ = absl::StrCat("evaluation of version ", task_.step, ": ", what, where);
}

}  // namespace sdp
