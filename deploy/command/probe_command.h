#pragma once

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "deploy/command/run_calls.h"

namespace sdp {

// `sdp probe RUN|ADDR [--ready] [--timeout SECONDS]`: for health checks that run a program, as
// Kubernetes' exec probes. Of a run folder its coordinator is asked, else whatever role is at ADDR.
struct ProbeCommand {
  std::string target;
  Health health = Health::kAlive;
  SecurityOptions security;
  absl::Duration timeout = absl::Seconds(5);
};

// Writes one line to `out` if it is well. Unavailable - it is not, it cannot be reached, it is too
// slow: one line says which. InvalidArgument, FailedPrecondition - the target.
absl::Status RunProbeCommand(const ProbeCommand& command, std::ostream& out);

}  // namespace sdp
