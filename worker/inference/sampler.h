#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace sdp {

struct SamplerOptions {
  double temperature = 1;  // 0: always the most likely token
  int64_t top_k = 0;       // only the k most likely; 0: all
  uint64_t seed = 0;
};

// The token for `position` of a sequence, given its logits [vocab], all finite. A pure function:
// the random number is that of (seed, position). Among equal logits the lower id counts as the more
// likely.
int32_t SampleToken(absl::Span<const float> logits, const SamplerOptions& options,
                    int64_t position);

}  // namespace sdp
