#include "common/config/config.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/status.h"
#include "common/config/cross_rules.h"
#include "common/config/fields.h"
#include "common/config/presets.h"
#include "common/config/rules.h"
#include "common/config/toml_reader.h"
#include "common/config/value.h"
#include "common/data/image_kinds.h"
#include "google/protobuf/descriptor.h"
#include "proto/config.pb.h"

namespace sdp {
namespace {

using config::CheckTogether;
using config::CheckValue;
using config::FieldOf;
using config::FindRule;
using config::Preset;
using config::Rule;
using config::Setting;
using config::Shown;
using config::Value;

constexpr size_t kLargestFile = 1 << 20;
constexpr size_t kMostErrors = 20;  // Of one file; more is another kind of file.

// Divides evenly among N workers for N / p = 2, 3, 4, 6, 8, 12 and 24, and keeps fragments large:
// of llama-134m's MLPs a part has 196,608 parameters.
constexpr int64_t kDefaultGroups = 24;

class Loader {
 public:
  // Takes what the user said; the last setting of a key wins.
  void Apply(Setting setting) {
    if (errors_.size() >= kMostErrors) return;
    if (setting.is_empty_section) {
      if (!config::IsSection(setting.key)) {
        Fail(setting.origin, config::ExplainUnknownSection(setting.key));
      }
      return;
    }
    const std::string key = absl::StrCat(setting.section, ".", setting.key);
    const Rule* const rule = FindRule(key);
    if (rule == nullptr) {
      Fail(setting.origin, config::ExplainUnknownKey(setting.section, setting.key));
      return;
    }
    const auto& field = *FieldOf(key);
    const bool is_text = !field.is_repeated() &&
                         field.cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_STRING;
    if (is_text && !setting.raw.empty() && !std::holds_alternative<std::string>(setting.value.is)) {
      setting.value.is = setting.raw;
    }
    const std::string problem = CheckValue(*rule, setting.value);
    if (!problem.empty()) {
      Fail(setting.origin, problem);
      return;
    }
    Set(key, setting.value, setting.origin);
  }

  // Takes preset and defaults where the user said nothing, then checks what needs several keys.
  void Resolve() {
    // A value refused before would only give misleading errors about its default.
    if (!errors_.empty()) return;
    ResolveModel();
    if (!Has("data.train"))
      errors_.push_back("data.train is required: a list of files, such as [\"a.txt\"]");
    for (const Rule& rule : config::Rules()) {
      const bool other_given =
          rule.key == "sdp.coverage" && (Has("sdp.holders") || Has("sdp.depth"));
      if (!rule.fallback.empty() && !other_given && rule.IsOf(loaded_.config.model().arch()))
        SetDefault(std::string(rule.key), *config::ReadValue(rule.fallback));
    }
    if (loaded_.config.sdp().granularity() == "neuron") ResolveNeurons();
    if (errors_.empty()) errors_ = CheckTogether(loaded_);
  }

  void Fail(absl::string_view origin, absl::string_view problem) {
    errors_.push_back(absl::StrCat(origin, ": ", problem));
  }
  void Fail(const absl::Status& status) { errors_.emplace_back(status.message()); }

  absl::StatusOr<LoadedConfig> Finish() && {
    if (!errors_.empty()) return absl::InvalidArgumentError(absl::StrJoin(errors_, "\n"));
    return std::move(loaded_);
  }

 private:
  bool Has(const std::string& key) const { return loaded_.origins.contains(key); }

  void Set(const std::string& key, const Value& value, const std::string& origin) {
    config::SetField(&loaded_.config, key, value);
    loaded_.origins[key] = origin;
  }
  void SetDefault(const std::string& key, const Value& value,
                  const std::string& origin = "default") {
    if (!Has(key)) Set(key, value, origin);
  }

  void ResolveModel() {
    const RunConfig::Model& model = loaded_.config.model();
    if (Has("model.preset") && Has("model.arch")) {
      errors_.push_back(
          absl::StrCat(Shown(loaded_, "model.preset"), ", ", Shown(loaded_, "model.arch"),
                       ": give one of the two; keys beside a preset override its sizes"));
      return;
    }
    if (Has("model.preset")) {
      ApplyPreset(model.preset());
    } else if (Has("model.arch")) {
      RequireSizes();
    } else {
      errors_.push_back(absl::StrCat("model.preset or model.arch is required; preset: ",
                                     config::Allowed(*FindRule("model.preset")),
                                     "; arch: ", config::Allowed(*FindRule("model.arch"))));
      return;
    }
    if (model.arch() == "llama") {
      SetDefault("model.kv_heads", {model.heads()}, "default: model.heads");
    } else {
      ResolveImages();
    }
    RefuseKeysOfOthers();
  }

