#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/model/llama.h"

namespace sdp {

// A LLaMA as the config.json beside its weights describes it (Hugging Face's LlamaConfig).
struct LlamaFolderConfig {
  LlamaSpec spec;
  int64_t positions = 0;  // max_position_embeddings: tokens that a sequence may have
};

// `dtype` of the weights: "float32", "bfloat16". Nothing is said of begin and end tokens: null.
std::string LlamaConfigJson(const LlamaFolderConfig& config, const std::string& dtype);

// Whatever the text: the config, or InvalidArgument - not JSON, another architecture, sizes that no
// model has, or a field that changes the model or may (named, with its value): what is computed
// must be the model that was meant.
absl::StatusOr<LlamaFolderConfig> ParseLlamaConfig(absl::string_view text);

}  // namespace sdp
