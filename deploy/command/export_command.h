#pragma once

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "common/export/export_model.h"

namespace sdp {

// `sdp export RUN [--step T] --out DIR [--dtype f32|bf16] [--part-size SIZE]`: a run's model as a
// folder for Hugging Face transformers, from a checkpoint. Needs no process of the run and disturbs
// none.
struct ExportCommand {
  std::string run_dir;
  std::optional<int64_t> step;  // nullopt: the newest complete checkpoint
  std::string part_size;        // "2GB": of a file of weights, at most; "": 5 GB
  ExportOptions options;        // all but part_bytes
};

// Says on `out` what was written, on `messages` what is missing. InvalidArgument - part_size is
// none. Other errors: common/export/run_model.h and export_model.h.
absl::Status RunExportCommand(const ExportCommand& command, std::ostream& out,
                              std::ostream& messages);

}  // namespace sdp
