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
  enum class Schedule { kConstant, kCosine };
  Kind kind = Kind::kAdamW;
  double lr = 3e-4;
  double weight_decay = 0.1;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;  // AdamW
  double momentum = 0.9;                         // SGD
  Schedule schedule = Schedule::kConstant;
  int64_t warmup_steps = 0;
  int64_t steps = 1;  // of the whole run
};

// lr (t + 1) / warmup during warm-up; then lr, or lr (1 + cos(pi (t - warmup) / (steps - warmup)))
// / 2.
double LearningRate(const OptimizerOptions& options, Step step);

// A fragment's optimizer state: moments, each [n] f32 and zero at birth, and the number of updates
// made.
struct OptimizerState {
  std::vector<FloatBuffer> moments;
  int64_t updates = 0;
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
// arithmetic of torch.optim.AdamW). SGD: coupled decay, momentum without dampening
// (torch.optim.SGD).
std::unique_ptr<Optimizer> MakeOptimizer(const OptimizerOptions& options);

}  // namespace sdp
