#include "server/coordinator/logic/loss_watch.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_format.h"

namespace sdp {

std::optional<std::string> LossWatch::Add(Step step, double loss) {
  if (factor_ == 0) return std::nullopt;
  std::optional<std::string> spike;
  if (recent_.size() >= kLeast) {
    std::vector<double> losses = recent();
    const auto middle = losses.begin() + static_cast<ptrdiff_t>(losses.size() / 2);
    std::nth_element(losses.begin(), middle, losses.end());
    if (loss > factor_ * *middle) {
      spike = absl::StrFormat(
          "the loss of step %d, %.4g, is more than %.4g times the median of the last %d steps, "
          "%.4g",
          step, loss, factor_, losses.size(), *middle);
    }
  }
  recent_.push_back(loss);
  if (recent_.size() > kWindow) recent_.pop_front();
  return spike;
}

}  // namespace sdp
