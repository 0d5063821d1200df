#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#if defined(__SANITIZE_THREAD__)
#define SDP_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SDP_TSAN 1
#endif
#endif

#ifdef SDP_TSAN
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace sdp {

// absl::Mutex, with its ordering told to ThreadSanitizer: the packaged Abseil is built without, so
// every use would be reported as a race.
class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    mutex_.Lock();
    Acquired();
  }
  void Unlock() ABSL_UNLOCK_FUNCTION() {
    Releasing();
    mutex_.Unlock();
  }
  // Waits, with the mutex held on entry and return, until `condition` is true or `deadline` passes;
  // returns the condition.
  bool AwaitWithDeadline(const absl::Condition& condition, absl::Time deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(this) {
    Releasing();
    // The condition is evaluated with the mutex held, by whichever thread holds it last.
    auto seen = [&] {
      Acquired();
      const bool met = condition.Eval();
      Releasing();
      return met;
    };
    const bool met = mutex_.AwaitWithDeadline(absl::Condition(&seen), deadline);
    Acquired();
    return met;
  }

 private:
#ifdef SDP_TSAN
  void Acquired() { __tsan_acquire(this); }
  void Releasing() { __tsan_release(this); }
#else
  void Acquired() {}
  void Releasing() {}
#endif
  absl::Mutex mutex_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_->Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

}  // namespace sdp
