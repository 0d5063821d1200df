#pragma once

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/rpc/event_loop.h"

namespace sdp {

// GET /metrics of one process, in Prometheus' text format, over plain HTTP: numbers and names of
// members, nothing secret, and nothing can be changed through it. Threads: two of its own, which
// take requests; `collect` is called on them. The destructor ends them.
class MetricsServer {
 public:
  using Collect = std::function<std::vector<prometheus::MetricFamily>()>;

  // Listens on HOST:PORT, HOST a number or localhost; port 0: any free one. InvalidArgument - it is
  // no such address. Unavailable - cannot listen there.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& address,
                                                              Collect collect);
  // Of a process that may have none: null where `address` is "".
  static absl::StatusOr<std::unique_ptr<MetricsServer>> StartIfAsked(const std::string& address,
                                                                     Collect collect);

  const std::string& address() const { return address_; }  // with the port it got

 private:
  MetricsServer(std::unique_ptr<prometheus::Exposer> exposer, std::string address,
                std::shared_ptr<prometheus::Collectable> collectable);

  const std::string address_;
  const std::shared_ptr<prometheus::Collectable> collectable_;
  const std::unique_ptr<prometheus::Exposer> exposer_;  // ends before what it asks
};

// What `make` returns on `loop`; from another thread. After `timeout`, or if the loop has stopped,
// a value-initialized one.
template <typename T>
T MadeOn(EventLoop* loop, absl::Duration timeout, std::function<T()> make) {
  struct Made {
    Mutex mutex;
    bool done ABSL_GUARDED_BY(mutex) = false;
    T value ABSL_GUARDED_BY(mutex) = {};
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
