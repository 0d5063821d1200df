#pragma once

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/rpc/address.h"

namespace sdp {

// `sdp status RUN|ADDR [--units] [--json] [--insecure]`: what a run does now, asked of its
// coordinator and its shards; or how it ended, if it has no process any more.
struct StatusCommand {
  std::string target;  // A run folder, or the coordinator's address.
  enum class Format { kTable, kJson };
  Format format = Format::kTable;
  enum class Units { kNo, kYes };
  Units units = Units::kNo;  // also who holds each unit, and how far it is
  SecurityOptions security;
  absl::Duration timeout = absl::Seconds(5);  // For everything together.
};

// Writes the status to `out`, nothing on errors. A shard that does not answer is part of the
// status, not an error. InvalidArgument - the target is neither folder nor address. NotFound - the
// folder is no run's. Unavailable, DeadlineExceeded - the coordinator does not answer; the message
// says what was tried. Others: run_calls.h.
absl::Status RunStatusCommand(const StatusCommand& command, std::ostream& out);

}  // namespace sdp
