#include "common/export/exported_model.h"

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/data/init_file.h"
#include "common/data/safetensors.h"
#include "common/data/small_file.h"
#include "common/export/byte_tokenizer.h"
#include "common/export/llama_json.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLargestConfig = 1 << 20;
constexpr size_t kLargestIndex = 100 << 20;
constexpr size_t kLargestTokenizer = 100 << 20;
// As many as 25 TB of weights have; each is an open file.
constexpr size_t kMostParts = 5000;

bool Exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// The parts of the index, each once. A name must be a file of this folder.
absl::StatusOr<std::set<std::string>> PartNames(const std::string& path) {
  SDP_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kLargestIndex));
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || map == json.end() || !map->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": no JSON object with a weight_map"));
  }
  std::set<std::string> parts;
  for (const auto& [tensor, part] : map->items()) {
    const std::string name = part.is_string() ? part.get<std::string>() : "";
    if (name.empty() || name[0] == '.' || name.find_first_of("/\0", 0, 2) != name.npos) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor \"",
                                                     absl::Utf8SafeCEscape(tensor.substr(0, 200)),
                                                     "\" must be in a file of this folder"));
    }
    parts.insert(name);
  }
  if (parts.size() > kMostParts) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", parts.size(), " parts; at most ", kMostParts, " are read"));
  }
  return parts;
}

// All parts of a folder's weights: which has which tensor. Immutable.
class Parts {
 public:
  static absl::StatusOr<std::shared_ptr<const Parts>> Open(const fs::path& folder) {
    std::set<std::string> names = {kWeightsName};
    if (!Exists(folder / kWeightsName)) {
      if (!Exists(folder / kIndexName)) {
        return absl::NotFoundError(
            absl::StrCat(folder.string(), " has neither ", kWeightsName, " nor ", kIndexName));
      }
      SDP_ASSIGN_OR_RETURN(names, PartNames((folder / kIndexName).string()));
    }
    auto parts = std::make_shared<Parts>();
    for (const std::string& name : names) {
      SDP_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsReader> reader,
                           SafetensorsReader::Open((folder / name).string()));
      for (const SafetensorsReader::Tensor& tensor : reader->tensors()) {
        if (!parts->of_.emplace(tensor.name, reader.get()).second) {
          return absl::InvalidArgumentError(absl::StrCat(
              reader->path(), ": tensor ", absl::Utf8SafeCEscape(tensor.name.substr(0, 200)),
              " is in another part too"));
        }
      }
      parts->readers_.push_back(std::move(reader));
    }
    return parts;
  }

  // Exactly the catalog's tensors. `folder` is for errors.
  absl::Status Check(const Catalog& catalog, const std::string& folder) const {
    absl::flat_hash_map<std::string, const SafetensorsReader*> rest = of_;
    for (const TensorSpec& tensor : catalog.tensors) {
      const auto it = rest.find(tensor.name);
      if (it == rest.end()) {
        return absl::NotFoundError(absl::StrCat(folder, ": tensor ", tensor.name, " [",
                                                absl::StrJoin(tensor.shape, ", "),
                                                "] of the model is missing"));
      }
      SDP_RETURN_IF_ERROR(CheckTensor(*it->second, tensor));
      rest.erase(it);
    }
    if (rest.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(rest.begin()->second->path(), ": tensor ",
                     absl::Utf8SafeCEscape(rest.begin()->first.substr(0, 200)),
                     " is none of a LLaMA's of this configuration"));
  }

  const SafetensorsReader& of(const std::string& tensor) const { return *of_.at(tensor); }

 private:
  std::vector<std::unique_ptr<SafetensorsReader>> readers_;
  absl::flat_hash_map<std::string, const SafetensorsReader*> of_;
};

absl::StatusOr<TokenKind> ReadTokenKind(const fs::path& folder) {
  const fs::path path = folder / kTokenizerName;
  if (!Exists(path)) return TokenKind::kIds;
  SDP_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path.string(), kLargestTokenizer));
  return IsByteTokenizer(text) ? TokenKind::kBytes : TokenKind::kIds;
}

}  // namespace

absl::StatusOr<StoredModel> OpenExported(const std::string& folder) {
  const std::string path = (fs::path(folder) / kConfigName).string();
  SDP_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kLargestConfig));
  const absl::StatusOr<LlamaFolderConfig> config = ParseLlamaConfig(text);
  if (!config.ok()) return Context(config.status(), path);
  SDP_ASSIGN_OR_RETURN(const std::shared_ptr<const Parts> parts, Parts::Open(folder));
  Catalog catalog = LlamaCatalog(config->spec, TransformerUnit::kSublayer, config->positions);
  SDP_RETURN_IF_ERROR(parts->Check(catalog, folder));
  SDP_ASSIGN_OR_RETURN(const TokenKind tokens, ReadTokenKind(folder));

  Layout layout(catalog);
  std::vector<double> factors(catalog.units.size(), 1.0);
  const auto read = [parts, catalog, layout](FragmentId fragment, absl::Span<float> out) {
    for (const Piece& piece : layout.pieces(fragment)) {
      const std::string& name = catalog.tensors[static_cast<size_t>(piece.tensor)].name;
      SDP_RETURN_IF_ERROR(
          parts->of(name).Read(name, piece.tensor_offset,
                               out.subspan(static_cast<size_t>(piece.fragment_offset),
                                           static_cast<size_t>(piece.size))));
    }
    return absl::OkStatus();
  };
  return StoredModel{.name = folder,
                     .llama = config->spec,
                     .catalog = std::move(catalog),
                     .layout = std::move(layout),
                     .factors = std::move(factors),
                     .positions = config->positions,
                     .tokens = tokens,
                     .step = std::nullopt,
                     .tokenizer = "",
                     .read = read};
}

}  // namespace sdp
