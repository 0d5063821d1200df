#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/rpc/address.h"

// What the command line reads from a run folder, also while the run goes on. The folder is the
// coordinator's (server/coordinator/service/run_folder.h); nothing is written here. Threads: any.
// Errors: NotFound - no such folder, or it is not a run's; others - the file system's.
namespace sdp {

// Process id of the coordinator that holds the run; nullopt - there is none, so the run is over (or
// on another machine whose locks are not seen here).
absl::StatusOr<std::optional<std::string>> RunOwner(const std::string& run_dir);

// Where its coordinator listens, or listened.
absl::StatusOr<std::string> CoordinatorAddress(const std::string& run_dir);

// The coordinator's address, of what a user named: a run folder, or the address itself.
// InvalidArgument - neither; others: CheckAddress's.
absl::StatusOr<std::string> TargetAddress(const std::string& target,
                                          const SecurityOptions& security);

// What metrics.jsonl tells about how far a run has come.
struct RunMetrics {
  std::string last_line;            // "" - no step is complete.
  int64_t last_step = -1;           // Of that line.
  bool closed = false;              // It is the line of the closing step: the run ended in order.
  std::optional<double> full_loss;  // The newest.
};
// DataLoss - a line is not a JSON object (an incomplete last line is left out: it is being
// written).
absl::StatusOr<RunMetrics> ReadRunMetrics(const std::string& run_dir);

// How a run without processes ended.
enum class RunEnd {
  kFinished,   // All steps are done.
  kStopped,    // In order, on request, at `last_step`.
  kBrokenOff,  // A failure, or ended at once.
};
// The steps it was to take are in its config.toml; a run that closed is taken for finished if that
// cannot be read.
RunEnd HowItEnded(const std::string& run_dir, const RunMetrics& metrics);

}  // namespace sdp
