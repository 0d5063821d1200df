#pragma once

#include <vector>

#include "absl/types/span.h"
#include "common/base/float_buffer.h"

namespace sdp {

// The memory traffic of an optimizer's update and next to no arithmetic: reads value, gradient and
// moments, writes value and moments. All [n] f32.
void UpdateFloor(absl::Span<float> value, absl::Span<const float> gradient,
                 std::vector<FloatBuffer>& moments);

// That of a sum: reads all gradients, writes the first.
void SumFloor(std::vector<FloatBuffer>& gradients);

}  // namespace sdp
