#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"

namespace sdp {

// Writes a fragment's initial values, `values` [fragment size] f32. Each element is drawn from a
// counter-based generator keyed by (seed, tensor name, element), so no process needs more than what
// it owns and the same bits come from any number of shards and any fragment size. Normal values by
// Box-Muller with own logarithm and cosine: libm's differ by version.
void FillInitialValues(const Catalog& catalog, const Layout& layout, FragmentId fragment,
                       uint64_t seed, absl::Span<float> values);

}  // namespace sdp
