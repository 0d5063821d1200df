#include "server/shard/logic/optimizer.h"

#include <cmath>
#include <numbers>

namespace sdp {
namespace {

class AdamW final : public Optimizer {
 public:
  explicit AdamW(const OptimizerOptions& options) : options_(options) {}

  OptimizerState NewState(int64_t size) const override {
    OptimizerState state;
    state.moments.push_back(FloatBuffer::Zeros(size));
    state.moments.push_back(FloatBuffer::Zeros(size));
    return state;
  }

  void Update(const float* value, const float* gradient, float* next, OptimizerState& state,
              int64_t begin, int64_t end, float scale, double lr, double weight_decay,
              int64_t updates) const override {
    // Scalars in f64, elements in f32, as torch does.
    const double correction1 = 1 - std::pow(options_.beta1, static_cast<double>(updates));
    const double correction2 = 1 - std::pow(options_.beta2, static_cast<double>(updates));
    const float keep = static_cast<float>(1 - lr * weight_decay);
    const float step = static_cast<float>(lr / correction1);
    const float root2 = static_cast<float>(std::sqrt(correction2));
    const float eps = static_cast<float>(options_.eps);
    const float beta2 = static_cast<float>(options_.beta2);
    const float rest1 = static_cast<float>(1 - options_.beta1);
    const float rest2 = static_cast<float>(1 - options_.beta2);
    float* m = state.moments[0].data();
    float* v = state.moments[1].data();
    for (int64_t i = begin; i < end; ++i) {
      const float g = gradient[i] * scale;
      m[i] += (g - m[i]) * rest1;
      v[i] = v[i] * beta2 + rest2 * g * g;
      next[i] = value[i] * keep - step * (m[i] / (std::sqrt(v[i]) / root2 + eps));
    }
  }

 private:
  const OptimizerOptions options_;
};

class Sgd final : public Optimizer {
 public:
  explicit Sgd(const OptimizerOptions& options) : options_(options) {}

  OptimizerState NewState(int64_t size) const override {
    OptimizerState state;
    if (options_.momentum != 0) state.moments.push_back(FloatBuffer::Zeros(size));
    return state;
  }

  void Update(const float* value, const float* gradient, float* next, OptimizerState& state,
              int64_t begin, int64_t end, float scale, double lr, double weight_decay,
              int64_t /*updates*/) const override {
    const float rate = static_cast<float>(lr);
    const float decay = static_cast<float>(weight_decay);
    if (state.moments.empty()) {
      for (int64_t i = begin; i < end; ++i) {
        next[i] = value[i] - rate * (gradient[i] * scale + decay * value[i]);
      }
      return;
    }
    const float momentum = static_cast<float>(options_.momentum);
    float* m = state.moments[0].data();
    for (int64_t i = begin; i < end; ++i) {
      m[i] = momentum * m[i] + (gradient[i] * scale + decay * value[i]);
      next[i] = value[i] - rate * m[i];
    }
  }

 private:
  const OptimizerOptions options_;
};

}  // namespace

double LearningRate(const OptimizerOptions& options, Step step) {
  if (step < options.warmup_steps) {
    return options.lr * static_cast<double>(step + 1) / static_cast<double>(options.warmup_steps);
  }
  if (options.schedule == OptimizerOptions::Schedule::kConstant) return options.lr;
  const double length = static_cast<double>(options.steps - options.warmup_steps);
  const double done = static_cast<double>(step - options.warmup_steps) / length;
  return options.lr * (1 + std::cos(std::numbers::pi * done)) / 2;
}

std::unique_ptr<Optimizer> MakeOptimizer(const OptimizerOptions& options) {
  if (options.kind == OptimizerOptions::Kind::kSgd) return std::make_unique<Sgd>(options);
  return std::make_unique<AdamW>(options);
}

}  // namespace sdp
