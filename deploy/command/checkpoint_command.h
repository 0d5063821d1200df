#pragma once

#include <iosfwd>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/rpc/address.h"

namespace sdp {

// `sdp checkpoint RUN|ADDR [--timeout S] [--insecure]`: takes a checkpoint now, and waits until it
// is complete.
struct CheckpointCommand {
  std::string target;  // A run folder, or the coordinator's address.
  SecurityOptions security;
  absl::Duration timeout = absl::Minutes(10);
};

// InvalidArgument - the target is neither folder nor address. FailedPrecondition - the run does not
// train. ResourceExhausted - it could not be written, and why. DeadlineExceeded - it is not
// complete in time, and what the run waits for. Others: run_calls.h.
absl::Status RunCheckpointCommand(const CheckpointCommand& command, std::ostream& out);

}  // namespace sdp
