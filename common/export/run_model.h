#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/export/stored_model.h"

namespace sdp {

// The folder that has a run's checkpoints: `checkpoint.dir` of its config.toml, by default
// RUN/checkpoints. It need not be there. NotFound - no run folder; InvalidArgument - its config.
absl::StatusOr<std::string> CheckpointFolder(const std::string& run_dir);

// The full model of a run's checkpoint at `step`, or of its newest complete one; no process is
// asked. NotFound - no run folder, or no such checkpoint (says which there are). DataLoss - it is
// damaged; `read` checks each fragment.
absl::StatusOr<StoredModel> OpenRun(const std::string& run_dir, std::optional<Step> step);

}  // namespace sdp
