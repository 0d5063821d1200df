#pragma once

#include <cstdint>

#include "common/model/catalog.h"

namespace sdp {

// Sizes of a LLaMA decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
struct LlamaSpec {
  int64_t dim = 0;  // d: residual width
  int64_t layers = 0;
  int64_t heads = 0;     // query heads of d / heads elements
  int64_t kv_heads = 0;  // divides heads
  int64_t ffn_dim = 0;
  int64_t vocab = 0;
  double rope_theta = 1e4;
  double norm_eps = 1e-5;
  bool tied = false;  // the head uses the embedding's tensor

  int64_t head_dim() const { return dim / heads; }
};

enum class TransformerUnit { kSublayer, kLayer };

// The stages are: "embed", then per layer "layers.i.attention" and "layers.i.mlp", then "head"
// (final norm, projection, loss); with kLayer both stages of a layer read the one unit "layers.i".
// Units "embed" and "head" are shared. `seq_len` tokens per sample. Precondition: a spec that the
// config reader accepts.
Catalog LlamaCatalog(const LlamaSpec& spec, TransformerUnit unit, int64_t seq_len);

}  // namespace sdp
