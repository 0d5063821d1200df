#include "deploy/command/drain_command.h"

#include <string>

#include "absl/time/clock.h"
#include "common/base/status.h"
#include "deploy/command/run_calls.h"
#include "deploy/command/run_files.h"

namespace sdp {

absl::Status RunDrainCommand(const DrainCommand& command) {
  SDP_ASSIGN_OR_RETURN(const std::string address, TargetAddress(command.target, command.security));
  return RequestDrain(address, command.member, Drain::kLeaves, command.security,
                      absl::Now() + command.timeout);
}

}  // namespace sdp
