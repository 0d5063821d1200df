#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "common/export/export_model.h"
#include "common/export/stored_model.h"

namespace sdp {

// `sdp export RUN [--step T] --out DIR [--dtype f32|bf16] [--part-size SIZE]`: a run's model as a
// folder, from a checkpoint. Needs no process of the run and disturbs none.
struct ExportCommand {
  std::string run_dir;
  std::optional<int64_t> step;  // nullopt: the newest complete checkpoint
  std::string part_size;        // "2GB": of a file of weights, at most; "": 5 GB
  ExportOptions options;        // all but part_bytes
};

// The subcommand of that name, which fills in `command` when it is parsed.
CLI::App* AddExportCommand(CLI::App& app, ExportCommand& command);

// Says on `out` what was written, on `messages` what is missing. `learn_norms`: called for a model
// with BatchNorm, which takes torch. InvalidArgument - part_size is none. Other errors:
// common/export/run_model.h and export_model.h, and those of `learn_norms`.
absl::Status RunExportCommand(const ExportCommand& command,
                              const std::function<absl::Status(StoredModel& model)>& learn_norms,
                              std::ostream& out, std::ostream& messages);

}  // namespace sdp
