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

// Of HTTP/2, on both sides: a frame of ours is one of its frames, not 64 of 16 KiB each; and small
// ones that are ready together leave together.
inline constexpr int kHttp2FrameBytes = 2 << 20;
inline constexpr int kHttp2WriteBufferBytes = 256 << 10;

// Clients ping at this interval and wait this long for the answer; servers allow it (protocol.md
// 8).
inline constexpr absl::Duration kKeepaliveInterval = absl::Seconds(10);
inline constexpr absl::Duration kKeepaliveTimeout = absl::Seconds(5);

// gRPC cleans up when its last channel or server goes, and then waits up to 10 s for sockets that
// are just being closed, which delayed the end of a process. So the library is kept until the
// process ends. Before anything of it is made.
void KeepGrpc();

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
