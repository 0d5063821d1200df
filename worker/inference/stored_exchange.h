#pragma once

#include <cassert>
#include <cstdint>
#include <vector>

#include "common/export/stored_model.h"
#include "worker/logic/local_model.h"
#include "worker/model/inference_model.h"

namespace sdp {

// Of a computation at rest: half of it may be the boundary activations of a chunk of samples, and
// the model is read once per chunk.
inline constexpr int64_t kEvaluationMemoryBytes = int64_t{1} << 30;

// A worker's surroundings, for a model that lies on the disk.
class StoredExchange : public Exchange {
 public:
  explicit StoredExchange(const StoredModel& model) : model_(model) {}

  void Want(UnitId) override {}
  absl::StatusOr<std::vector<WireBuffer>> Take(UnitId unit) override {
    return ReadBlock(model_, unit);
  }
  void BackwardBegins() override { assert(false && "evaluation has no backward pass"); }
  void Released(UnitId) override { assert(false && "evaluation has no backward pass"); }
  void Gradient(FragmentId, WireBuffer) override { assert(false && "evaluation has no gradients"); }

 private:
  const StoredModel& model_;
};

// All of the model on samples [0, samples) of a data set.
inline EvaluateTask FullModelTask(const StoredModel& model, int64_t samples) {
  EvaluateTask task;
  task.step = model.step.value_or(0);
  for (size_t unit = 0; unit < model.factors.size(); ++unit) {
    task.units.push_back({UnitId(static_cast<int32_t>(unit)), model.factors[unit]});
  }
  task.samples = samples;
  if (model.images.has_value()) task.micro_batch = model.images->micro_batch;
  return task;
}

}  // namespace sdp
