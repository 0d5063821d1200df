#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/rpc/address.h"

namespace sdp {

// Limit on a message in both directions, on clients and servers. Frames are far smaller; bindings
// and plans of many workers come near.
inline constexpr int kMaxMessageBytes = 16 << 20;

// Clients ping at this interval and wait this long for the answer; servers allow it (protocol.md
// 8).
inline constexpr absl::Duration kKeepaliveInterval = absl::Seconds(10);
inline constexpr absl::Duration kKeepaliveTimeout = absl::Seconds(5);

// The one place that makes credentials. Errors: CheckAddress's.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const std::string& address, const SecurityOptions& security);
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const std::string& address, const SecurityOptions& security);

// gRPC gives channels with equal arguments one socket. Heartbeats need their own, or they would
// wait behind values.
enum class Sockets { kShared, kOwn };

// A channel to `address`: one per peer and purpose, made once. Does not connect yet; it reconnects
// by itself, after 100 ms at first and at most 1 s. Errors: CheckAddress's.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& address,
                                                           const SecurityOptions& security,
                                                           Sockets sockets = Sockets::kShared);

}  // namespace sdp
