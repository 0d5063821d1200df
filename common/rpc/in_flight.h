#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"

namespace sdp {

// Counts what gRPC still runs on an object's behalf, so that its destructor can wait for it.
// Threads: any.
class InFlight {
 public:
  void Add() {
    MutexLock lock(&mutex_);
    ++count_;
  }
  void Done() {
    MutexLock lock(&mutex_);
    --count_;
  }
  // False: not all were done in time.
  bool AwaitNone(absl::Duration timeout) {
    MutexLock lock(&mutex_);
    auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return count_ == 0; };
    return mutex_.AwaitWithDeadline(absl::Condition(&none), absl::Now() + timeout);
  }

 private:
  Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace sdp
