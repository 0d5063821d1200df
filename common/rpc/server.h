#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/rpc/acceptor.h"
#include "common/rpc/address.h"

namespace sdp {

// A gRPC server on one address, with the settings of protocol.md 8. Threads: gRPC's own; the
// destructor shuts down.
class RpcServer {
 public:
  // Beside `services`, gRPC's reflection is served.
  // Listens on HOST:PORT (port 0: any free one) or unix:PATH and serves `services`, which outlive
  // it. Errors: CheckAddress's. Unavailable - cannot listen, most often since the port is in use.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const std::string& address, const SecurityOptions& security,
      const std::vector<grpc::Service*>& services);
  ~RpcServer();
  RpcServer(const RpcServer&) = delete;
  RpcServer& operator=(const RpcServer&) = delete;

  // Where it listens, with the port it got.
  const std::string& address() const { return address_; }

  // Takes no more calls, gives those running until `grace` is over and cancels the rest. Returns
  // when the last reactor is done, so the executors that reactors post to must still run. Repeating
  // it does nothing.
  void Shutdown(absl::Duration grace = absl::ZeroDuration());

 private:
  RpcServer() = default;

  std::string address_;  // constant after Start
  // Both null for a unix socket, whose listener is gRPC's: who may dial it is a matter of files.
  std::unique_ptr<Acceptor> acceptor_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> connections_;
  std::unique_ptr<grpc::Server> server_;  // null after Shutdown
};

}  // namespace sdp
