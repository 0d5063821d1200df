#include "deploy/cluster/cluster_processes.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <optional>
#include <ostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "deploy/cluster/log_tail.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

}  // namespace

bool LeftInOrder(ExitStatus status) {
  return status.signal == 0 && (status.code == 0 || status.code == kStoppedOnRequest);
}

std::ostream& ClusterProcesses::Say() const { return *options_.messages << "sdp: "; }

std::string ClusterProcesses::LogPath(const std::string& name) const {
  return absl::StrCat(options_.run_dir, "/logs/", name, ".log");
}

absl::Status ClusterProcesses::Start() {
  SDP_RETURN_IF_ERROR(CheckPrograms());
  SDP_RETURN_IF_ERROR(StartCoordinator());
  return StartMembers();
}

std::vector<std::string> ClusterProcesses::CommonArgs(const std::string& name) const {
  std::vector<std::string> args = {"--config", options_.config_path, "--name", name,
                                   "--die-with-parent"};
  for (const std::string& set : options_.sets) {
    args.push_back("--set");
    args.push_back(set);
  }
  if (options_.metrics == LocalClusterOptions::Metrics::kOnLoopback)
    args.insert(args.end(), {"--metrics", "127.0.0.1:0"});
  return args;
}

std::string ClusterProcesses::ListenAddress(const std::string& name) const {
  if (options_.socket_dir.empty()) return "127.0.0.1:0";
  return absl::StrCat("unix:", options_.socket_dir, "/", name);
}

// Before the coordinator makes a run folder that no run would use.
absl::Status ClusterProcesses::CheckPrograms() const {
  for (const char* program : {"sdp-coordinator", "sdp-shard", "sdp-worker"}) {
    const std::string path = absl::StrCat(options_.program_dir, "/", program);
    if (access(path.c_str(), X_OK) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("the program ", path));
    }
  }
  return absl::OkStatus();
}

absl::Status ClusterProcesses::StartCoordinator() {
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<StartupFolder> folder,
                       StartupFolder::Make(options_.run_dir));
  std::vector<std::string> args = CommonArgs("coordinator");
  args.insert(args.end(),
              {"--listen", ListenAddress("coordinator"), "--address-file", folder->address_path()});
  args.insert(args.end(), options_.coordinator_args.begin(), options_.coordinator_args.end());
  if (!options_.page.empty()) args.insert(args.end(), {"--page", options_.page});
  SDP_ASSIGN_OR_RETURN(std::unique_ptr<Process> process,
                       Process::Start({.name = "coordinator",
                                       .program = options_.program_dir + "/sdp-coordinator",
                                       .args = std::move(args),
                                       .stdout_path = "",
                                       .stderr_path = folder->log_path()}));
  processes_.push_back(std::move(process));
  SDP_RETURN_IF_ERROR(AwaitAddress(*folder));
  return UseRunFolder(*folder);
}

absl::Status ClusterProcesses::RestartCoordinator() {
  std::vector<std::string> args = CommonArgs("coordinator");
  args.insert(args.end(), {"--listen", address_, "--recover"});
  if (!options_.page.empty()) args.insert(args.end(), {"--page", options_.page});
  SDP_ASSIGN_OR_RETURN(processes_[0],
                       Process::Start({.name = "coordinator",
                                       .program = options_.program_dir + "/sdp-coordinator",
                                       .args = std::move(args),
                                       .stdout_path = "",
                                       .stderr_path = LogPath("coordinator")}));
  return absl::OkStatus();
}

absl::Status ClusterProcesses::AwaitAddress(StartupFolder& folder) {
  const absl::Time deadline = absl::Now() + options_.start_timeout;
  while (true) {
    const auto ended = coordinator().Ended();
    if (ended && !LeftInOrder(*ended)) return EarlyEnd(folder, *ended);
    if (auto address = folder.Address()) {
      address_ = *std::move(address);
      return absl::OkStatus();
    }
    if (ended) return EarlyEnd(folder, *ended);
    struct pollfd waits[] = {
        {folder.fd(), POLLIN, 0}, {coordinator().fd(), POLLIN, 0}, {signals_.fd(), POLLIN, 0}};
    if (!PollUntil(absl::MakeSpan(waits), deadline)) {
      return absl::DeadlineExceededError(absl::StrCat("the coordinator had no address after ",
                                                      absl::FormatDuration(options_.start_timeout),
                                                      DescribeLog(folder.log_path())));
    }
    if (signals_.Take() != 0) return absl::CancelledError("interrupted before the run began");
  }
}

