#include "common/rpc/event_loop.h"

#include <pthread.h>

#include "absl/time/clock.h"

namespace sdp {

EventLoop::EventLoop(std::string name) : name_(std::move(name)), thread_([this] { Run(); }) {}

EventLoop::~EventLoop() { Stop(); }

void EventLoop::Post(Task task) {
  MutexLock lock(&mutex_);
  if (!stopping_) ready_.push_back(std::move(task));
}

void EventLoop::PostAt(absl::Time time, Task task) {
  MutexLock lock(&mutex_);
  if (!stopping_) later_.emplace(time, std::move(task));
}

void EventLoop::Stop() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void EventLoop::Run() {
  pthread_setname_np(pthread_self(), name_.substr(0, 15).c_str());
  std::vector<Task> batch;
  for (;;) {
    {
      MutexLock lock(&mutex_);
      const absl::Time due = later_.empty() ? absl::InfiniteFuture() : later_.begin()->first;
      // PostAt can bring an earlier time, so the wait also ends when the first time changes.
      auto awake = [this, due]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !ready_.empty() || (!later_.empty() && later_.begin()->first < due);
      };
      mutex_.AwaitWithDeadline(absl::Condition(&awake), due);
      if (stopping_) return;
      batch.swap(ready_);
      const absl::Time now = absl::Now();
      while (!later_.empty() && later_.begin()->first <= now) {
        batch.push_back(std::move(later_.begin()->second));
        later_.erase(later_.begin());
      }
    }
    for (Task& task : batch) task();
    batch.clear();
  }
}

}  // namespace sdp
