#include "common/rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/http2_limits.h"

namespace sdp {
namespace {

// What gRPC may buffer for all connections of a server together; beyond it, it stops reading.
constexpr size_t kBufferBytes = size_t{1} << 30;
// Of gRPC's reflection, the only service that takes a thread for each call: who wants more is
// refused.
constexpr int kMaxSyncThreads = 8;
// From a connection's begin until it speaks HTTP/2.
constexpr absl::Duration kHandshakeTimeout = absl::Seconds(10);

// Lets tools list and call our services without their .proto files. Applies to all servers built
// after it.
void ServeReflection() {
  [[maybe_unused]] static const bool served = [] {
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const std::string& address, const SecurityOptions& security,
    const std::vector<grpc::Service*>& services) {
  SDP_ASSIGN_OR_RETURN(auto credentials, MakeServerCredentials(address, security));
  ServeReflection();
  grpc::ServerBuilder builder;
  std::unique_ptr<RpcServer> server(new RpcServer());
  if (absl::StartsWith(address, "unix:")) {
    server->address_ = address;
    builder.AddListeningPort(address, std::move(credentials));
  } else {
    SDP_ASSIGN_OR_RETURN(server->acceptor_, Acceptor::Listen(address));
    server->address_ = server->acceptor_->address();
    using From = grpc::ServerBuilder::experimental_type::ExternalConnectionType;
    server->connections_ =
        builder.experimental().AddExternalConnectionAcceptor(From::FROM_FD, std::move(credentials));
  }
  for (grpc::Service* service : services) builder.RegisterService(service);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS,
                             static_cast<int>(absl::ToInt64Milliseconds(kKeepaliveInterval)));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             static_cast<int>(absl::ToInt64Milliseconds(kKeepaliveTimeout)));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Half the clients' interval: a ping a little early is no strike.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             static_cast<int>(absl::ToInt64Milliseconds(kKeepaliveInterval) / 2));
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kHttp2FrameBytes);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_WRITE_BUFFER_SIZE, kHttp2WriteBufferBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxCallsPerConnection);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
                             static_cast<int>(absl::ToInt64Milliseconds(kHandshakeTimeout)));
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  grpc::ResourceQuota quota("sdp");
  quota.Resize(kBufferBytes);
  quota.SetMaxThreads(kMaxSyncThreads);
  builder.SetResourceQuota(quota);

  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, ": the socket cannot be made there"));
  }
  if (server->acceptor_ != nullptr) {
    server->acceptor_->Start([connections = server->connections_.get()](int connection) {
      grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
      parameters.fd = connection;
      connections->HandleNewConnection(&parameters);
    });
  }
  return server;
}

RpcServer::~RpcServer() { Shutdown(); }

void RpcServer::Shutdown(absl::Duration grace) {
  if (server_ == nullptr) return;
  if (acceptor_ != nullptr) acceptor_->Stop();
  server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(grace));
  server_->Wait();
  server_ = nullptr;
}

}  // namespace sdp
