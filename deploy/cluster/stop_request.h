#pragma once

#include <functional>
#include <thread>

#include "absl/status/status.h"

namespace sdp {

// One blocking call on a thread of its own, whose end shows on an fd, so that a loop that waits for
// processes and signals can wait for its answer too. Threads: one at a time uses it.   Lifetime:
// the destructor waits for the call, which must have a deadline.
class StopRequest {
 public:
  StopRequest();
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  // Once.
  void Start(std::function<absl::Status()> call);
  bool started() const { return started_; }
  // Readable once the call has returned and until Take; for poll().
  int fd() const { return fd_; }
  // The call's result. Only when fd() is readable.
  absl::Status Take();

 private:
  const int fd_;  // An eventfd.
  bool started_ = false;
  absl::Status result_;  // Written by the thread before it ends; read after the join.
  std::thread thread_;
};

}  // namespace sdp
