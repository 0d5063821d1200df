#include "common/rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"

namespace sdp {
namespace {

// What gRPC may buffer for all connections of a server together; beyond it, it stops reading.
constexpr size_t kBufferBytes = size_t{1} << 30;
// A member has two streams and a few calls under way; who wants more waits.
constexpr int kMaxCallsPerConnection = 128;
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
  int port = 0;
  builder.AddListeningPort(address, std::move(credentials), &port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  // Otherwise two servers could share a port, each getting some of the connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
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

  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address,
                     ": the port is in use, or it is not an address of this machine"));
  }
  std::string bound = address;
  if (absl::string_view text = address; !absl::StartsWith(text, "unix:")) {
    bound = absl::StrCat(text.substr(0, text.rfind(':')), ":", port);
  }
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(bound), std::move(server)));
}

RpcServer::RpcServer(std::string address, std::unique_ptr<grpc::Server> server)
    : address_(std::move(address)), server_(std::move(server)) {}

RpcServer::~RpcServer() { Shutdown(); }

void RpcServer::Shutdown(absl::Duration grace) {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(grace));
  server_->Wait();
  server_ = nullptr;
}

}  // namespace sdp
