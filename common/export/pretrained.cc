#include "common/export/pretrained.h"

#include <cstddef>
#include <filesystem>
#include <system_error>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "common/base/hash.h"
#include "common/base/status.h"
#include "common/config/value.h"
#include "common/data/file_checksum.h"
#include "common/data/init_file.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

// Keys of [model] and their values, as TOML: what a run and a folder must agree on.
std::vector<std::pair<std::string, std::string>> ModelKeys(const LlamaSpec& spec) {
  const std::vector<std::pair<std::string, config::Value>> keys = {
      {"model.arch", {std::string("llama")}}, {"model.dim", {spec.dim}},
      {"model.layers", {spec.layers}},        {"model.heads", {spec.heads}},
      {"model.kv_heads", {spec.kv_heads}},    {"model.ffn_dim", {spec.ffn_dim}},
      {"model.vocab", {spec.vocab}},          {"model.rope_theta", {spec.rope_theta}},
      {"model.norm_eps", {spec.norm_eps}},    {"model.tied", {spec.tied}},
  };
  std::vector<std::pair<std::string, std::string>> texts;
  for (const auto& [key, value] : keys) texts.emplace_back(key, config::TomlText(value));
  return texts;
}

}  // namespace

absl::Status CheckPretrained(const std::string& folder, const RunSetup& setup) {
  const auto* const llama = std::get_if<LlamaSpec>(&setup.model);
  if (llama == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("model.arch = \"", setup.config.model().arch(),
                     "\": --from-pretrained starts from a dense LLaMA's folder"));
  }
  SDP_ASSIGN_OR_RETURN(const ExportedFolder opened, ReadExportedFolder(folder));
  const auto run = ModelKeys(*llama), given = ModelKeys(opened.config.spec);
  for (size_t i = 0; i < run.size(); ++i) {
    if (run[i].second == given[i].second) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        run[i].first, " = ", run[i].second, ": the model in ", folder, " has ", given[i].second));
  }
  const RunConfig::Data& data = setup.config.data();
  if (data.seq_len() > opened.config.positions) {
    return absl::InvalidArgumentError(absl::StrCat("data.seq_len = ", data.seq_len(),
                                                   ": the model in ", folder, " has ",
                                                   opened.config.positions, " positions"));
  }
  if (data.kind() == "text" && opened.tokens != TokenKind::kBytes &&
      !TokenizerFiles(folder).empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("data.kind = \"text\", whose tokens are bytes: ", folder,
                     " has another tokenizer; give its ids, as data.kind = \"tokens\""));
  }
  return CheckAgainst(*opened.weights, setup.catalog);
}

absl::StatusOr<std::vector<std::string>> ModelSettings(const std::string& folder) {
  SDP_ASSIGN_OR_RETURN(const ExportedFolder opened, ReadExportedFolder(folder));
  std::vector<std::string> settings;
  for (const auto& [key, value] : ModelKeys(opened.config.spec)) {
    settings.push_back(absl::StrCat(key, "=", value));
  }
  return settings;
}

absl::StatusOr<uint64_t> StartChecksum(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return FileChecksum(path);
  SDP_ASSIGN_OR_RETURN(const ExportedFolder opened, ReadExportedFolder(path));
  std::vector<std::string> files = {(fs::path(path) / kConfigName).string()};
  for (const auto& file : opened.weights->files()) files.push_back(file->path());
  uint64_t hash = 0;
  for (const std::string& file : files) {
    SDP_ASSIGN_OR_RETURN(const uint64_t checksum, FileChecksum(file));
    hash = Hash64({reinterpret_cast<const char*>(&checksum), sizeof(checksum)}, hash);
  }
  return hash;
}

}  // namespace sdp
