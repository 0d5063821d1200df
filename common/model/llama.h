#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "common/model/catalog.h"
#include "common/model/neuron_units.h"
#include "common/model/transformer_unit.h"

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

// ---- Block granularity ----

// The stages are: "embed", then per layer "layers.i.attention" and "layers.i.mlp", then "head"
// (final norm, projection, loss); with kLayer both stages of a layer read the one unit "layers.i".
// Units "embed" and "head" are shared. `seq_len` tokens per sample. Precondition: a spec that the
// config reader accepts.
Catalog LlamaCatalog(const LlamaSpec& spec, TransformerUnit unit, int64_t seq_len);

// ---- Neuron granularity ----

// The same stages and tensors. Units of a stage "layers.i.mlp": the shared "layers.i.mlp.norm", as
// every part of the MLP needs all of the norm's weight, then "layers.i.mlp.0" .. "layers.i.mlp.G-1"
// of kind "mlp": rows of gate and up with their columns of down, whose numbers differ by at most
// one; "layers.i.attention" likewise, a unit per kv head. The residual width is never cut.
// Precondition: CheckParts.
Catalog LlamaNeuronCatalog(const LlamaSpec& spec, const NeuronUnits& units, int64_t seq_len);

// InvalidArgument, naming the keys - it cannot be cut into so many groups.
absl::Status CheckParts(const LlamaSpec& spec, const NeuronUnits& units);
PartsText PartsTextOf(const LlamaSpec& spec, const std::string& stage, const std::string& kind,
                      int64_t parts);

}  // namespace sdp
