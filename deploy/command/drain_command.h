#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/rpc/address.h"

namespace sdp {

// `sdp drain RUN|ADDR NAME [--insecure]`: a worker finishes the steps that it is bound to, a shard
// waits until a checkpoint has its parameters; it leaves the run, and its process ends with 0.
struct DrainCommand {
  std::string target;  // A run folder, or the coordinator's address.
  std::string member;  // its name
  SecurityOptions security;
  absl::Duration timeout = absl::Seconds(5);
};

// Returns when the coordinator knows of it, which is before the member has left. InvalidArgument -
// the target is neither folder nor address. NotFound - the folder is no run's, or no such member is
// in the run. Others: run_calls.h.
absl::Status RunDrainCommand(const DrainCommand& command);

}  // namespace sdp
