#pragma once

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/plan/report.h"
#include "common/run/run_setup.h"

namespace sdp {

// `sdp plan FILE [--workers N] [--memory M] [--bandwidth B] [--set key=value]... [--json]`: what a
// run would look like, without starting a process or opening a file of data.
struct PlanCommand {
  std::string config_path;
  std::vector<std::string> sets;   // "section.key=value"
  std::optional<int64_t> workers;  // As `--set cluster.workers=N`.
  std::string memory;              // As `--set worker.memory=M`; "": not given.
  std::string bandwidth;           // Of a link, such as "1Gbit"; "": no times are shown.
  enum class Format { kTable, kJson };
  Format format = Format::kTable;
};

// The plan of a step, in numbers. InvalidArgument - it cannot be made.
absl::StatusOr<PlanReport> ReportOf(const RunSetup& setup, Step step);

// Writes the plan to `out`, warnings to `warnings` (so that JSON on `out` stays JSON). Nothing is
// written to `out` on errors. With rotation it is the plan of index 0, that of the first steps.
// InvalidArgument, NotFound: of the config; InvalidArgument: of an impossible plan or bandwidth.
absl::Status RunPlanCommand(const PlanCommand& command, std::ostream& out, std::ostream& warnings);

}  // namespace sdp
