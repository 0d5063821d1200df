#pragma once

#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "deploy/cluster/local_cluster.h"
#include "deploy/cluster/process.h"
#include "deploy/cluster/startup_folder.h"
#include "deploy/cluster/stop_signals.h"

namespace sdp {

inline constexpr char kWorkerName[] = "worker-", kShardName[] = "shard-";

// The run is over, or was stopped on request (exit status kStoppedOnRequest): no failure.
inline constexpr int kStoppedOnRequest = 130;
bool LeftInOrder(ExitStatus status);

// The processes of a run on this machine: starts them, the coordinator first, and ends them.
// Threads: as RunLocalCluster.
class ClusterProcesses {
 public:
  // Both outlive this.
  ClusterProcesses(const LocalClusterOptions& options, StopSignals& signals)
      : options_(options), signals_(signals) {}

  // All that the run begins with. The coordinator makes the run folder; its address is known when
  // this returns. Cancelled - a signal came first.
  absl::Status Start();
  // At the same address, where members wait for it.
  absl::Status RestartCoordinator();
  absl::Status StartShard(const std::string& name);
  // Says who had to be ended. None is left.
  void EndRemaining();

  const std::string& address() const { return address_; }  // The coordinator's.
  Process& coordinator() { return *processes_[0]; }
  // In the order of their start. Those that ended stay, but for a coordinator that was restarted.
  absl::Span<const std::unique_ptr<Process>> all() const { return processes_; }
  std::string LogPath(const std::string& name) const;
  std::ostream& Say() const;

 private:
  std::vector<std::string> CommonArgs(const std::string& name) const;
  std::string ListenAddress(const std::string& name) const;

  absl::Status CheckPrograms() const;
  absl::Status StartCoordinator();
  absl::Status AwaitAddress(StartupFolder& folder);
  absl::Status EarlyEnd(const StartupFolder& folder, ExitStatus status);
  absl::Status UseRunFolder(const StartupFolder& folder);
  absl::Status StartMembers();
  absl::Status StartMember(const std::string& program, const std::string& name,
                           std::vector<std::string> more_args);

  const LocalClusterOptions& options_;
  StopSignals& signals_;
  std::string address_;
  std::vector<std::unique_ptr<Process>> processes_;
};

}  // namespace sdp
