#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "common/base/float_buffer.h"
#include "common/base/ids.h"

namespace sdp {

struct OptimizerOptions {
  enum class Kind { kAdamW, kSgd };
  enum class Schedule { kConstant, kCosine, kWarmupStableDecay };
  Kind kind = Kind::kAdamW;
  double lr = 3e-4;
  double weight_decay = 0.1;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;  // AdamW
  double momentum = 0.9;                         // SGD
  bool nesterov = false;                         // SGD
  Schedule schedule = Schedule::kConstant;
  int64_t warmup_steps = 0;
  double decay_fraction = 0.2;  // of the steps, the last ones: kWarmupStableDecay
  int64_t steps = 1;            // of the whole run
  // Samples of every worker, whatever their number, and those of a step that lr is meant for; 0:
  // a step always has these.
  int64_t worker_batch = 0, global_batch = 1;
};

// The rate of step t, from 0 on. During warm-up lr (t + 1) / warmup; then
//   kConstant           lr
//   kCosine             lr (1 + cos(pi (t - warmup) / (steps - warmup))) / 2
//   kWarmupStableDecay  lr min(1, (steps - t) / (decay_fraction steps))
// The last two would be 0 at t = steps, which no step has.
double LearningRate(const OptimizerOptions& options, Step step);

// By what it is multiplied in a step of `workers` workers with worker_batch samples each: SGD
// k = workers worker_batch / global_batch, as each sample then moves the weights as far as before
// (Goyal et al. 2017, arXiv 1706.02677); AdamW sqrt(k), which keeps the noise of its steps (Malladi
// et al. 2022, arXiv 2205.10287).
double BatchFactor(const OptimizerOptions& options, size_t workers);

// A fragment's optimizer state: moments, each [n] f32 and zero at birth, and the number of updates
// made.
struct OptimizerState {
  std::vector<FloatBuffer> moments;
  int64_t updates = 0;

  OptimizerState Clone() const;
};

// One update, elementwise. Threads: stateless, any.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual OptimizerState NewState(int64_t size) const = 0;
  // next = value updated by `scale` x gradient, elements [begin, end) of the fragment; `next` may
  // be `value`. `updates` counts this one (1 at the first). The caller advances state.updates once
  // all ranges are done.
  virtual void Update(const float* value, const float* gradient, float* next, OptimizerState& state,
                      int64_t begin, int64_t end, float scale, double lr, double weight_decay,
                      int64_t updates) const = 0;
};

// AdamW: decoupled decay first, then the bias-corrected step (Loshchilov & Hutter, ICLR 2019;
// arithmetic of torch.optim.AdamW). SGD: coupled decay, momentum without dampening, Nesterov's if
// asked for (torch.optim.SGD).
std::unique_ptr<Optimizer> MakeOptimizer(const OptimizerOptions& options);

}  // namespace sdp
