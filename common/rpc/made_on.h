#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/rpc/event_loop.h"

namespace sdp {

// What `make` returns on `loop`; from another thread, which waits. Nothing after `timeout`, or if
// the loop has stopped; `make` may still be called then.
template <typename T>
std::optional<T> MadeOn(EventLoop* loop, absl::Duration timeout, std::function<T()> make) {
  struct Made {
    Mutex mutex;
    bool done ABSL_GUARDED_BY(mutex) = false;
    std::optional<T> value ABSL_GUARDED_BY(mutex);
  };
  auto made = std::make_shared<Made>();
  loop->Post([made, make = std::move(make)] {
    T value = make();
    MutexLock lock(&made->mutex);
    made->value = std::move(value);
    made->done = true;
  });
  MutexLock lock(&made->mutex);
  made->mutex.AwaitWithDeadline(absl::Condition(&made->done), absl::Now() + timeout);
  return std::move(made->value);
}

}  // namespace sdp
