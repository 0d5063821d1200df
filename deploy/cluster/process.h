#pragma once

#include <poll.h>
#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace sdp {

// How a process ended.
struct ExitStatus {
  int code = 0;    // Of exit(), if `signal` is 0.
  int signal = 0;  // Which killed it, or 0.

  bool operator==(const ExitStatus&) const = default;
};

// "exit status 3", "signal 9 (Killed)".
std::string Describe(ExitStatus status);

// A child process that we started, and only such: it is addressed by a pidfd, so a signal can never
// hit another process that got the same number later. The child stays in our process group, ignores
// SIGINT from its first instruction (Ctrl-C reaches the whole group, but what it means is decided
// here), reads nothing, inherits no file of ours but its output, and is killed by the kernel when
// the *thread* that started it ends: start children from one that outlives them. Threads: one at a
// time.   Lifetime: the destructor kills and reaps a child that still runs.
class Process {
 public:
  struct Options {
    std::string name;     // For people: "worker-1".
    std::string program;  // A path; no search in $PATH.
    std::vector<std::string> args = {};
    std::string stdout_path = {};  // Appended to; "": our own.
    std::string stderr_path = {};
  };

  // NotFound, PermissionDenied, ... - the program or an output file cannot be opened or executed.
  static absl::StatusOr<std::unique_ptr<Process>> Start(const Options& options);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  const std::string& name() const { return name_; }
  pid_t pid() const { return pid_; }
  // Readable once the child has ended; for poll().
  int fd() const { return pidfd_; }

  // How it ended; nullopt - it still runs. Never blocks.
  std::optional<ExitStatus> Ended();
  // The same, but waits until `deadline` for its end.
  std::optional<ExitStatus> WaitUntil(absl::Time deadline);
  // Does nothing once it has ended.
  void Signal(int signal);

 private:
  Process(std::string name, pid_t pid, int pidfd);

  const std::string name_;
  const pid_t pid_;
  const int pidfd_;
  std::optional<ExitStatus> ended_;
};

// Ends all of them: SIGTERM; again after a fifth of `grace`, since our programs take the first as a
// wish to finish in order and the second as "at once"; SIGKILL for those that still run after
// `grace`. When it returns, all are reaped (but for a process that the kernel cannot kill, which is
// given up after 5 s). Returns the names of those that needed SIGKILL.
std::vector<std::string> EndAll(absl::Span<const std::unique_ptr<Process>> processes,
                                absl::Duration grace);

// poll() until `deadline`, again after interruptions; true - some fd is ready. Infinite deadlines
// are allowed.
bool PollUntil(absl::Span<pollfd> fds, absl::Time deadline);

}  // namespace sdp
