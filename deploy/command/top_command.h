#pragma once

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/rpc/address.h"

namespace sdp {

// `sdp top RUN|ADDR [--interval SECONDS] [--frames N]`: a run as it goes on, drawn anew with each
// change; Ctrl-C ends it, and the run goes on. Where `out` is no terminal, one picture below the
// other.
struct TopCommand {
  std::string target;  // A run folder, or the coordinator's address.
  SecurityOptions security;
  double interval_sec = 1;
  int frames = 0;  // 0: until the run is over
};

// OK - the run became over, or `frames` were drawn. FailedPrecondition - it was over before, as far
// as can be seen from here. Other errors: run_calls.h.
absl::Status RunTopCommand(const TopCommand& command, std::ostream& out);

}  // namespace sdp
