#include "common/export/export_model.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <iterator>
#include <set>
#include <system_error>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/dtype.h"
#include "common/base/status.h"
#include "common/data/safetensors_writer.h"
#include "common/data/small_file.h"
#include "common/export/byte_tokenizer.h"
#include "common/export/exported_model.h"
#include "common/export/llama_json.h"
#include "common/export/new_folder.h"
#include "common/export/parts.h"
#include "common/export/tensor_stream.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");

const NormValues& LearntNorms(const StoredModel& model) {
  static const auto* const none = new NormValues();
  return model.images.has_value() ? model.images->norms : *none;
}

// The catalog's tensors, then BatchNorm's statistics, which stay f32.
std::vector<SafetensorsWriter::Tensor> Tensors(const StoredModel& model, ExportType type) {
  std::vector<SafetensorsWriter::Tensor> tensors;
  for (const TensorSpec& tensor : model.catalog.tensors) {
    tensors.push_back({tensor.name, type == ExportType::kF32 ? "F32" : "BF16", tensor.shape});
  }
  for (const auto& [name, values] : LearntNorms(model)) {
    tensors.push_back({name, "F32", {static_cast<int64_t>(values.size())}});
  }
  return tensors;
}

// "format" is what transformers asks for; the rest says what these weights are.
SafetensorsWriter::Metadata MetadataOf(const StoredModel& model) {
  std::vector<std::string> folded;
  std::set<double> values;
  for (size_t unit = 0; unit < model.factors.size(); ++unit) {
    if (model.catalog.units[unit].shared) continue;
    folded.push_back(absl::StrCat(model.catalog.units[unit].name, "=", model.factors[unit]));
    values.insert(model.factors[unit]);
  }
  const bool none = values.empty() || values == std::set<double>{1.0};
  SafetensorsWriter::Metadata metadata = {
      {"format", "pt"},
      {"sdp.coverage_factors", none                       ? "none"
                               : model.images.has_value() ? "folded into the ends of branches"
                                                          : "folded into o_proj and down_proj"}};
  if (!none) {
    metadata.emplace_back("sdp.factors", values.size() == 1 ? absl::StrCat(*values.begin())
                                                            : absl::StrJoin(folded, " "));
  }
  if (model.step.has_value()) metadata.emplace_back("sdp.step", absl::StrCat(*model.step));
  return metadata;
}

// The bytes of tensors [first, first + count).
absl::Status WritePart(const StoredModel& model, TensorStream& stream, ExportType type,
                       size_t first, size_t count, SafetensorsWriter& file) {
  constexpr size_t kChunk = 1 << 16;
  std::vector<uint16_t> rounded;
  for (size_t tensor = first; tensor < first + count; ++tensor) {
    if (const size_t weights = model.catalog.tensors.size(); tensor >= weights) {
      const std::vector<float>& values =
          std::next(LearntNorms(model).begin(), static_cast<std::ptrdiff_t>(tensor - weights))
              ->second;
      SDP_RETURN_IF_ERROR(file.Append(
          {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)}));
      continue;
    }
    SDP_RETURN_IF_ERROR(stream.Read(static_cast<int>(tensor), [&](absl::Span<const float> values) {
      while (type == ExportType::kBf16 && !values.empty()) {
        const absl::Span<const float> chunk = values.subspan(0, kChunk);
        values.remove_prefix(chunk.size());
        rounded.resize(chunk.size());
        ToBf16(chunk, absl::MakeSpan(rounded));
        SDP_RETURN_IF_ERROR(file.Append(
            {reinterpret_cast<const char*>(rounded.data()), rounded.size() * sizeof(uint16_t)}));
      }
      return file.Append(
          {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
    }));
  }
  return absl::OkStatus();
}

absl::Status WriteWeights(const StoredModel& model, const ExportOptions& options,
                          const fs::path& folder, ExportResult* result) {
  const std::vector<SafetensorsWriter::Tensor> tensors = Tensors(model, options.type);
  const SafetensorsWriter::Metadata metadata = MetadataOf(model);
  const std::vector<size_t> parts = PlanParts(tensors, metadata, options.part_bytes);
  TensorStream stream(model);
  size_t next = 0;
  for (size_t part = 0; part < parts.size(); ++part) {
    const auto begin = tensors.begin() + static_cast<std::ptrdiff_t>(next);
    SDP_ASSIGN_OR_RETURN(const std::unique_ptr<SafetensorsWriter> file,
                         SafetensorsWriter::Create(
                             (folder / PartName(part, parts.size())).string(),
                             {begin, begin + static_cast<std::ptrdiff_t>(parts[part])}, metadata));
    SDP_RETURN_IF_ERROR(WritePart(model, stream, options.type, next, parts[part], *file));
    SDP_RETURN_IF_ERROR(file->Finish());
    result->bytes += file->file_bytes();
    next += parts[part];
  }
  result->parts = static_cast<int>(parts.size());
  result->params = model.catalog.params();
  if (parts.size() == 1) return absl::OkStatus();
  return WriteTextFile((folder / kIndexName).string(), IndexJson(tensors, parts));
}

absl::Status Copy(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::copy_file(from, to, error);
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("data.tokenizer: copy ", from.string(), " to ",
                                             to.string(), ": ", error.message()));
}

