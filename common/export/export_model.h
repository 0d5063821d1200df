#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/export/stored_model.h"

namespace sdp {

enum class ExportType { kF32, kBf16 };

struct ExportOptions {
  std::string out;  // a new folder, or an empty one
  ExportType type = ExportType::kF32;
  int64_t part_bytes = 5'000'000'000;  // of a safetensors file, at most
};

struct ExportResult {
  int parts = 0;
  int64_t params = 0;
  int64_t bytes = 0;       // of the safetensors files
  bool tokenizer = false;  // false: the ids' tokenizer is not known, so none was written
};

// Writes the full model as a folder: weights in safetensors and config.json. A language model's
// has generation_config.json and a tokenizer too, and Hugging Face transformers loads it as
// LlamaForCausalLM; an image model's is described in image_folder.h. A unit's factor is folded into
// the last linear map of its branch, as the f32 product of value and factor; then, for bf16,
// rounded to nearest even. The safetensors files depend on model, version and options alone.
// Memory: one fragment and one chunk of a tensor. The folder appears whole or not at all.
// Errors: AlreadyExists - `out` is not empty; FailedPrecondition - a model with BatchNorm whose
// statistics are not there; the model's; the file system's.
absl::StatusOr<ExportResult> ExportModel(const StoredModel& model, const ExportOptions& options);

}  // namespace sdp
