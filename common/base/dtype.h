#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace sdp {

// How a payload's numbers are written, little-endian. The values are those of the frame's header.
enum class WireType : uint8_t { kF32 = 0, kBf16 = 1 };

inline int64_t BytesPerElement(WireType type) { return type == WireType::kF32 ? 4 : 2; }

// f32 -> bf16, rounded to nearest, ties to even. A NaN stays one; what overflows becomes infinity.
// Precondition: equal sizes, no overlap.
void ToBf16(absl::Span<const float> from, absl::Span<uint16_t> to);

// bf16 -> f32, exact. Precondition: equal sizes, no overlap.
void FromBf16(absl::Span<const uint16_t> from, absl::Span<float> to);

}  // namespace sdp