// The tokenizer that the run named: a folder of one, or its main file.
absl::Status CopyTokenizer(const StoredModel& model, const fs::path& folder) {
  const fs::path from = model.tokenizer;
  std::error_code ignored;
  int copied = 0;
  if (fs::is_directory(from, ignored)) {
    for (const std::string& name : TokenizerFiles(from.string())) {
      SDP_RETURN_IF_ERROR(Copy(from / name, folder / name));
      ++copied;
    }
  } else if (from.extension() == ".json" || from.extension() == ".model") {
    SDP_RETURN_IF_ERROR(Copy(from, folder / ("tokenizer" + from.extension().string())));
    ++copied;
  }
  if (copied == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("data.tokenizer = \"", model.tokenizer,
                     "\": must be a folder with tokenizer files (tokenizer.json, ...), or a "
                     "tokenizer's .json or .model file"));
  }
  if (fs::exists(folder / kTokenizerConfigName, ignored)) return absl::OkStatus();
  return WriteTextFile((folder / kTokenizerConfigName).string(),
                       TokenizerConfigJson(model.positions));
}

absl::Status WriteTokenizer(const StoredModel& model, const fs::path& folder,
                            ExportResult* result) {
  result->tokenizer = true;
  if (model.tokens == TokenKind::kBytes) {
    SDP_RETURN_IF_ERROR(WriteTextFile((folder / kTokenizerName).string(), ByteTokenizerJson()));
    return WriteTextFile((folder / kTokenizerConfigName).string(),
                         TokenizerConfigJson(model.positions));
  }
  if (!model.tokenizer.empty()) return CopyTokenizer(model, folder);
  result->tokenizer = false;
  return absl::OkStatus();
}

// All but the weights.
absl::Status WriteLanguageModel(const StoredModel& model, const ExportOptions& options,
                                const fs::path& folder, ExportResult* result) {
  SDP_RETURN_IF_ERROR(WriteTokenizer(model, folder, result));  // first: it may be wrong
  SDP_RETURN_IF_ERROR(
      WriteTextFile((folder / kConfigName).string(),
                    LlamaConfigJson({std::get<LlamaSpec>(model.model), model.positions},
                                    options.type == ExportType::kF32 ? "float32" : "bfloat16")));
  // Nothing is sampled or ended otherwise than the caller of generate() says.
  return WriteTextFile(
      (folder / kGenerationConfigName).string(),
      "{\n  \"bos_token_id\": null,\n  \"eos_token_id\": null,\n  \"pad_token_id\": null\n}\n");
}

}  // namespace

absl::StatusOr<ExportResult> ExportModel(const StoredModel& model, const ExportOptions& options) {
  if (HasBatchNorm(model.model) && LearntNorms(model).empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(model.name, ": BatchNorm's statistics have not been learnt"));
  }
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<NewFolder> folder, NewFolder::Create(options.out));
  const fs::path partial = folder->partial();
  ExportResult result;
  if (model.images.has_value()) {
    result.tokenizer = true;  // none is missing
    SDP_RETURN_IF_ERROR(WriteTextFile((partial / kConfigName).string(), model.images->config_json));
  } else {
    SDP_RETURN_IF_ERROR(WriteLanguageModel(model, options, partial, &result));
  }
  SDP_RETURN_IF_ERROR(WriteWeights(model, options, partial, &result));
  SDP_RETURN_IF_ERROR(folder->Commit());
  return result;
}

}  // namespace sdp
