#include "common/export/image_folder.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/config/config.h"
#include "common/config/fields.h"
#include "common/config/rules.h"
#include "common/config/value.h"
#include "common/data/image_kinds.h"
#include "common/data/init_file.h"
#include "common/run/run_setup.h"

namespace sdp {
namespace {

using Json = nlohmann::json;

constexpr char kModelType[] = "sdp-image";

std::string Text(const Json& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
}

// A configuration with this model and these images. Its reader checks keys and values.
absl::StatusOr<RunSetup> SetupOf(const Json& json) {
  const auto model = json.find("model"), data = json.find("data");
  if (model == json.end() || !model->is_object() || data == json.end()) {
    return absl::InvalidArgumentError("model or data is missing");
  }
  std::string toml = "[model]\n";
  for (const auto& [key, value] : model->items()) {
    if (!std::all_of(key.begin(), key.end(),
                     [](char c) { return absl::ascii_islower(c) || c == '_'; })) {
      return absl::InvalidArgumentError(absl::StrCat(
          "model: ", absl::Utf8SafeCEscape(key.substr(0, 100)), " is no key of a model"));
    }
    absl::StrAppend(&toml, key, " = ", Text(value), "\n");
  }
  absl::StrAppend(&toml, "[data]\nkind = ", Text(*data), "\ntrain = ['none']\n");
  SDP_ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadConfigText(toml, "model", {}));
  if (FindImageKind(loaded.config.data().kind()) == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("data = ", Text(*data), ": no kind of images"));
  }
  return MakeRunSetup(loaded.config);
}

// What is computed must be the model that was meant: each field is as sdp writes it.
absl::Status CheckFields(const Json& found, const Json& written) {
  for (const auto& [key, value] : written.items()) {
    if (!found.contains(key)) return absl::InvalidArgumentError(absl::StrCat(key, " is missing"));
    if (value.is_object()) {
      SDP_RETURN_IF_ERROR(CheckFields(found[key], value));
    } else if (found[key] != value) {
      return absl::InvalidArgumentError(absl::StrCat(key, " = ", Text(found[key]).substr(0, 100),
                                                     ": only ", Text(value), " can be computed"));
    }
  }
  for (const auto& [key, value] : found.items()) {
    if (written.contains(key)) continue;
    return absl::InvalidArgumentError(absl::StrCat(absl::Utf8SafeCEscape(key.substr(0, 100)), " = ",
                                                   Text(value).substr(0, 100),
                                                   ": this field is not known here"));
  }
  return absl::OkStatus();
}

absl::StatusOr<RunSetup> Parse(absl::string_view config_json) {
  const Json json =
      Json::parse(config_json.begin(), config_json.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("it is no JSON object");
  SDP_ASSIGN_OR_RETURN(RunSetup setup, SetupOf(json));
  SDP_RETURN_IF_ERROR(CheckFields(json, Json::parse(ImageConfigJson(setup.config))));
  return setup;
}

std::vector<NormSpec> BatchNorms(const RunSetup& setup) {
  std::vector<NormSpec> norms;
  if (!HasBatchNorm(setup.model)) return norms;
  for (const StageSpec& stage : setup.catalog.stages) {
    for (NormSpec& norm : NormsOf(setup.catalog, stage)) norms.push_back(std::move(norm));
  }
  return norms;
}

absl::StatusOr<NormValues> ReadNorms(const TensorFiles& weights,
                                     const std::vector<NormSpec>& norms) {
  NormValues values;
  for (const NormSpec& norm : norms) {
    for (const std::string& name : {norm.mean(), norm.variance()}) {
      std::vector<float>& read = values[name];
      read.resize(static_cast<size_t>(norm.channels));
      SDP_RETURN_IF_ERROR(weights.Find(name)->Read(name, 0, absl::MakeSpan(read)));
      for (const float value : read) {
        if (std::isfinite(value) && (name == norm.mean() || value >= 0)) continue;
        return absl::InvalidArgumentError(
            absl::StrCat(weights.name(), ": tensor ", name, " has the value ", value));
      }
    }
  }
  return values;
}

}  // namespace

std::string ImageConfigJson(const RunConfig& config) {
  nlohmann::ordered_json model;
  for (const config::Rule& rule : config::Rules()) {
    absl::string_view key = rule.key;
    if (!absl::ConsumePrefix(&key, "model.") || key == "preset") continue;
    if (!rule.IsOf(config.model().arch())) continue;
    const absl::optional<config::Value> value = config::GetField(config, rule.key);
    if (value.has_value())
      model[std::string(key)] = nlohmann::ordered_json::parse(config::TomlText(*value));
  }
  const ImageKind& images = *FindImageKind(config.data().kind());
  const nlohmann::ordered_json json = {{"model_type", kModelType},
                                       {"model", model},
                                       {"data", config.data().kind()},
                                       {"image_mean", images.mean},
                                       {"image_std", images.std}};
  return json.dump(2) + "\n";
}

bool IsImageConfig(absl::string_view config_json) {
  const Json json =
      Json::parse(config_json.begin(), config_json.end(), nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.contains("model_type") && json["model_type"] == kModelType;
}

absl::StatusOr<StoredModel> OpenImageFolder(const std::string& folder,
                                            absl::string_view config_json,
                                            std::shared_ptr<const TensorFiles> weights) {
  absl::StatusOr<RunSetup> setup = Parse(config_json);
  if (!setup.ok()) return Context(setup.status(), folder + "/config.json");
  const std::vector<NormSpec> norms = BatchNorms(*setup);
  Catalog known = setup->catalog;
  for (const NormSpec& norm : norms) {
    for (const std::string& name : {norm.mean(), norm.variance()})
      known.tensors.push_back({name, {norm.channels}, {}, /*decay=*/false});
  }
  SDP_RETURN_IF_ERROR(CheckAgainst(*weights, known));
  StoredImages images = {.kind = FindImageKind(setup->config.data().kind()),
                         .image_size = setup->config.model().image_size(),
                         .classes = setup->config.model().classes(),
                         .config_json = std::string(config_json)};
  SDP_ASSIGN_OR_RETURN(images.norms, ReadNorms(*weights, norms));
  std::vector<double> factors(setup->catalog.units.size(), 1.0);
  const auto read = [weights, catalog = setup->catalog, layout = setup->layout](
                        FragmentId fragment, absl::Span<float> out) {
    return ReadFragment(*weights, catalog, layout, fragment, out);
  };
  return StoredModel{.name = folder,
                     .model = setup->model,
                     .catalog = std::move(setup->catalog),
                     .layout = std::move(setup->layout),
                     .factors = std::move(factors),
                     .step = std::nullopt,
                     .tokenizer = "",
                     .images = std::move(images),
                     .read = read};
}

}  // namespace sdp
