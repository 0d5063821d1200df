#pragma once

#include "absl/types/span.h"

namespace sdp {

// Sum of squares in f64: 8 fixed lanes within each 1,024 elements, then lane by lane, then block by
// block, so that the bits do not depend on vector width.
double SumOfSquares(absl::Span<const float> values);

// Likewise of the products of elements. Precondition: of one size.
double DotProduct(absl::Span<const float> a, absl::Span<const float> b);

// No NaN and no infinity.
bool AllFinite(absl::Span<const float> values);

}  // namespace sdp
