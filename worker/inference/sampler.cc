#include "worker/inference/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "common/base/hash.h"
#include "common/base/random.h"

namespace sdp {

int32_t SampleToken(absl::Span<const float> logits, const SamplerOptions& options,
                    int64_t position) {
  if (options.temperature == 0) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto more_likely = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  if (options.top_k > 0 && options.top_k < static_cast<int64_t>(ids.size())) {
    const auto end = ids.begin() + options.top_k;
    std::nth_element(ids.begin(), end, ids.end(), more_likely);
    ids.erase(end, ids.end());
  }
  std::sort(ids.begin(), ids.end(), more_likely);

  const auto weight = [&](int32_t id) {
    const double below = static_cast<double>(logits[static_cast<size_t>(id)]) -
                         static_cast<double>(logits[static_cast<size_t>(ids.front())]);
    return std::exp(below / options.temperature);
  };
  double total = 0;
  for (const int32_t id : ids) total += weight(id);
  static const uint64_t stream = Hash64("sdp generate");
  const uint64_t bits = RandomBits(options.seed, stream, static_cast<uint64_t>(position));
  double left = static_cast<double>(bits >> 11) * 0x1p-53 * total;  // in [0, total)
  for (const int32_t id : ids) {
    left -= weight(id);
    if (left < 0) return id;
  }
  return ids.front();  // Only by rounding.
}

}  // namespace sdp
