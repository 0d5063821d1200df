#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/mutex.h"

namespace sdp {

// One thread that runs what is posted to it, in order: the executor to which a role's logic is
// confined. gRPC reactions post here and return. Threads: Post and PostAt from any, also from the
// loop's own; the destructor drops what has not begun, and joins.
class EventLoop {
 public:
  using Task = std::function<void()>;

  explicit EventLoop(std::string name);
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  void Post(Task task) ABSL_LOCKS_EXCLUDED(mutex_);
  void PostAt(absl::Time time, Task task) ABSL_LOCKS_EXCLUDED(mutex_);
  // Runs no further task and joins. Tasks posted later are dropped. Not from the loop's own thread.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);

  const std::string name_;
  Mutex mutex_;
  std::vector<Task> ready_ ABSL_GUARDED_BY(mutex_);
  std::multimap<absl::Time, Task> later_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace sdp
