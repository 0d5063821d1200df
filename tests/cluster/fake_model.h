#pragma once

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "common/model/layout.h"
#include "worker/logic/local_model.h"

namespace sdp {

// A model without torch: every parameter is pulled towards a target that depends on the sample, so
// that a gradient tells which weights, samples and factors it was made of. Loss terms: one per
// sample.
//   gradient[i] = factor * mean over samples of (value[i] - Target(sample, fragment, i))
//                 + mean of all values that are read only
class FakeModel final : public LocalModel {
 public:
  // `bad_sample`: one whose loss is not finite.
  explicit FakeModel(const Layout* layout, WireType type = WireType::kF32,
                     std::optional<int64_t> bad_sample = std::nullopt)
      : layout_(layout), type_(type), bad_sample_(bad_sample) {}

  // The loss of the step is much larger where its first sample is one of these.
  void AddSpikes(Step step, std::vector<int64_t> first_samples) {
    spike_at_ = step;
    spike_samples_ = std::move(first_samples);
  }

  // In [-0.5, 0.5): a few multiplications, as it is most of what a simulated cluster computes.
  static float Target(int64_t sample, FragmentId fragment, int64_t i) {
    uint64_t bits = static_cast<uint64_t>(sample) * 0x9E3779B97F4A7C15 +
                    static_cast<uint64_t>(fragment.value()) * 0xC2B2AE3D27D4EB4F +
                    static_cast<uint64_t>(i) * 0x165667B19E3779F9;
    bits = (bits ^ (bits >> 29)) * 0xBF58476D1CE4E5B9;
    bits = (bits ^ (bits >> 32)) * 0x94D049BB133111EB;
    return static_cast<float>(bits >> 40) / (1 << 24) - 0.5f;
  }

  absl::StatusOr<TrainResult> Train(const TrainTask& task, Exchange& exchange) override {
    const float samples = static_cast<float>(task.samples.size());
    TrainResult result;
    result.loss.terms = static_cast<int64_t>(task.samples.size());
    std::vector<std::pair<FragmentId, FloatBuffer>> gradients;
    for (const HeldUnit& held : task.units) {
      auto values = exchange.Take(held.unit);
      if (!values.ok()) return values.status();
      const auto& block = layout_->block(held.unit);
      for (size_t f = 0; f < block.size(); ++f) {
        const FloatBuffer value = std::move((*values)[f]).Widened();
        FloatBuffer gradient = FloatBuffer::Zeros(value.size());
        for (int64_t i = 0; i < value.size(); ++i) {
          for (const int64_t sample : task.samples) {
            const float distance = value.data()[i] - Target(sample, block[f], i);
            gradient.data()[i] += static_cast<float>(held.factor) * distance / samples;
            result.loss.loss_sum += 0.5 * held.factor * double{distance} * distance;
          }
        }
        gradients.emplace_back(block[f], std::move(gradient));
      }
    }
    double sum = 0;
    int64_t count = 0;
    for (const UnitId unit : task.read_only) {
      auto values = exchange.Take(unit);
      if (!values.ok()) return values.status();
      for (WireBuffer& fragment : *values) {
        const FloatBuffer value = std::move(fragment).Widened();
        for (const float element : value.span()) sum += element;
        count += value.size();
      }
    }
    if (count > 0) {
      const auto mean = static_cast<float>(sum / static_cast<double>(count));
      for (auto& [id, gradient] : gradients) {
        for (float& element : gradient.span()) element += mean;
      }
    }
    if (bad_sample_.has_value() && absl::c_linear_search(task.samples, *bad_sample_)) {
      if (!task.hand_out_not_finite) return absl::OutOfRangeError("a bad sample");
      result.loss = LossSum();
      for (auto& [id, gradient] : gradients) gradient.data()[0] = std::nanf("");
    }
    if (task.step == spike_at_ && absl::c_linear_search(spike_samples_, task.samples[0]))
      result.loss.loss_sum += 1000 * samples;
    exchange.BackwardBegins();
    for (auto unit = task.read_only.rbegin(); unit != task.read_only.rend(); ++unit)
      exchange.Released(*unit);
    for (auto it = gradients.rbegin(); it != gradients.rend(); ++it)
      exchange.Gradient(it->first, WireBuffer::Rounded(type_, it->second.span()));
    return result;
  }

  // The same gradient of all units, with nothing that is read only.
  absl::Status DenseGradient(const DenseTask& task, Exchange& exchange) override {
    const float samples = static_cast<float>(task.samples.size());
    for (auto held = task.units.rbegin(); held != task.units.rend(); ++held) {
      auto values = exchange.Take(held->unit);
      if (!values.ok()) return values.status();
      const auto& block = layout_->block(held->unit);
      for (size_t f = 0; f < block.size(); ++f) {
        FloatBuffer gradient = std::move((*values)[f]).Widened();
        for (int64_t i = 0; i < gradient.size(); ++i) {
          float sum = 0;
          for (const int64_t sample : task.samples)
            sum += gradient.data()[i] - Target(sample, block[f], i);
          gradient.data()[i] = static_cast<float>(held->factor) * sum / samples;
        }
        exchange.Gradient(block[f], WireBuffer::Rounded(type_, gradient.span()));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<LossSum> Evaluate(const EvaluateTask& task, Exchange& exchange) override {
    LossSum sum;
    sum.terms = task.samples;
    for (const HeldUnit& held : task.units) {
      auto values = exchange.Take(held.unit);
      if (!values.ok()) return values.status();
      for (WireBuffer& fragment : *values) {
        const FloatBuffer value = std::move(fragment).Widened();
        for (int64_t i = 0; i < value.size(); ++i) {
          sum.loss_sum +=
              held.factor * static_cast<double>(task.samples) * value.data()[i] * value.data()[i];
        }
      }
    }
    return sum;
  }

 private:
  const Layout* const layout_;
  const WireType type_;
  const std::optional<int64_t> bad_sample_;
  Step spike_at_ = 0;
  std::vector<int64_t> spike_samples_;
};

}  // namespace sdp
