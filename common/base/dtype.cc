#include "common/base/dtype.h"

#include <bit>
#include <cassert>
#include <cstddef>

namespace sdp {

// Both loops are free of branches and pointer aliasing, so that the compiler vectorises them.

void ToBf16(absl::Span<const float> from, absl::Span<uint16_t> to) {
  assert(from.size() == to.size());
  const float* __restrict in = from.data();
  uint16_t* __restrict out = to.data();
  for (size_t i = 0; i < from.size(); ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(in[i]);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    // Rounding could carry a NaN's mantissa into the sign; the quiet bit keeps it a NaN.
    const uint32_t nan = (bits >> 16) | 0x40;
    out[i] = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
  }
}

void FromBf16(absl::Span<const uint16_t> from, absl::Span<float> to) {
  assert(from.size() == to.size());
  const uint16_t* __restrict in = from.data();
  float* __restrict out = to.data();
  for (size_t i = 0; i < from.size(); ++i) {
    out[i] = std::bit_cast<float>(static_cast<uint32_t>(in[i]) << 16);
  }
}

}  // namespace sdp
