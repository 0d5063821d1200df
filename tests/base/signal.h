#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"

namespace sdp {

// A notification of which the thread sanitizer knows, unlike the packaged absl::Notification.
// Threads: any.
class Signal {
 public:
  void Set() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    set_ = true;
  }
  // False: not set in time.
  bool Wait() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    auto is_set = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return set_; };
    return mutex_.AwaitWithDeadline(absl::Condition(&is_set), absl::Now() + absl::Seconds(30));
  }

 private:
  Mutex mutex_;
  bool set_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sdp
