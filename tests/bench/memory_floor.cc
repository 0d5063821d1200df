#include "tests/bench/memory_floor.h"

#include <cstdint>

#include "server/shard/logic/vectorize.h"

namespace sdp {

SDP_VECTORIZE void UpdateFloor(absl::Span<float> value, absl::Span<const float> gradient,
                               std::vector<FloatBuffer>& moments) {
  const auto n = static_cast<int64_t>(value.size());
  float* __restrict x = value.data();
  const float* __restrict g = gradient.data();
  if (moments.size() == 1) {
    float* __restrict m = moments[0].data();
    SDP_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) {
      m[i] = m[i] + g[i];
      x[i] = x[i] - m[i];
    }
    return;
  }
  float* __restrict m = moments[0].data();
  float* __restrict v = moments[1].data();
  SDP_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    m[i] = m[i] + g[i];
    v[i] = v[i] + g[i];
    x[i] = x[i] - (m[i] + v[i]);
  }
}

SDP_VECTORIZE void SumFloor(std::vector<FloatBuffer>& gradients) {
  float* __restrict sum = gradients[0].data();
  for (size_t k = 1; k < gradients.size(); ++k) {
    const float* __restrict more = gradients[k].data();
    SDP_INDEPENDENT
    for (int64_t i = 0; i < gradients[0].size(); ++i) sum[i] += more[i];
  }
}

}  // namespace sdp
