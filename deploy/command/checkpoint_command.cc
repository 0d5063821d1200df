#include "deploy/command/checkpoint_command.h"

#include <cstdint>
#include <ostream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "deploy/command/run_calls.h"
#include "deploy/command/run_files.h"

namespace sdp {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(5), kAskAgain = absl::Milliseconds(200);

}  // namespace

absl::Status RunCheckpointCommand(const CheckpointCommand& command, std::ostream& out) {
  SDP_ASSIGN_OR_RETURN(const std::string address, TargetAddress(command.target, command.security));
  const absl::Time deadline = absl::Now() + command.timeout;
  SDP_ASSIGN_OR_RETURN(const int64_t step,
                       RequestCheckpoint(address, command.security, absl::Now() + kCallTimeout));
  for (;;) {
    SDP_ASSIGN_OR_RETURN(const proto::RunStatus run,
                         FetchRunStatus(address, command.security, absl::Now() + kCallTimeout));
    if (run.has_checkpoint() && run.checkpoint() >= step) {
      out << "checkpoint " << run.checkpoint() << " is complete" << std::endl;
      return absl::OkStatus();
    }
    if (absl::StartsWith(run.checkpoint_error(), absl::StrCat("checkpoint ", step, ":")))
      return absl::ResourceExhaustedError(run.checkpoint_error());
    if (absl::Now() + kAskAgain > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("checkpoint ", step, " is not complete after ",
                       absl::FormatDuration(command.timeout), ": ", run.waiting_for()));
    }
    absl::SleepFor(kAskAgain);
  }
}

}  // namespace sdp
