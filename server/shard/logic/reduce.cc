#include "server/shard/logic/reduce.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "server/shard/logic/vectorize.h"

namespace sdp {

SDP_VECTORIZE double SumOfSquares(absl::Span<const float> values) {
  constexpr size_t kBlock = 1024, kLanes = 8;
  double total = 0;
  for (size_t begin = 0; begin < values.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, values.size());
    double lanes[kLanes] = {};
    size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const double value = values[i + lane];
        lanes[lane] += value * value;
      }
    }
    for (size_t lane = 0; i < end; ++i, ++lane)
      lanes[lane] += double{values[i]} * double{values[i]};
    double block = 0;
    for (const double lane : lanes) block += lane;
    total += block;
  }
  return total;
}

// A loop of its own, as SumOfSquares, which every round takes, converts each number once.
SDP_VECTORIZE double DotProduct(absl::Span<const float> a, absl::Span<const float> b) {
  constexpr size_t kBlock = 1024, kLanes = 8;
  double total = 0;
  for (size_t begin = 0; begin < a.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, a.size());
    double lanes[kLanes] = {};
    for (size_t i = begin; i < end; i += kLanes) {
      const size_t width = std::min(kLanes, end - i);
      for (size_t lane = 0; lane < width; ++lane)
        lanes[lane] += double{a[i + lane]} * double{b[i + lane]};
    }
    double block = 0;
    for (const double lane : lanes) block += lane;
    total += block;
  }
  return total;
}

SDP_VECTORIZE bool AllFinite(absl::Span<const float> values) {
  // Not finite: all exponent bits set. Without an early end, since that does not vectorise.
  uint32_t found = 0;
  for (const float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    found |= (bits & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
  }
  return found == 0;
}

}  // namespace sdp
