#pragma once

#include <cstdint>

#include "common/model/llama.h"
#include "worker/model/stage.h"

namespace sdp {

// The stages of LlamaCatalog: "embed", per layer "layers.i.attention" and "layers.i.mlp", and
// "head" as the loss. Input and target are [B, L] i64 token ids, L <= seq_len; boundary activations
// [B, L, d] f32. Weights by Hugging Face's names, in their conventions (rotate_half, [out, in]
// matrices).
Network LlamaNetwork(const LlamaSpec& spec, int64_t seq_len);

}  // namespace sdp
