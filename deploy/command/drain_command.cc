#include "deploy/command/drain_command.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "deploy/command/run_calls.h"
#include "deploy/command/run_files.h"

namespace sdp {

absl::Status RunDrainCommand(const DrainCommand& command) {
  std::string address = command.target;
  std::error_code error;
  if (std::filesystem::is_directory(command.target, error)) {
    SDP_ASSIGN_OR_RETURN(address, CoordinatorAddress(command.target));
  }
  const absl::Status valid = CheckAddress(address, command.security);
  if (absl::IsInvalidArgument(valid)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", command.target,
                     "\" is neither a run folder nor an address (HOST:PORT or unix:PATH)"));
  }
  SDP_RETURN_IF_ERROR(valid);
  return RequestDrain(address, command.worker, Drain::kLeaves, command.security,
                      absl::Now() + command.timeout);
}

}  // namespace sdp
