#include "common/export/run_model.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint_reader.h"
#include "common/checkpoint/manifest.h"
#include "common/config/config.h"
#include "common/data/image_kinds.h"
#include "common/export/image_folder.h"
#include "common/run/run_setup.h"

namespace sdp {
namespace {

// The step asked for, or the newest.
absl::StatusOr<Step> Choose(const std::string& run_dir, const std::string& folder,
                            std::optional<Step> wanted) {
  SDP_ASSIGN_OR_RETURN(const std::vector<Step> steps, ListCheckpoints(folder));
  if (steps.empty()) {
    return absl::NotFoundError(
        absl::StrCat(run_dir, " has no complete checkpoint yet (in ", folder,
                     "): one is written every checkpoint.every steps, and when the run ends"));
  }
  if (!wanted.has_value()) return steps.back();
  if (std::binary_search(steps.begin(), steps.end(), *wanted)) return *wanted;
  return absl::NotFoundError(absl::StrCat(run_dir, " has no checkpoint of step ", *wanted,
                                          "; there are those of steps ", absl::StrJoin(steps, ", "),
                                          " (in ", folder, ")"));
}

absl::StatusOr<std::vector<double>> FactorsOf(const CheckpointManifest& manifest,
                                              const RunSetup& setup) {
  const size_t units = setup.catalog.units.size();
  if (manifest.coverage.size() != units) {
    return absl::DataLossError(absl::StrCat("the manifest has the coverage of ",
                                            manifest.coverage.size(), " units, the model has ",
                                            units));
  }
  std::vector<double> factors;
  for (const double coverage : manifest.coverage) {
    factors.push_back(EvaluationFactor(setup.rescale, coverage));
  }
  return factors;
}

// Nothing for a language model.
std::optional<StoredImages> ImagesOf(const RunConfig& config) {
  const ImageKind* const kind = FindImageKind(config.data().kind());
  if (kind == nullptr) return std::nullopt;
  return StoredImages{.kind = kind,
                      .image_size = config.model().image_size(),
                      .classes = config.model().classes(),
                      .config_json = ImageConfigJson(config),
                      .training = {config.data().train().begin(), config.data().train().end()},
                      .augmentation_seed = static_cast<uint64_t>(config.train().seed()),
                      .micro_batch = config.train().micro_batch()};
}

absl::StatusOr<StoredModel> FromCheckpoint(std::shared_ptr<const CheckpointReader> reader) {
  const CheckpointManifest& manifest = reader->manifest();
  SDP_ASSIGN_OR_RETURN(const LoadedConfig loaded,
                       LoadConfigText(manifest.config, "the checkpoint's configuration", {}));
  SDP_ASSIGN_OR_RETURN(RunSetup setup, MakeRunSetup(loaded.config));
  SDP_RETURN_IF_ERROR(CheckComplete(manifest, setup.layout));
  SDP_ASSIGN_OR_RETURN(std::vector<double> factors, FactorsOf(manifest, setup));
  return StoredModel{
      .name = reader->path(),
      .model = setup.model,
      .catalog = std::move(setup.catalog),
      .layout = std::move(setup.layout),
      .factors = std::move(factors),
      .positions = setup.config.data().seq_len(),
      .tokens = setup.config.data().kind() == "text" ? TokenKind::kBytes : TokenKind::kIds,
      .step = manifest.step,
      .tokenizer = setup.config.data().tokenizer(),
      .images = ImagesOf(setup.config),
      .read = [reader](FragmentId fragment, absl::Span<float> out) {
        return reader->ReadValue(fragment, out);
      }};
}

}  // namespace

absl::StatusOr<std::string> CheckpointFolder(const std::string& run_dir) {
  const std::string path = run_dir + "/config.toml";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    return absl::NotFoundError(absl::StrCat(run_dir, " is no run folder: it has no config.toml"));
  }
  SDP_ASSIGN_OR_RETURN(LoadedConfig loaded, LoadConfig(path, {}));
  loaded.config.mutable_run()->set_dir(
      run_dir);  // It may have been moved, or called from elsewhere.
  return CheckpointsPath(loaded.config);
}

absl::StatusOr<StoredModel> OpenRun(const std::string& run_dir, std::optional<Step> step) {
  SDP_ASSIGN_OR_RETURN(const std::string folder, CheckpointFolder(run_dir));
  SDP_ASSIGN_OR_RETURN(const Step chosen, Choose(run_dir, folder, step));
  const std::string path = absl::StrCat(folder, "/", CheckpointName(chosen));
  SDP_ASSIGN_OR_RETURN(std::shared_ptr<const CheckpointReader> reader,
                       CheckpointReader::Open(path));
  absl::StatusOr<StoredModel> model = FromCheckpoint(std::move(reader));
  if (!model.ok()) return Context(model.status(), path);
  return model;
}

}  // namespace sdp
