#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/export/exported_model.h"
#include "common/run/run_setup.h"

// A dense model in an exported folder (exported_model.h) as what a run starts from:
// `--from-pretrained`. Its full model at step 0 is the dense one: whoever reads a unit's values
// divides the last linear map of its branch (TensorSpec::ends_branch) by the unit's evaluation
// factor (common/plan/rescale.h), by which evaluation and export multiply.
namespace sdp {

// OK if a run of this configuration can start from the folder. InvalidArgument - names the key of
// the run's that says something else than the folder, and both values; a tensor; another
// tokenizer's ids for a run on bytes. Others as ReadExportedFolder. Reads no weights.
absl::Status CheckPretrained(const std::string& folder, const RunSetup& setup);

// "model.dim=64", ...: the folder's model as overrides of a configuration.
absl::StatusOr<std::vector<std::string>> ModelSettings(const std::string& folder);

// Tells whether what a run started from is still the same: of a folder over its config.json and
// weights, each as FileChecksum; of a file FileChecksum's.
absl::StatusOr<uint64_t> StartChecksum(const std::string& path);

}  // namespace sdp
