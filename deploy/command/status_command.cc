#include "deploy/command/status_command.h"

#include <filesystem>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "deploy/command/run_calls.h"
#include "deploy/command/run_files.h"
#include "deploy/command/status_text.h"

namespace sdp {
namespace {

absl::Status ShowRunning(const std::string& address, const StatusCommand& command,
                         std::ostream& out) {
  const absl::Time deadline = absl::Now() + command.timeout;
  proto::GetStatusRequest of_run;
  proto::GetShardStatusRequest of_shard;
  of_run.set_units(command.units == StatusCommand::Units::kYes);
  of_shard.set_blocks(of_run.units());
  SDP_ASSIGN_OR_RETURN(const proto::RunStatus run,
                       FetchRunStatus(address, command.security, deadline, of_run));
  std::vector<ShardAnswer> shards;
  for (const proto::RunStatus::Member& member : run.members()) {
    if (member.role() != "shard") continue;
    shards.push_back(
        {member.name(), FetchShardStatus(member.address(), command.security, deadline, of_shard)});
  }
  out << (command.format == StatusCommand::Format::kJson ? RunningJson(run, shards)
                                                         : RunningText(run, shards));
  return absl::OkStatus();
}

absl::Status ShowFolder(const StatusCommand& command, std::ostream& out) {
  const std::string& run_dir = command.target;
  // Asked first: the address of a run that is over may be another program's by now.
  SDP_ASSIGN_OR_RETURN(const std::optional<std::string> owner, RunOwner(run_dir));
  if (owner) {
    SDP_ASSIGN_OR_RETURN(const std::string address, CoordinatorAddress(run_dir));
    return Context(ShowRunning(address, command, out),
                   absl::StrCat(run_dir, " is in use by process ", *owner));
  }
  SDP_ASSIGN_OR_RETURN(const RunMetrics metrics, ReadRunMetrics(run_dir));
  const RunEnd end = HowItEnded(run_dir, metrics);
  out << (command.format == StatusCommand::Format::kJson ? EndedJson(run_dir, end, metrics)
                                                         : EndedText(run_dir, end, metrics));
  return absl::OkStatus();
}

}  // namespace

absl::Status RunStatusCommand(const StatusCommand& command, std::ostream& out) {
  std::error_code error;
  if (std::filesystem::is_directory(command.target, error)) return ShowFolder(command, out);
  SDP_ASSIGN_OR_RETURN(const std::string address, TargetAddress(command.target, command.security));
  return ShowRunning(address, command, out);
}

}  // namespace sdp
