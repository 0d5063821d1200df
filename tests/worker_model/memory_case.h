#pragma once

#include <cstdlib>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_map.h"
#include "common/base/allocated.h"
#include "common/plan/memory.h"
#include "gtest/gtest.h"
#include "tests/worker_model/model_case.h"

// What a step of a model allocates, to be held against the plan's prediction.
namespace sdp {

inline std::vector<UnitId> Ids(const std::vector<HeldUnit>& held) {
  std::vector<UnitId> ids;
  for (const HeldUnit& unit : held) ids.push_back(unit.unit);
  return ids;
}

// A worker with a fast network: it has weights as soon as they are wanted, the next step's as soon
// as there is room, and keeps all gradients.
class EarlyExchange : public FakeExchange {
 public:
  explicit EarlyExchange(const ModelCase& c, WireType type = WireType::kF32)
      : FakeExchange(c.layout, c.Fragments(c.weights), type) {}
  void Want(UnitId unit) override { early_[unit] = FakeExchange::Take(unit).value(); }
  void Released(UnitId unit) override { Want(unit); }
  void Gradient(FragmentId, WireBuffer gradient) override {
    gradients_.push_back(std::move(gradient));
  }
  void Restart() {
    gradients_.clear();
    early_.clear();
  }
  absl::StatusOr<std::vector<WireBuffer>> Take(UnitId unit) override {
    return std::move(early_.at(unit));
  }

 private:
  absl::flat_hash_map<UnitId, std::vector<WireBuffer>> early_;
  std::vector<WireBuffer> gradients_;  // in the type in which they travel
};

// The peak of a step, in the second of two.
inline int64_t MeasuredPeak(const ModelCase& c, const TrainTask& task,
                            WireType type = WireType::kF32) {
  EarlyExchange exchange(c, type);
  int64_t measured = 0;
  for (int repetition = 0; repetition < 2; ++repetition) {  // The first warms what torch keeps.
    exchange.Restart();
    const int64_t before = Allocated().now;
    RestartAllocatedPeak();
    for (const HeldUnit& unit : task.units) exchange.Want(unit.unit);
    for (const UnitId unit : task.read_only) exchange.Want(unit);
    const absl::StatusOr<TrainResult> result = c.model->Train(task, exchange);
    EXPECT_TRUE(result.ok()) << result.status();
    measured = Allocated().peak - before;
  }
  return measured;
}

inline TrainTask TaskOf(const ModelCase& c, const std::vector<std::string>& absent, Masking masking,
                        int64_t samples, int64_t micro_batch) {
  TrainTask task;
  task.units = c.Held(absent);
  for (const HeldUnit& unit : c.Held()) {
    const std::string& name = c.catalog.unit(unit.unit).name;
    if (masking == Masking::kBackward && absl::c_linear_search(absent, name))
      task.read_only.push_back(unit.unit);
  }
  task.micro_batch = micro_batch;
  for (int64_t i = 0; i < samples; ++i) task.samples.push_back(i);
  return task;
}

inline void ExpectNear(int64_t measured, const MemoryPeak& predicted, double tolerance) {
  if (std::getenv("SDP_TEST_PRINT") != nullptr) {
    std::cout << "measured " << measured << " predicted " << predicted.bytes << " "
              << static_cast<double>(measured) / static_cast<double>(predicted.bytes) << " "
              << predicted.when << std::endl;
  }
  EXPECT_NEAR(static_cast<double>(measured), static_cast<double>(predicted.bytes),
              tolerance * static_cast<double>(predicted.bytes))
      << predicted.when;
}

}  // namespace sdp
