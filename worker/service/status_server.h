#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/metrics/metrics_server.h"
#include "common/rpc/address.h"
#include "common/rpc/event_loop.h"
#include "common/rpc/health_service.h"
#include "common/rpc/server.h"
#include "worker/service/worker_board.h"

namespace sdp {

// What answers for a worker: GetStatus, WatchStatus, health and /metrics, all from its board. A
// worker needs none of it to train, and opens no port unless it is asked to.
// Threads: Start and the destructor on one; it answers on its own.
class WorkerStatusServer {
 public:
  struct Options {
    std::string listen;     // "": nowhere
    std::string advertise;  // "": where it listens
    std::string metrics;    // "": none
    SecurityOptions security;
  };
  // `board` outlives it, and is told the addresses. Errors: RpcServer's and ServeMetrics'.
  static absl::StatusOr<std::unique_ptr<WorkerStatusServer>> Start(const Options& options,
                                                                   WorkerBoard* board);
  ~WorkerStatusServer();

 private:
  class Service;
  explicit WorkerStatusServer(WorkerBoard* board);

  EventLoop loop_{"worker-status"};
  const std::unique_ptr<Service> service_;
  HealthService health_;
  std::unique_ptr<RpcServer> server_;  // null: nowhere
  std::unique_ptr<HttpServer> metrics_;
};

}  // namespace sdp
