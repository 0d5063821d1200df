#include "common/export/exported_model.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/data/init_file.h"
#include "common/data/small_file.h"
#include "common/export/byte_tokenizer.h"
#include "common/export/image_folder.h"

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

std::string ConfigPath(const fs::path& folder) { return (folder / kConfigName).string(); }

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

absl::StatusOr<std::vector<std::string>> WeightPaths(const fs::path& folder) {
  if (Exists(folder / kWeightsName)) return std::vector{(folder / kWeightsName).string()};
  if (!Exists(folder / kIndexName)) {
    return absl::NotFoundError(
        absl::StrCat(folder.string(), " has neither ", kWeightsName, " nor ", kIndexName));
  }
  SDP_ASSIGN_OR_RETURN(const std::set<std::string> names,
                       PartNames((folder / kIndexName).string()));
  std::vector<std::string> paths;
  for (const std::string& name : names) paths.push_back((folder / name).string());
  return paths;
}

absl::StatusOr<TokenKind> ReadTokenKind(const fs::path& folder) {
  const fs::path path = folder / kTokenizerName;
  if (!Exists(path)) return TokenKind::kIds;
  SDP_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path.string(), kLargestTokenizer));
  return IsByteTokenizer(text) ? TokenKind::kBytes : TokenKind::kIds;
}

}  // namespace

std::vector<std::string> TokenizerFiles(const std::string& folder) {
  std::vector<std::string> found;
  for (const char* const name :
       {kTokenizerName, kTokenizerConfigName, "special_tokens_map.json", "added_tokens.json",
        "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja"}) {
    if (Exists(fs::path(folder) / name)) found.emplace_back(name);
  }
  return found;
}

absl::StatusOr<ExportedFolder> ReadExportedFolder(const std::string& folder) {
  ExportedFolder read;
  const std::string path = ConfigPath(folder);
  SDP_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kLargestConfig));
  const absl::StatusOr<LlamaFolderConfig> config = ParseLlamaConfig(text);
  if (!config.ok()) return Context(config.status(), path);
  read.config = *config;
  SDP_ASSIGN_OR_RETURN(const std::vector<std::string> weights, WeightPaths(folder));
  SDP_ASSIGN_OR_RETURN(read.weights, TensorFiles::Open(folder, weights));
  SDP_ASSIGN_OR_RETURN(read.tokens, ReadTokenKind(folder));
  return read;
}

absl::StatusOr<StoredModel> OpenExported(const std::string& folder) {
  SDP_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(ConfigPath(folder), kLargestConfig));
  if (IsImageConfig(text)) {
    SDP_ASSIGN_OR_RETURN(const std::vector<std::string> paths, WeightPaths(folder));
    SDP_ASSIGN_OR_RETURN(std::shared_ptr<const TensorFiles> weights,
                         TensorFiles::Open(folder, paths));
    return OpenImageFolder(folder, text, std::move(weights));
  }
  SDP_ASSIGN_OR_RETURN(const ExportedFolder opened, ReadExportedFolder(folder));
  const LlamaFolderConfig& config = opened.config;
  Catalog catalog = LlamaCatalog(config.spec, TransformerUnit::kSublayer, config.positions);
  SDP_RETURN_IF_ERROR(CheckAgainst(*opened.weights, catalog));
  Layout layout(catalog);
  std::vector<double> factors(catalog.units.size(), 1.0);
  const auto read = [weights = opened.weights, catalog, layout](FragmentId fragment,
                                                                absl::Span<float> out) {
    return ReadFragment(*weights, catalog, layout, fragment, out);
  };
  return StoredModel{.name = folder,
                     .model = config.spec,
                     .catalog = std::move(catalog),
                     .layout = std::move(layout),
                     .factors = std::move(factors),
                     .positions = config.positions,
                     .tokens = opened.tokens,
                     .step = std::nullopt,
                     .tokenizer = "",
                     .read = read};
}

}  // namespace sdp