  // Sizes that follow from the images. Another kind of data is refused later.
  void ResolveImages() {
    const ImageKind* const images = FindImageKind(loaded_.config.data().kind());
    if (images == nullptr) return;
    const std::string origin = "default: data.kind";
    SetDefault("model.image_size", {images->image_size}, origin);
    if (!images->IsFolder()) {
      SetDefault("model.classes", {images->classes}, origin);
      return;
    }
    Require("model.classes", Shown(loaded_, "data.kind"));
    if (loaded_.config.model().arch() == "resnet")
      SetDefault("model.stem", {std::string("imagenet")}, origin);
  }

  void ResolveNeurons() {
    const RunConfig::Model& model = loaded_.config.model();
    if (FindRule("sdp.attention")->IsOf(model.arch())) {
      SetDefault("sdp.attention", {std::string("split")}, "default: neuron");
    }
    if (model.arch() == "resnet") {  // Its norms' groups stay whole.
      SetDefault("sdp.groups", {model.norm_groups()}, "default: model.norm_groups");
    } else {
      SetDefault("sdp.groups", {kDefaultGroups}, "default: neuron");
    }
  }

  void RefuseKeysOfOthers() {
    for (const Rule& rule : config::Rules()) {
      const std::string key(rule.key);
      if (!Has(key) || rule.IsOf(loaded_.config.model().arch())) continue;
      errors_.push_back(absl::StrCat(Shown(loaded_, key), ", ", Shown(loaded_, "model.arch"),
                                     ": only ", absl::StrJoin(rule.archs, " and "), " has it"));
    }
  }

  void ApplyPreset(const std::string& name) {
    const std::string origin = absl::StrCat("preset ", name);
    for (const Preset& preset : config::Presets()) {
      if (preset.name != name) continue;
      SetDefault("model.arch", {std::string(preset.arch)}, origin);
      for (const auto& [key, value] : preset.sizes) {
        SetDefault(absl::StrCat("model.", key), *config::ReadValue(value), origin);
      }
    }
  }

  void Require(const std::string& key, absl::string_view beside) {
    if (Has(key)) return;
    errors_.push_back(
        absl::StrCat(key, " is required with ", beside, ": ", config::Allowed(*FindRule(key))));
  }

  void RequireSizes() {
    const std::string& arch = loaded_.config.model().arch();
    for (const char* const key :
         {"model.dim", "model.layers", "model.heads", "model.ffn_dim", "model.widths",
          "model.depths", "model.level_heads", "model.window", "model.patch"}) {
      if (FindRule(key)->IsOf(arch)) Require(key, Shown(loaded_, "model.arch"));
    }
    if (arch != "llama") return;
    if (!Has("data.kind") || loaded_.config.data().kind() == "text") {
      SetDefault("model.vocab", {int64_t{256}}, "default: text");
    } else {
      Require("model.vocab", Shown(loaded_, "data.kind"));
    }
  }

  LoadedConfig loaded_;
  std::vector<std::string> errors_;
};

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::error_code error;
  const auto kind = std::filesystem::status(path, error).type();
  if (kind == std::filesystem::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat("no config file ", path));
  }
  if (kind == std::filesystem::file_type::directory) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is a folder, not a config file"));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(kLargestFile + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad())
    return absl::InvalidArgumentError(absl::StrCat("cannot read config file ", path));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kLargestFile) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is larger than 1 MiB: not a config file"));
  }
  return text;
}

}  // namespace

absl::StatusOr<LoadedConfig> LoadConfigText(absl::string_view text, absl::string_view name,
                                            absl::Span<const std::string> sets) {
  SDP_ASSIGN_OR_RETURN(std::vector<Setting> settings, config::ReadToml(text, name));
  Loader loader;
  for (Setting& setting : settings) loader.Apply(std::move(setting));
  for (const std::string& argument : sets) {
    absl::StatusOr<Setting> setting = config::ReadOverride(argument);
    if (setting.ok()) {
      loader.Apply(*std::move(setting));
    } else {
      loader.Fail(setting.status());
    }
  }
  loader.Resolve();
  return std::move(loader).Finish();
}

absl::StatusOr<std::set<std::string>> GivenKeys(const std::string& path,
                                                absl::Span<const std::string> sets) {
  SDP_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  SDP_ASSIGN_OR_RETURN(std::vector<Setting> settings, config::ReadToml(text, path));
  for (const std::string& argument : sets) {
    SDP_ASSIGN_OR_RETURN(Setting setting, config::ReadOverride(argument));
    settings.push_back(std::move(setting));
  }
  std::set<std::string> keys;
  for (const Setting& setting : settings) {
    if (!setting.is_empty_section) keys.insert(absl::StrCat(setting.section, ".", setting.key));
  }
  return keys;
}

absl::StatusOr<LoadedConfig> LoadConfig(const std::string& path,
                                        absl::Span<const std::string> sets) {
  SDP_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return LoadConfigText(text, path, sets);
}

}  // namespace sdp
