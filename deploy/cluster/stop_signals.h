#pragma once

#include <signal.h>

namespace sdp {

// SIGINT and SIGTERM as a readable fd instead of a handler, so that a loop can wait for them beside
// other things. Make it before the process has other threads: it blocks both signals for this
// thread and those started later (Process unblocks them in children). A SIGINT that we were started
// to ignore, as shells do for background jobs, stays ignored. Threads: one at a time.   Lifetime:
// the destructor restores the signal mask; one instance at a time.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // Readable when a signal has come; for poll().
  int fd() const { return fd_; }
  // The next signal that has come, or 0. Never blocks.
  int Take();

 private:
  sigset_t before_;
  int fd_;
};

}  // namespace sdp
