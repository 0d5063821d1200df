#pragma once

#include <cstdint>
#include <vector>

#include "common/model/llama.h"
#include "common/model/stage_memory.h"

namespace sdp {

// What each stage of a catalog of `spec` takes on a worker that has `held` elements of each tensor,
// for `samples` samples of seq_len tokens, computed with `threads` threads.
std::vector<StageMemory> LlamaMemory(const LlamaSpec& spec, int64_t seq_len, int64_t samples,
                                     absl::Span<const int64_t> held, const ElementSizes& sizes,
                                     int threads);

// Tables that a worker holds as long as it lives: the angles of rotary positions.
int64_t LlamaTableBytes(const LlamaSpec& spec, int64_t seq_len);

// Tokens that the head computes at once, so that logits near 4 MiB exist at a time; at least 256,
// since each chunk reads the projection and updates its gradient, which takes longer than the
// products themselves when chunks are small.
int64_t LlamaHeadChunk(int64_t vocab);

}  // namespace sdp
