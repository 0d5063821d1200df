#pragma once

#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "deploy/cluster/stop_signals.h"

namespace sdp {

struct LocalClusterOptions {
  std::string program_dir;  // Holds sdp-coordinator, sdp-shard and sdp-worker.
  std::string config_path;  // These three are handed to every role as they are.
  std::vector<std::string> sets;
  std::vector<std::string> coordinator_args;  // Only for the coordinator: --init, --resume, ...
  std::string run_dir;
  int shards = 1;
  int workers = 1;
  // "": loopback TCP with ports of the system's choice. Else a folder for unix sockets; its path
  // must be short (< 80).
  std::string socket_dir;
  // kOnLoopback: every process serves /metrics, at a port of the system's choice that `sdp status`
  // tells.
  enum class Metrics { kNone, kOnLoopback } metrics = Metrics::kNone;
  std::string page;  // Where the coordinator serves its status page; "": nowhere.

  // Asks the coordinator at `address` to end the run; returns within a deadline of its own. Called
  // on a thread of its own.
  std::function<absl::Status(const std::string& address, const std::string& reason)> request_stop;
  // The process of a worker or shard has ended; `killed`: by a signal, not by itself. Whether the
  // run goes on; then the coordinator knows now that it is gone. Unavailable, DeadlineExceeded,
  // ResourceExhausted - it does not answer: it may have been started again just now, and is asked
  // again for as long as a start may take. Another error - no. Returns within a deadline of its
  // own. Called on the calling thread.
  std::function<absl::StatusOr<bool>(const std::string& address, const std::string& member,
                                     bool killed)>
      goes_on_without;
  std::ostream* messages = nullptr;  // What is happening, for people. Required.

  absl::Duration start_timeout =
      absl::Minutes(10);  // Until the coordinator has its address; it may check a large checkpoint.
  absl::Duration stop_timeout =
      absl::Minutes(10);  // From the first Ctrl-C; the steps under way may be long.
  absl::Duration finish_timeout =
      absl::Seconds(60);  // From the first process that leaves until all have left.
  absl::Duration leave_timeout =
      absl::Seconds(5);  // From the end of the coordinator, which told everyone, until they left.
  absl::Duration stopped_timeout =
      absl::Seconds(8);  // From a member that was stopped until the coordinator has left too.
  absl::Duration settle_timeout =
      absl::Seconds(2);  // After a failure, for the coordinator to say what it knows of it.
  absl::Duration end_timeout = absl::Seconds(5);  // From SIGTERM to SIGKILL.
};

// Runs a whole training run as processes of this machine: starts the coordinator, then shard-0..
// and worker-0.., and watches them until the run is over. The coordinator's standard output is
// ours; logs go to RUN/logs/NAME.log; the coordinator's address to RUN/coordinator.address, unless
// it wrote that itself. When this returns, no process of it is left.
//   OK         the coordinator finished (exit status 0).
//   Cancelled  the run was stopped: first SIGINT or SIGTERM - the coordinator is asked to stop, and
//   saves what it saves;
//              second - all processes are ended at once. Or by someone else's request (exit status
//              130).
//   else       the message is what the user reads: what the coordinator said when it ended before
//   it had an address; or who
//              ended how, with its last log lines. A shard or the coordinator, if it is killed by
//              a signal, is started again, at most kMostRestarts times in ten minutes, and a shard
//              that has left the run; one that ends itself with an error ends the run, and so
//              does such a worker, or the last one.
// Threads: the children die with the calling thread (process.h), so call it from one that stays,
// such as the main one.
absl::Status RunLocalCluster(const LocalClusterOptions& options, StopSignals& signals);

inline constexpr int kMostRestarts = 3;

// worker.threads = 0 means this: as many threads per worker as there are cores, at least 1.
int ThreadsPerWorker(int workers);

}  // namespace sdp
