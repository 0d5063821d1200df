#include "deploy/command/probe_command.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "deploy/command/run_files.h"

namespace sdp {

absl::Status RunProbeCommand(const ProbeCommand& command, std::ostream& out) {
  SDP_ASSIGN_OR_RETURN(const std::string address, TargetAddress(command.target, command.security));
  const absl::Status health =
      CheckHealth(address, command.health, command.security, absl::Now() + command.timeout);
  const char* const what = command.health == Health::kReady ? "ready" : "alive";
  if (!health.ok()) {
    // Whatever it is, a probe has one way to say no.
    return absl::UnavailableError(absl::StrCat(address, " is not ", what, ": ", health.message()));
  }
  out << address << " is " << what << std::endl;
  return absl::OkStatus();
}

}  // namespace sdp
