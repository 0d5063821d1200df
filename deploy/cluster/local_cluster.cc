#include "deploy/cluster/local_cluster.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "deploy/cluster/log_tail.h"
#include "deploy/cluster/process.h"
#include "deploy/cluster/startup_folder.h"
#include "deploy/cluster/stop_request.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

constexpr int kStoppedOnRequest = 130;  // Exit status of a role whose run was stopped.
constexpr int kMostFailuresShown = 3;
constexpr char kWorkerName[] = "worker-", kShardName[] = "shard-";
constexpr absl::Duration kAskAgain = absl::Milliseconds(100);
constexpr absl::Duration kRestartsAreCounted = absl::Minutes(10);

bool LeftInOrder(ExitStatus status) {
  return status.signal == 0 && (status.code == 0 || status.code == kStoppedOnRequest);
}

// One run, from its first process to the end of its last.
class ClusterRun {
 public:
  ClusterRun(const LocalClusterOptions& options, StopSignals& signals)
      : options_(options), signals_(signals) {}

  absl::Status Run() {
    absl::Status outcome = CheckPrograms();
    if (outcome.ok()) outcome = StartCoordinator();
    if (outcome.ok()) outcome = StartMembers();
    if (outcome.ok()) outcome = Watch();
    EndRemaining();
    return outcome;
  }

 private:
  // What the loop woke up for.
  struct Events {
    bool deadline = false;
    bool signal = false;
    bool stop_answered = false;
    bool process = false;
  };

  std::ostream& Say() { return *options_.messages << "sdp: "; }
  Process& coordinator() { return *processes_[0]; }
  std::string LogPath(const std::string& name) const {
    return absl::StrCat(options_.run_dir, "/logs/", name, ".log");
  }

  std::vector<std::string> CommonArgs(const std::string& name) const;
  std::string ListenAddress(const std::string& name) const;

  absl::Status CheckPrograms() const;
  absl::Status StartCoordinator();
  absl::Status AwaitAddress(StartupFolder& folder);
  absl::Status EarlyEnd(const StartupFolder& folder, ExitStatus status);
  absl::Status UseRunFolder(const StartupFolder& folder);
  absl::Status StartMembers();
  absl::Status RestartCoordinator();
  absl::Status StartShard(const std::string& name);
  absl::Status StartMember(const std::string& program, const std::string& name,
                           std::vector<std::string> more_args);

  absl::Status Watch();
  Events Wait();
  std::optional<absl::Status> OnSignal();
  std::optional<absl::Status> OnStopAnswer();
  std::optional<absl::Status> OnProcessEnd();
  std::optional<absl::Status> OnCoordinatorEnd(ExitStatus status);
  absl::Status OnDeadline();
  std::vector<Process*> NewlyEnded();
  absl::StatusOr<bool> GoesOnWithout(const Process& member, ExitStatus status);
  bool MayRestart(const std::string& server);
  absl::Status Failed();
  void AwaitLeaving();
  void EndRemaining();

  const LocalClusterOptions& options_;
  StopSignals& signals_;
  std::string address_;                              // The coordinator's.
  std::vector<std::unique_ptr<Process>> processes_;  // The coordinator first.
  // Of the state the run is in. None while it trains: how long that takes is the user's choice, and
  // each process watches its peers.
  absl::Time deadline_ = absl::InfiniteFuture();
  absl::Time unheard_since_ = absl::InfiniteFuture();  // The coordinator, when it was asked.
  std::set<const Process*> left_;     // In order, and noticed. Not waited for any more.
  std::set<const Process*> stopped_;  // Of these, on request.
  std::set<const Process*> gone_;     // Without these the run goes on.
  std::map<std::string, std::vector<absl::Time>> restarts_;  // Of a shard or the coordinator.
  StopRequest stop_;  // Last: its destructor waits for a call that uses `address_`.
};

// ---- Start
// ----------------------------------------------------------------------------------------------------------

std::vector<std::string> ClusterRun::CommonArgs(const std::string& name) const {
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

std::string ClusterRun::ListenAddress(const std::string& name) const {
  if (options_.socket_dir.empty()) return "127.0.0.1:0";
  return absl::StrCat("unix:", options_.socket_dir, "/", name);
}

// Before the coordinator makes a run folder that no run would use.
absl::Status ClusterRun::CheckPrograms() const {
  for (const char* program : {"sdp-coordinator", "sdp-shard", "sdp-worker"}) {
    const std::string path = absl::StrCat(options_.program_dir, "/", program);
    if (access(path.c_str(), X_OK) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("the program ", path));
    }
  }
  return absl::OkStatus();
}

