#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/export/stored_model.h"

namespace sdp {

// The files of an exported folder, by Hugging Face's names.
inline constexpr char kConfigName[] = "config.json";
inline constexpr char kGenerationConfigName[] = "generation_config.json";
inline constexpr char kTokenizerName[] = "tokenizer.json";
inline constexpr char kTokenizerConfigName[] = "tokenizer_config.json";
inline constexpr char kWeightsName[] = "model.safetensors";           // if it is one part
inline constexpr char kIndexName[] = "model.safetensors.index.json";  // else

// A dense LLaMA in a folder as sdp export, or transformers, writes it. Whatever the files, an error
// says which one is wrong in what: NotFound - a file or tensor is missing. InvalidArgument - not a
// LLaMA that is computed here (llama_json.h), a shape that is not the configuration's, a tensor
// that no LLaMA has. DataLoss - a part was cut.
absl::StatusOr<StoredModel> OpenExported(const std::string& folder);

}  // namespace sdp
