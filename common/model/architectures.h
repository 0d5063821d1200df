#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "common/model/catalog.h"
#include "common/model/image_mlp.h"
#include "common/model/llama.h"
#include "common/model/neuron_units.h"
#include "common/model/resnet.h"
#include "common/model/stage_memory.h"
#include "common/model/swin.h"

// The list of architectures. One more is: its sizes and its catalog in a header of its own, a name
// in this list, and what the compiler then asks for: functions of architectures.cc and
// worker/model/networks.cc, and its keys in common/run/model_spec.cc.
namespace sdp {

using ModelSpec = std::variant<LlamaSpec, ResnetSpec, ImageMlpSpec, SwinSpec>;

// What a catalog depends on beside the model's sizes.
struct CatalogOptions {
  TransformerUnit unit = TransformerUnit::kSublayer;  // of transformers
  std::optional<NeuronUnits> neurons = std::nullopt;  // parts of these as units instead
  int64_t seq_len = 1;                                // tokens of a sample, where it is text
  bool recompute = false;                             // Recomputed (catalog.h)
};
// Precondition: CheckNeuronUnits of options.neurons.
Catalog MakeCatalog(const ModelSpec& spec, const CatalogOptions& options);

// InvalidArgument, naming the keys - the model cannot be cut into so many parts.
absl::Status CheckNeuronUnits(const ModelSpec& spec, const NeuronUnits& units);
// Of a stage whose `parts` units of a kind are too few.
PartsText PartsTextFor(const ModelSpec& spec, const std::string& stage, const std::string& kind,
                       int64_t parts);

// Whether its activations are normed by statistics of other samples (norm_values.h).
bool HasBatchNorm(const ModelSpec& spec);

// Loss terms of a sample.
int64_t TermsPerSample(const ModelSpec& spec, int64_t seq_len);

// What a worker allocates.
struct ModelMemory {
  StageMemories stages;
  int64_t table_bytes = 0;   // held as long as the worker lives
  int64_t input_bytes = 0;   // of a sample
  int64_t target_bytes = 0;  // likewise
};
ModelMemory MemoryOf(const ModelSpec& spec, int64_t seq_len, const ElementSizes& sizes,
                     const Computer& computer);

}  // namespace sdp
