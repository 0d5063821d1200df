#pragma once

#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "common/rpc/event_loop.h"
#include "proto/health.grpc.pb.h"

namespace sdp {

// gRPC's health service of a role (proto/health.proto). A check is answered by whoever knows,
// mostly the role's loop: so a loop that hangs lets the caller's deadline pass, which says the same
// as "no". Threads: gRPC's; the checks are called on these, and may answer from any thread, once.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  using Answer = std::function<void(const absl::Status&)>;  // OK, or why not
  using Ask = std::function<void(Answer)>;
  struct Checks {
    Ask alive;  // services "" and "liveness"
    Ask ready;  // service "readiness"
  };
  // Key of the trailing metadata with the reason of "not serving".
  static constexpr char kReasonKey[] = "sdp-reason";

  explicit HealthService(Checks checks) : checks_(std::move(checks)) {}

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;

 private:
  const Checks checks_;
};

// A check that `loop` answers with what `status` says there. Not after the loop has stopped.
HealthService::Ask CheckedOn(EventLoop* loop, std::function<absl::Status()> status);

}  // namespace sdp
