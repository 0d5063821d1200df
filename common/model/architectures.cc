#include "common/model/architectures.h"

#include <utility>

#include "common/model/image_memory.h"
#include "common/model/llama_memory.h"
#include "common/model/swin_memory.h"

namespace sdp {
namespace {

constexpr int64_t kIndexBytes = 8;  // of a token or a class

// ---- One block of functions per architecture ----

Catalog CatalogOf(const LlamaSpec& spec, const CatalogOptions& options) {
  if (options.neurons.has_value()) {
    return LlamaNeuronCatalog(spec, *options.neurons, options.seq_len);
  }
  return LlamaCatalog(spec, options.unit, options.seq_len);
}
int64_t TermsOf(const LlamaSpec&, int64_t seq_len) { return seq_len; }
ModelMemory MemoryOfOne(const LlamaSpec& spec, int64_t seq_len, const ElementSizes& sizes,
                        const Computer& computer) {
  return {.stages =
              [spec, seq_len, sizes, computer](int64_t samples, const HeldTensors& held) {
                return LlamaMemory(spec, seq_len, samples, held, sizes, computer);
              },
          .table_bytes = LlamaTableBytes(spec, seq_len),
          .input_bytes = seq_len * kIndexBytes,
          .target_bytes = seq_len * kIndexBytes};
}

Catalog CatalogOf(const ResnetSpec& spec, const CatalogOptions& options) {
  return options.neurons.has_value() ? ResnetNeuronCatalog(spec, *options.neurons)
                                     : ResnetCatalog(spec);
}
int64_t TermsOf(const ResnetSpec&, int64_t) { return 1; }
ModelMemory MemoryOfOne(const ResnetSpec& spec, int64_t, const ElementSizes& sizes,
                        const Computer& computer) {
  // There cuDNN chooses the scratch of convolutions, which may be as much again.
  if (computer.place == MemoryPlace::kGpu) return {};
  return {.stages =
              [spec, sizes](int64_t samples, const HeldTensors& held) {
                return ResnetMemory(spec, samples, held, sizes);
              },
          .input_bytes = spec.channels * spec.image_size * spec.image_size * sizes.activation,
          .target_bytes = kIndexBytes};
}

Catalog CatalogOf(const ImageMlpSpec& spec, const CatalogOptions& options) {
  return options.neurons.has_value() ? ImageMlpNeuronCatalog(spec, *options.neurons)
                                     : ImageMlpCatalog(spec);
}
int64_t TermsOf(const ImageMlpSpec&, int64_t) { return 1; }
ModelMemory MemoryOfOne(const ImageMlpSpec& spec, int64_t, const ElementSizes& sizes,
                        const Computer&) {
  return {.stages =
              [spec, sizes](int64_t samples, const HeldTensors& held) {
                return ImageMlpMemory(spec, samples, held, sizes);
              },
          .input_bytes = spec.inputs * sizes.activation,
          .target_bytes = kIndexBytes};
}

Catalog CatalogOf(const SwinSpec& spec, const CatalogOptions& options) {
  return options.neurons.has_value() ? SwinNeuronCatalog(spec, *options.neurons)
                                     : SwinCatalog(spec, options.unit);
}
int64_t TermsOf(const SwinSpec&, int64_t) { return 1; }
ModelMemory MemoryOfOne(const SwinSpec& spec, int64_t, const ElementSizes& sizes,
                        const Computer& computer) {
  if (computer.place == MemoryPlace::kGpu) return {};  // as of ResNet
  return {.stages = [spec, sizes](
                        int64_t samples,
                        const HeldTensors& held) { return SwinMemory(spec, samples, held, sizes); },
          .input_bytes = spec.channels * spec.image_size * spec.image_size * sizes.activation,
          .target_bytes = kIndexBytes};
}

}  // namespace

Catalog MakeCatalog(const ModelSpec& spec, const CatalogOptions& options) {
  Catalog catalog = std::visit([&](const auto& one) { return CatalogOf(one, options); }, spec);
  return options.recompute ? Recomputed(std::move(catalog)) : catalog;
}

absl::Status CheckNeuronUnits(const ModelSpec& spec, const NeuronUnits& units) {
  return std::visit([&](const auto& one) { return CheckParts(one, units); }, spec);
}

PartsText PartsTextFor(const ModelSpec& spec, const std::string& stage, const std::string& kind,
                       int64_t parts) {
  return std::visit([&](const auto& one) { return PartsTextOf(one, stage, kind, parts); }, spec);
}

bool HasBatchNorm(const ModelSpec& spec) {
  const auto* const resnet = std::get_if<ResnetSpec>(&spec);
  return resnet != nullptr && resnet->norm_groups == 0;
}

int64_t TermsPerSample(const ModelSpec& spec, int64_t seq_len) {
  return std::visit([&](const auto& one) { return TermsOf(one, seq_len); }, spec);
}

ModelMemory MemoryOf(const ModelSpec& spec, int64_t seq_len, const ElementSizes& sizes,
                     const Computer& computer) {
  return std::visit([&](const auto& one) { return MemoryOfOne(one, seq_len, sizes, computer); },
                    spec);
}

}  // namespace sdp
