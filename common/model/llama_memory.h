#pragma once

#include <cstdint>
#include <vector>

#include "common/model/llama.h"
#include "common/model/stage_memory.h"

namespace sdp {

// What each stage of a catalog of `spec` takes on a worker that has `held`, for `samples`
// samples of seq_len tokens. In bf16 on the host some of it is left out (README).
std::vector<StageMemory> LlamaMemory(const LlamaSpec& spec, int64_t seq_len, int64_t samples,
                                     const HeldTensors& held, const ElementSizes& sizes,
                                     const Computer& computer);

// What attention on GPUs goes by (worker/model/causal_attention.cc): heads of at most this size
// have flash attention in bf16; the others' scores exist for so many at a time, 64 MiB of f32.
inline constexpr int64_t kFlashHeadSize = 192;
inline constexpr int64_t kAttentionScores = int64_t{1} << 24;

// Tables that a worker holds as long as it lives: the angles of rotary positions.
int64_t LlamaTableBytes(const LlamaSpec& spec, int64_t seq_len);

// Tokens that the head computes at once, so that logits near 4 MiB exist at a time; at least 256,
// since each chunk reads the projection and updates its gradient, which takes longer than the
// products themselves when chunks are small.
int64_t LlamaHeadChunk(int64_t vocab);

}  // namespace sdp
