#include "common/rpc/channel.h"

#include <grpc/grpc.h>
#include <grpcpp/create_channel.h>

#include "common/base/status.h"
#include "common/rpc/grpc_log.h"
#include "common/rpc/http2_limits.h"
#include "common/rpc/identity.h"

namespace sdp {
namespace {

int Millis(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

}  // namespace

void KeepGrpc() {
  [[maybe_unused]] static const bool kept = [] {
    LimitGrpcLog();
    LimitHttp2();
    grpc_init();
    return true;
  }();
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const std::string& address, const SecurityOptions& security) {
  SDP_RETURN_IF_ERROR(CheckAddress(address, security));
  KeepGrpc();
  if (security.identity != nullptr) return security.identity->channel();
  return grpc::InsecureChannelCredentials();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const std::string& address, const SecurityOptions& security) {
  SDP_RETURN_IF_ERROR(CheckAddress(address, security));
  KeepGrpc();
  if (security.identity != nullptr) return security.identity->NewServerCredentials();
  return grpc::InsecureServerCredentials();
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& address,
                                                           const SecurityOptions& security,
                                                           Sockets sockets) {
  SDP_ASSIGN_OR_RETURN(auto credentials, MakeChannelCredentials(address, security));
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // In spite of its name this one bounds how long an attempt to connect may take; attempts that
  // fail sooner are repeated after the backoff above. 100 ms would never connect to a machine that
  // is far away or busy.
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, Millis(kKeepaliveInterval));
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Millis(kKeepaliveTimeout));
  args.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // any number
  args.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kHttp2FrameBytes);
  args.SetInt(GRPC_ARG_HTTP2_WRITE_BUFFER_SIZE, kHttp2WriteBufferBytes);
  args.SetMaxReceiveMessageSize(kMaxMessageBytes);
  args.SetMaxSendMessageSize(kMaxMessageBytes);
  // Retries are ours (RetryingCalls), with reasons; gRPC's would keep a copy of what streams send.
  args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  args.SetInt("grpc.enable_http_proxy", 0);  // shards are never behind the proxy of a user's shell
  if (sockets == Sockets::kOwn) args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, credentials, args);
}

}  // namespace sdp
