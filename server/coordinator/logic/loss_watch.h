#pragma once

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "common/base/ids.h"

namespace sdp {

// LossWatch looks for spikes of the training loss: a step whose loss is more than `factor` times
// the median of the steps before it. The median, as a mean would follow the spike; of at most 100
// steps, so that it follows a loss that falls.   Threads: confined to one.
class LossWatch {
 public:
  static constexpr size_t kWindow = 100;
  // Fewer say little: nothing is a spike before so many.
  static constexpr size_t kLeast = 20;

  // `factor`: above 1, or 0: nothing is a spike. `losses`: of the steps before, in their order.
  explicit LossWatch(double factor, const std::vector<double>& losses = {})
      : factor_(factor), recent_(losses.begin(), losses.end()) {}

  // Those that count for the next step, in their order; at most kWindow.
  std::vector<double> recent() const { return {recent_.begin(), recent_.end()}; }

  // Adds a step's loss, in the order of steps. What is wrong with it, for people; nullopt: nothing.
  std::optional<std::string> Add(Step step, double loss);

 private:
  const double factor_;
  std::deque<double> recent_;
};

}  // namespace sdp
