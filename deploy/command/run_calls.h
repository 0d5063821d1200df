#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/rpc/address.h"
#include "proto/coordinator.pb.h"
#include "proto/shard.pb.h"

// What the command line asks of a run's processes. Each call blocks, and ends at its deadline at
// the latest; nothing is tried twice, since someone sits and waits. Threads: any.   Errors: the
// peer's, or Unavailable, DeadlineExceeded - with what was tried in front. FailedPrecondition,
// InvalidArgument - the address (common/rpc/address.h).
namespace sdp {

absl::Status RequestStop(const std::string& coordinator, const std::string& reason,
                         const SecurityOptions& security, absl::Time deadline);

// A worker or shard is to leave the run; or it is gone (its process has ended). NotFound - there is
// none of this name.
enum class Drain { kLeaves, kIsGone };
absl::Status RequestDrain(const std::string& coordinator, const std::string& member, Drain how,
                          const SecurityOptions& security, absl::Time deadline);

// Returns the step of which a checkpoint will be taken, at the earliest. FailedPrecondition - the
// run does not train.
absl::StatusOr<int64_t> RequestCheckpoint(const std::string& coordinator,
                                          const SecurityOptions& security, absl::Time deadline);

absl::StatusOr<proto::RunStatus> FetchRunStatus(
    const std::string& coordinator, const SecurityOptions& security, absl::Time deadline,
    const proto::GetStatusRequest& request = proto::GetStatusRequest());

absl::StatusOr<proto::ShardStatus> FetchShardStatus(
    const std::string& shard, const SecurityOptions& security, absl::Time deadline,
    const proto::GetShardStatusRequest& request = proto::GetShardStatusRequest());

// Calls `show` with each status that the coordinator sends, until it returns false (then OK) or the
// coordinator ends the stream or goes (then its error, or Unavailable).
absl::Status WatchRunStatus(const std::string& coordinator, const SecurityOptions& security,
                            const proto::WatchStatusRequest& request,
                            const std::function<bool(const proto::RunStatus&)>& show);

// Asks the health service of any role. OK - it serves. Unavailable - it says no, and why.
enum class Health { kAlive, kReady };
absl::Status CheckHealth(const std::string& address, Health health, const SecurityOptions& security,
                         absl::Time deadline);

}  // namespace sdp
