#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "common/base/allocated.h"
#include "server/coordinator/logic/step_metrics.h"

namespace sdp {

// "1.9 GiB", "24 MiB", "512 B": three digits at most.
std::string BytesText(int64_t bytes);
// "48s", "2m 5s", "14m", "2h 5m", "1d 3h".
std::string DurationText(absl::Duration duration);

// Peaks of one process: VmHWM, and tensors and buffers beside what the plan predicted for them. Of
// a worker on a GPU these are the GPU's, no part of the process's.
struct MemoryUse {
  int64_t process_bytes = 0;
  int64_t allocated_bytes = 0;             // 0: it does not count, or has not told
  int64_t predicted_bytes = 0;             // 0: nothing predicted
  BytesByKind by_kind = {};                // of a worker's tensors and buffers at their peak
  MemoryPlace place = MemoryPlace::kHost;  // of these
};

// What a run has done so far, as people want to see it: one line per step, and a summary. Pure:
// metrics in, text out.
class RunProgress {
 public:
  // `workers`: those the run was configured for.
  explicit RunProgress(int workers) : workers_(workers) {}

  void Add(const StepMetrics& metrics);

  // Of the step last added:
  // "step 120/5000  loss 3.412 (full 3.377)  grad 0.91  workers 8/8  cover 4-4  mem 1.2/1.9
  // GiB  12.3k tok/s  pull 24 push 24 MiB  wait 3%  eta 14m". `mem`: the worst worker's peak of
  // tensors and buffers / what the plan predicts. `pull`, `push`: all workers, this step. `wait`:
  // the mean worker's time that was not computing. What is not known is absent.
  std::string StepLine() const;

  // Time left, from the newest steps; none before the second one. The first step, which warms
  // everything up, does not count.
  std::optional<absl::Duration> Eta() const;
  double tokens_per_sec() const;  // of the newest steps

  // After the run; "" if it trained no step. `peak_memory`: by name of process.
  std::string Summary(const std::map<std::string, MemoryUse>& peak_memory) const;

  const std::optional<double>& loss() const { return loss_; }
  const std::optional<double>& full_loss() const { return full_loss_; }
  Step full_loss_step() const { return full_loss_step_; }

 private:
  struct Totals {
    int64_t steps = 0, tokens = 0, samples = 0, pulled_bytes = 0, pushed_bytes = 0;
    absl::Duration elapsed, pull, forward, backward, push;
  };

  const int workers_;
  StepMetrics newest_;
  std::deque<StepMetrics> recent_;  // trained steps, without the run's first
  bool first_seen_ = false;
  Totals totals_;
  absl::Duration run_time_;
  std::optional<double> loss_, full_loss_, full_accuracy_;
  Step full_loss_step_ = 0;
  std::optional<uint64_t> state_hash_;
};

}  // namespace sdp