absl::Status ClusterRun::StartCoordinator() {
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

// At the same address, where members wait for it.
absl::Status ClusterRun::RestartCoordinator() {
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

absl::Status ClusterRun::AwaitAddress(StartupFolder& folder) {
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

absl::Status ClusterRun::EarlyEnd(const StartupFolder& folder, ExitStatus status) {
  const std::string said = LastLines(folder.log_path(), 20);
  if (said.empty() || status.signal != 0) {
    return absl::InternalError(absl::StrCat(
        "the coordinator ended at its start: ", Describe(status), DescribeLog(folder.log_path())));
  }
  return absl::InternalError(said);  // It names the mistake; nothing to add.
}

// From now on the coordinator's run folder exists: its log moves there (it goes on writing to it),
// and its address is kept for `sdp status`.
absl::Status ClusterRun::UseRunFolder(const StartupFolder& folder) {
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

absl::Status ClusterRun::StartMembers() {
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

absl::Status ClusterRun::StartShard(const std::string& name) {
  return StartMember("sdp-shard", name, {"--listen", ListenAddress(name)});
}

absl::Status ClusterRun::StartMember(const std::string& program, const std::string& name,
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

// ---- Watch
// ----------------------------------------------------------------------------------------------------------

absl::Status ClusterRun::Watch() {
  while (true) {
    const Events events = Wait();
    std::optional<absl::Status> outcome;
    // Ends of processes first: what they say explains more than a deadline or a request that failed
    // because of them.
    if (events.process) outcome = OnProcessEnd();
    if (!outcome && events.signal) outcome = OnSignal();
    if (!outcome && events.stop_answered) outcome = OnStopAnswer();
    if (!outcome && events.deadline) outcome = OnDeadline();
    if (outcome) return *outcome;
  }
}

ClusterRun::Events ClusterRun::Wait() {
  std::vector<struct pollfd> waits = {{signals_.fd(), POLLIN, 0}, {stop_.fd(), POLLIN, 0}};
  for (const auto& process : processes_) {
    if (left_.contains(process.get()) || gone_.contains(process.get())) continue;
    waits.push_back({process->fd(), POLLIN, 0});
  }
  Events events;
  events.deadline = !PollUntil(absl::MakeSpan(waits), deadline_);
  events.signal = waits[0].revents != 0;
  events.stop_answered = waits[1].revents != 0;
  events.process = std::any_of(waits.begin() + 2, waits.end(),
                               [](const auto& wait) { return wait.revents != 0; });
  return events;
}

std::optional<absl::Status> ClusterRun::OnSignal() {
  if (signals_.Take() == 0) return std::nullopt;
  if (stop_.started()) {
    Say() << "interrupted again: ending all processes" << std::endl;
    return absl::CancelledError("interrupted; ended at once");
  }
  Say() << "interrupted: finishing the steps under way; press Ctrl-C again to end at once"
        << std::endl;
  deadline_ = std::min(deadline_, absl::Now() + options_.stop_timeout);
  stop_.Start([request = options_.request_stop, address = address_] {
    return request(address, "interrupted");
  });
  return std::nullopt;
}

std::optional<absl::Status> ClusterRun::OnStopAnswer() {
  const absl::Status answer = stop_.Take();
  if (answer.ok()) return std::nullopt;
  Say() << "could not ask the coordinator to stop (" << answer.message()
        << "): ending all processes" << std::endl;
  return absl::CancelledError("interrupted; ended at once");
}

absl::Status ClusterRun::OnDeadline() {
  if (!stopped_.empty()) {
    // Stopped, but not by the coordinator. Service managers and `timeout` signal the whole group.
    if (stop_.started())
      return absl::CancelledError("interrupted, and so were its processes; ended at once");
    const std::string& name = (*stopped_.begin())->name();
    return absl::InternalError(
        absl::StrCat(name, " was ended before the run was over", DescribeLog(LogPath(name))));
  }
  if (stop_.started()) {
    Say() << "not stopped after " << absl::FormatDuration(options_.stop_timeout)
          << ": ending all processes" << std::endl;
    return absl::CancelledError("interrupted; ended at once");
  }
  return absl::DeadlineExceededError(
      absl::StrCat("others left the run more than ", absl::FormatDuration(options_.finish_timeout),
                   " ago, but the coordinator still runs", DescribeLog(LogPath("coordinator"))));
}

std::vector<Process*> ClusterRun::NewlyEnded() {
  std::vector<Process*> ended;
  for (const auto& process : processes_) {
    if (process->Ended() && !left_.contains(process.get()) && !gone_.contains(process.get()))
      ended.push_back(process.get());
  }
  return ended;
}

std::optional<absl::Status> ClusterRun::OnProcessEnd() {
  if (const auto status = coordinator().Ended()) return OnCoordinatorEnd(*status);
  for (Process* const process : NewlyEnded()) {
    const auto status = process->Ended();
    const bool stopped = LeftInOrder(*status) && status->code == kStoppedOnRequest;
    const absl::StatusOr<bool> goes_on = stopped ? false : GoesOnWithout(*process, *status);
    unheard_since_ = goes_on.ok() ? absl::InfiniteFuture() : std::min(unheard_since_, absl::Now());
    if (!goes_on.ok() && absl::Now() - unheard_since_ < options_.start_timeout) {
      // This end is still there to be noticed, as is that of the coordinator, if that is why.
      coordinator().WaitUntil(absl::Now() + kAskAgain);
      return std::nullopt;
    }
    if (goes_on.value_or(false)) {
      gone_.insert(process);
      const bool shard = absl::StartsWith(process->name(), kShardName);
      Say() << process->name()
            << (LeftInOrder(*status) ? " has left the run"
                                     : absl::StrCat(" ended: ", Describe(*status)))
            << (shard ? "; it is started again, and the run goes back to its newest checkpoint"
                      : "; the run goes on without it")
            << std::endl;
      if (!shard) continue;
      if (absl::Status started = StartShard(process->name()); !started.ok()) return started;
      continue;
    }
    if (!LeftInOrder(*status)) {
      // The coordinator decides whether the run was over, and may know why this one failed.
      const auto word = coordinator().WaitUntil(absl::Now() + options_.settle_timeout);
      if (word) return OnCoordinatorEnd(*word);
      return Failed();
    }
    const absl::Duration rest = stopped ? options_.stopped_timeout : options_.finish_timeout;
    deadline_ = std::min(deadline_, absl::Now() + rest);
    if (stopped) stopped_.insert(process);
    left_.insert(process);
  }
  return std::nullopt;
}

absl::StatusOr<bool> ClusterRun::GoesOnWithout(const Process& member, ExitStatus status) {
  const bool killed = status.signal != 0;
  if (!killed && !LeftInOrder(status)) return false;
  if (absl::StartsWith(member.name(), kShardName)) {
    if (stop_.started()) return false;
    SDP_ASSIGN_OR_RETURN(const bool goes_on,
                         options_.goes_on_without(address_, member.name(), killed));
    return goes_on && (!killed || MayRestart(member.name()));
  }
  const auto works = [&](Process& process) {
    return absl::StartsWith(process.name(), kWorkerName) && &process != &member &&
           !process.Ended().has_value();
  };
  // What one of them could not do, such as reading a damaged file, would be given to the others.
  if (std::none_of(processes_.begin(), processes_.end(),
                   [&](const auto& process) { return works(*process); }))
    return false;
  return options_.goes_on_without(address_, member.name(), killed);
}

bool ClusterRun::MayRestart(const std::string& server) {
  std::vector<absl::Time>& times = restarts_[server];
  const absl::Time now = absl::Now();
  std::erase_if(times, [&](absl::Time time) { return now - time > kRestartsAreCounted; });
  times.push_back(now);
  return static_cast<int>(times.size()) <= kMostRestarts;
}

std::optional<absl::Status> ClusterRun::OnCoordinatorEnd(ExitStatus status) {
  const bool killed = status.signal != 0 && !stop_.started();
  if (killed && MayRestart("coordinator")) {
    Say() << "coordinator ended: " << Describe(status) << "; it is started again" << std::endl;
    if (absl::Status started = RestartCoordinator(); !started.ok()) return started;
    return std::nullopt;
  }
  if (!LeftInOrder(status)) return Failed();
  AwaitLeaving();
  for (const auto& process : processes_) {
    const auto end = process->Ended();
    if (end && !LeftInOrder(*end) && !gone_.contains(process.get())) {
      Say() << process->name() << " ended with " << Describe(*end) << " when the run was over"
            << DescribeLog(LogPath(process->name())) << std::endl;
    }
  }
  if (status.code == kStoppedOnRequest) return absl::CancelledError("stopped on request");
  return absl::OkStatus();
}

// Names who failed, in the order of their start: the coordinator, if it did, knows most.
absl::Status ClusterRun::Failed() {
  const bool interrupted = stop_.started() || signals_.Take() != 0;
  std::vector<std::string> failures;
  for (const auto& process : processes_) {
    const auto status = process->Ended();
    if (!status || LeftInOrder(*status)) continue;
    // Service managers and `timeout` send SIGTERM to the whole group: then it is no failure of this
    // process.
    if (interrupted && status->signal == SIGTERM) {
      return absl::CancelledError("interrupted, and so were its processes; ended at once");
    }
    if (failures.size() == kMostFailuresShown) break;
    failures.push_back(absl::StrCat(process->name(), " ended before the run was over: ",
                                    Describe(*status), DescribeLog(LogPath(process->name()))));
  }
  return absl::InternalError(absl::StrJoin(failures, "\n"));
}

// The run is over, and everyone was told: gives them the time to leave by themselves.
void ClusterRun::AwaitLeaving() {
  deadline_ = absl::Now() + options_.leave_timeout;
  for (const auto& process : processes_) {
    while (!process->Ended()) {
      struct pollfd waits[] = {{process->fd(), POLLIN, 0}, {signals_.fd(), POLLIN, 0}};
      if (!PollUntil(absl::MakeSpan(waits), deadline_) || signals_.Take() != 0) return;
    }
  }
}

void ClusterRun::EndRemaining() {
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

}  // namespace

absl::Status RunLocalCluster(const LocalClusterOptions& options, StopSignals& signals) {
  return ClusterRun(options, signals).Run();
}

int ThreadsPerWorker(int workers) {
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / std::max(1, workers));
}

}  // namespace sdp
