#include "deploy/cluster/local_cluster.h"

#include <poll.h>
#include <signal.h>

#include <algorithm>
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
#include "deploy/cluster/cluster_processes.h"
#include "deploy/cluster/log_tail.h"
#include "deploy/cluster/process.h"
#include "deploy/cluster/stop_request.h"

namespace sdp {
namespace {

constexpr int kMostFailuresShown = 3;
constexpr absl::Duration kAskAgain = absl::Milliseconds(100);
constexpr absl::Duration kRestartsAreCounted = absl::Minutes(10);

// Nobody answered, or one who was too busy: the coordinator may be about to start.
bool NotThere(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsResourceExhausted(status);
}

// One run, from its first process to the end of its last.
class ClusterRun {
 public:
  ClusterRun(const LocalClusterOptions& options, StopSignals& signals)
      : options_(options), signals_(signals), processes_(options, signals) {}

  absl::Status Run() {
    absl::Status outcome = processes_.Start();
    if (outcome.ok()) outcome = Watch();
    processes_.EndRemaining();
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

  const LocalClusterOptions& options_;
  StopSignals& signals_;
  ClusterProcesses processes_;
  // Of the state the run is in. None while it trains: how long that takes is the user's choice, and
  // each process watches its peers.
  absl::Time deadline_ = absl::InfiniteFuture();
  absl::Time unheard_since_ = absl::InfiniteFuture();  // The coordinator, when it was asked.
  std::set<const Process*> left_;     // In order, and noticed. Not waited for any more.
  std::set<const Process*> stopped_;  // Of these, on request.
  std::set<const Process*> gone_;     // Without these the run goes on.
  std::map<std::string, std::vector<absl::Time>> restarts_;  // Of a shard or the coordinator.
  StopRequest stop_;
};

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
  for (const auto& process : processes_.all()) {
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
    processes_.Say() << "interrupted again: ending all processes" << std::endl;
    return absl::CancelledError("interrupted; ended at once");
  }
  processes_.Say()
      << "interrupted: finishing the steps under way; press Ctrl-C again to end at once"
      << std::endl;
  deadline_ = std::min(deadline_, absl::Now() + options_.stop_timeout);
  stop_.Start([request = options_.request_stop, address = processes_.address()] {
    return request(address, "interrupted");
  });
  return std::nullopt;
}

std::optional<absl::Status> ClusterRun::OnStopAnswer() {
  const absl::Status answer = stop_.Take();
  if (answer.ok()) return std::nullopt;
  processes_.Say() << "could not ask the coordinator to stop (" << answer.message()
                   << "): ending all processes" << std::endl;
  return absl::CancelledError("interrupted; ended at once");
}

absl::Status ClusterRun::OnDeadline() {
  if (!stopped_.empty()) {
    // Stopped, but not by the coordinator. Service managers and `timeout` signal the whole group.
    if (stop_.started())
      return absl::CancelledError("interrupted, and so were its processes; ended at once");
    const std::string& name = (*stopped_.begin())->name();
    return absl::InternalError(absl::StrCat(name, " was ended before the run was over",
                                            DescribeLog(processes_.LogPath(name))));
  }
  if (stop_.started()) {
    processes_.Say() << "not stopped after " << absl::FormatDuration(options_.stop_timeout)
                     << ": ending all processes" << std::endl;
    return absl::CancelledError("interrupted; ended at once");
  }
  return absl::DeadlineExceededError(absl::StrCat(
      "others left the run more than ", absl::FormatDuration(options_.finish_timeout),
      " ago, but the coordinator still runs", DescribeLog(processes_.LogPath("coordinator"))));
}

std::vector<Process*> ClusterRun::NewlyEnded() {
  std::vector<Process*> ended;
  for (const auto& process : processes_.all()) {
    if (process->Ended() && !left_.contains(process.get()) && !gone_.contains(process.get()))
      ended.push_back(process.get());
  }
  return ended;
}

std::optional<absl::Status> ClusterRun::OnProcessEnd() {
  if (const auto status = processes_.coordinator().Ended()) return OnCoordinatorEnd(*status);
  for (Process* const process : NewlyEnded()) {
    const auto status = process->Ended();
    const bool stopped = LeftInOrder(*status) && status->code == kStoppedOnRequest;
    const absl::StatusOr<bool> goes_on = stopped ? false : GoesOnWithout(*process, *status);
    const bool unheard = NotThere(goes_on.status());
    unheard_since_ = unheard ? std::min(unheard_since_, absl::Now()) : absl::InfiniteFuture();
    if (unheard && absl::Now() - unheard_since_ < options_.start_timeout) {
      // This end is still there to be noticed, as is that of the coordinator, if that is why.
      processes_.coordinator().WaitUntil(absl::Now() + kAskAgain);
      return std::nullopt;
    }
    if (goes_on.value_or(false)) {
      gone_.insert(process);
      const bool shard = absl::StartsWith(process->name(), kShardName);
      processes_.Say()
          << process->name()
          << (LeftInOrder(*status) ? " has left the run"
                                   : absl::StrCat(" ended: ", Describe(*status)))
          << (shard ? "; it is started again, and the run goes back to its newest checkpoint"
                    : "; the run goes on without it")
          << std::endl;
      if (!shard) continue;
      if (absl::Status started = processes_.StartShard(process->name()); !started.ok())
        return started;
      continue;
    }
    if (!LeftInOrder(*status)) {
      // The coordinator decides whether the run was over, and may know why this one failed.
      const auto word = processes_.coordinator().WaitUntil(absl::Now() + options_.settle_timeout);
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
                         options_.goes_on_without(processes_.address(), member.name(), killed));
    return goes_on && (!killed || MayRestart(member.name()));
  }
  const auto works = [&](Process& process) {
    return absl::StartsWith(process.name(), kWorkerName) && &process != &member &&
           !process.Ended().has_value();
  };
  // What one of them could not do, such as reading a damaged file, would be given to the others.
  if (std::none_of(processes_.all().begin(), processes_.all().end(),
                   [&](const auto& process) { return works(*process); }))
    return false;
  return options_.goes_on_without(processes_.address(), member.name(), killed);
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
    processes_.Say() << "coordinator ended: " << Describe(status) << "; it is started again"
                     << std::endl;
    if (absl::Status started = processes_.RestartCoordinator(); !started.ok()) return started;
    return std::nullopt;
  }
  if (!LeftInOrder(status)) return Failed();
  AwaitLeaving();
  for (const auto& process : processes_.all()) {
    const auto end = process->Ended();
    if (end && !LeftInOrder(*end) && !gone_.contains(process.get())) {
      processes_.Say() << process->name() << " ended with " << Describe(*end)
                       << " when the run was over"
                       << DescribeLog(processes_.LogPath(process->name())) << std::endl;
    }
  }
  if (status.code == kStoppedOnRequest) return absl::CancelledError("stopped on request");
  return absl::OkStatus();
}

// Names who failed, in the order of their start: the coordinator, if it did, knows most.
absl::Status ClusterRun::Failed() {
  const bool interrupted = stop_.started() || signals_.Take() != 0;
  std::vector<std::string> failures;
  for (const auto& process : processes_.all()) {
    const auto status = process->Ended();
    if (!status || LeftInOrder(*status)) continue;
    // Service managers and `timeout` send SIGTERM to the whole group: then it is no failure of this
    // process.
    if (interrupted && status->signal == SIGTERM) {
      return absl::CancelledError("interrupted, and so were its processes; ended at once");
    }
    if (failures.size() == kMostFailuresShown) break;
    failures.push_back(absl::StrCat(process->name(),
                                    " ended before the run was over: ", Describe(*status),
                                    DescribeLog(processes_.LogPath(process->name()))));
  }
  return absl::InternalError(absl::StrJoin(failures, "\n"));
}

// The run is over, and everyone was told: gives them the time to leave by themselves.
void ClusterRun::AwaitLeaving() {
  deadline_ = absl::Now() + options_.leave_timeout;
  for (const auto& process : processes_.all()) {
    while (!process->Ended()) {
      struct pollfd waits[] = {{process->fd(), POLLIN, 0}, {signals_.fd(), POLLIN, 0}};
      if (!PollUntil(absl::MakeSpan(waits), deadline_) || signals_.Take() != 0) return;
    }
  }
}

}  // namespace

absl::Status RunLocalCluster(const LocalClusterOptions& options, StopSignals& signals) {
  return ClusterRun(options, signals).Run();
}

int ThreadsPerWorker(int workers) {
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / std::max(1, workers));
}

}  // namespace sdp
