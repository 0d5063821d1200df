#include "server/shard/logic/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "server/shard/logic/vectorize.h"

namespace sdp {
namespace {

// Scalars of one update, in f32 as the elements.
struct AdamWScalars {
  float scale, keep, step, root2, eps, beta2, rest1, rest2;
};

// value and next, as the Optimizer says, may be the same.
SDP_VECTORIZE void AdamWLoop(const float* value, const float* gradient, float* next, float* m,
                             float* v, int64_t begin, int64_t end, const AdamWScalars& scalars) {
  const auto [scale, keep, step, root2, eps, beta2, rest1, rest2] = scalars;
  SDP_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) {
    const float g = gradient[i] * scale;
    const float m_next = m[i] + (g - m[i]) * rest1;
    const float v_next = v[i] * beta2 + rest2 * g * g;
    m[i] = m_next;
    v[i] = v_next;
    next[i] = value[i] * keep - step * (m_next / (std::sqrt(v_next) / root2 + eps));
  }
}

SDP_VECTORIZE void SgdLoop(const float* value, const float* gradient, float* next, int64_t begin,
                           int64_t end, float scale, float rate, float decay) {
  SDP_INDEPENDENT
  for (int64_t i = begin; i < end; ++i)
    next[i] = value[i] - rate * (gradient[i] * scale + decay * value[i]);
}

SDP_VECTORIZE void SgdMomentumLoop(const float* value, const float* gradient, float* next, float* m,
                                   int64_t begin, int64_t end, float scale, float rate, float decay,
                                   float momentum) {
  SDP_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) {
    const float m_next = momentum * m[i] + (gradient[i] * scale + decay * value[i]);
    m[i] = m_next;
    next[i] = value[i] - rate * m_next;
  }
}

SDP_VECTORIZE void SgdNesterovLoop(const float* value, const float* gradient, float* next, float* m,
                                   int64_t begin, int64_t end, float scale, float rate, float decay,
                                   float momentum) {
  SDP_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) {
    const float g = gradient[i] * scale + decay * value[i];
    const float m_next = momentum * m[i] + g;
    m[i] = m_next;
    next[i] = value[i] - rate * (g + momentum * m_next);
  }
}

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
    const AdamWScalars scalars = {
        .scale = scale,
        .keep = static_cast<float>(1 - lr * weight_decay),
        .step = static_cast<float>(lr / correction1),
        .root2 = static_cast<float>(std::sqrt(correction2)),
        .eps = static_cast<float>(options_.eps),
        .beta2 = static_cast<float>(options_.beta2),
        .rest1 = static_cast<float>(1 - options_.beta1),
        .rest2 = static_cast<float>(1 - options_.beta2),
    };
    AdamWLoop(value, gradient, next, state.moments[0].data(), state.moments[1].data(), begin, end,
              scalars);
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
    if (state.moments.empty())
      return SgdLoop(value, gradient, next, begin, end, scale, rate, decay);
    const auto momentum = static_cast<float>(options_.momentum);
    float* const m = state.moments[0].data();
    if (options_.nesterov)
      return SgdNesterovLoop(value, gradient, next, m, begin, end, scale, rate, decay, momentum);
    SgdMomentumLoop(value, gradient, next, m, begin, end, scale, rate, decay, momentum);
  }

 private:
  const OptimizerOptions options_;
};

}  // namespace

OptimizerState OptimizerState::Clone() const {
  OptimizerState copy;
  for (const FloatBuffer& moment : moments) copy.moments.push_back(moment.Clone());
  copy.updates = updates;
  return copy;
}

double LearningRate(const OptimizerOptions& options, Step step) {
  if (step < options.warmup_steps) {
    return options.lr * static_cast<double>(step + 1) / static_cast<double>(options.warmup_steps);
  }
  const auto steps = static_cast<double>(options.steps);
  switch (options.schedule) {
    case OptimizerOptions::Schedule::kConstant:
      return options.lr;
    case OptimizerOptions::Schedule::kCosine: {
      const double length = static_cast<double>(options.steps - options.warmup_steps);
      const double done = static_cast<double>(step - options.warmup_steps) / length;
      return options.lr * (1 + std::cos(std::numbers::pi * done)) / 2;
    }
    case OptimizerOptions::Schedule::kWarmupStableDecay: {
      const double left = static_cast<double>(options.steps - step);
      return options.lr * std::min(1.0, left / (options.decay_fraction * steps));
    }
  }
  return options.lr;
}

double BatchFactor(const OptimizerOptions& options, size_t workers) {
  if (options.worker_batch == 0) return 1;
  const double samples = static_cast<double>(options.worker_batch) * static_cast<double>(workers);
  const double share = samples / static_cast<double>(options.global_batch);
  return options.kind == OptimizerOptions::Kind::kAdamW ? std::sqrt(share) : share;
}

std::unique_ptr<Optimizer> MakeOptimizer(const OptimizerOptions& options) {
  if (options.kind == OptimizerOptions::Kind::kSgd) return std::make_unique<Sgd>(options);
  return std::make_unique<AdamW>(options);
}

}  // namespace sdp