absl::Status ClusterProcesses::EarlyEnd(const StartupFolder& folder, ExitStatus status) {
  const std::string said = LastLines(folder.log_path(), 20);
  if (said.empty() || status.signal != 0) {
    return absl::InternalError(absl::StrCat(
        "the coordinator ended at its start: ", Describe(status), DescribeLog(folder.log_path())));
  }
  return absl::InternalError(said);  // It names the mistake; nothing to add.
}

// From now on the coordinator's run folder exists: its log moves there (it goes on writing to it),
// and its address is kept for `sdp status`.
absl::Status ClusterProcesses::UseRunFolder(const StartupFolder& folder) {
  std::error_code error;
  fs::create_directory(options_.run_dir + "/logs", error);
  // A run that is resumed has one from before: "coordinator.1.log" is the oldest.
  if (!error && fs::exists(LogPath("coordinator"), error)) {
    int number = 1;
    while (fs::exists(LogPath(absl::StrCat("coordinator.", number)), error)) ++number;
    fs::rename(LogPath("coordinator"), LogPath(absl::StrCat("coordinator.", number)), error);
  }
  if (!error) fs::rename(folder.log_path(), LogPath("coordinator"), error);
  const std::string kept = options_.run_dir + "/coordinator.address";
  if (!error && !fs::exists(kept, error)) fs::rename(folder.address_path(), kept, error);
  if (error) {
    return absl::ErrnoToStatus(error.value(),
                               absl::StrCat("use the run folder ", options_.run_dir));
  }
  return absl::OkStatus();
}

absl::Status ClusterProcesses::StartMembers() {
  for (int i = 0; i < options_.shards; ++i) {
    SDP_RETURN_IF_ERROR(StartShard(absl::StrCat(kShardName, i)));
  }
  for (int i = 0; i < options_.workers; ++i) {
    const std::string name = absl::StrCat(kWorkerName, i);
    SDP_RETURN_IF_ERROR(StartMember("sdp-worker", name, {"--listen", ListenAddress(name)}));
  }
  Say() << options_.shards << " shard(s) and " << options_.workers << " worker(s), coordinator at "
        << address_ << "; logs in " << options_.run_dir << "/logs" << std::endl;
  return absl::OkStatus();
}

absl::Status ClusterProcesses::StartShard(const std::string& name) {
  return StartMember("sdp-shard", name, {"--listen", ListenAddress(name)});
}

absl::Status ClusterProcesses::StartMember(const std::string& program, const std::string& name,
                                           std::vector<std::string> more_args) {
  std::vector<std::string> args = CommonArgs(name);
  args.insert(args.end(), {"--coordinator", address_});
  args.insert(args.end(), more_args.begin(), more_args.end());
  SDP_ASSIGN_OR_RETURN(std::unique_ptr<Process> process,
                       Process::Start({.name = name,
                                       .program = absl::StrCat(options_.program_dir, "/", program),
                                       .args = std::move(args),
                                       .stdout_path = LogPath(name),
                                       .stderr_path = LogPath(name)}));
  processes_.push_back(std::move(process));
  return absl::OkStatus();
}

void ClusterProcesses::EndRemaining() {
  std::vector<std::string> remaining;
  for (const auto& process : processes_) {
    if (!process->Ended()) remaining.push_back(process->name());
  }
  if (remaining.empty()) return;
  const std::vector<std::string> killed = EndAll(processes_, options_.end_timeout);
  Say() << "ended " << absl::StrJoin(remaining, ", ")
        << (killed.empty() ? ""
                           : absl::StrCat(" (with SIGKILL: ", absl::StrJoin(killed, ", "), ")"))
        << std::endl;
}

}  // namespace sdp
