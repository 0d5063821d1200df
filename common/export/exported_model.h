#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/data/tensor_files.h"
#include "common/export/llama_json.h"
#include "common/export/stored_model.h"

namespace sdp {

// The files of an exported folder, by Hugging Face's names.
inline constexpr char kConfigName[] = "config.json";
inline constexpr char kGenerationConfigName[] = "generation_config.json";
inline constexpr char kTokenizerName[] = "tokenizer.json";
inline constexpr char kTokenizerConfigName[] = "tokenizer_config.json";
inline constexpr char kWeightsName[] = "model.safetensors";           // if it is one part
inline constexpr char kIndexName[] = "model.safetensors.index.json";  // else

// The files of a tokenizer that a folder has, by the names that their authors give them.
std::vector<std::string> TokenizerFiles(const std::string& folder);

// A dense LLaMA in a folder as sdp export, or transformers, writes it, with its files open.
struct ExportedFolder {
  LlamaFolderConfig config;
  std::shared_ptr<const TensorFiles> weights;
  TokenKind tokens = TokenKind::kIds;
};

// Whatever the files, an error of these says which one is wrong in what: NotFound - a file or
// tensor is missing. InvalidArgument - not a LLaMA that is computed here (llama_json.h), a shape
// that is not the configuration's, a tensor that no LLaMA has. DataLoss - a part was cut.
// What the weights must be is not looked at yet (common/data/init_file.h).
absl::StatusOr<ExportedFolder> ReadExportedFolder(const std::string& folder);
// The same for the whole model, or an image model (image_folder.h).
absl::StatusOr<StoredModel> OpenExported(const std::string& folder);

}  // namespace sdp
