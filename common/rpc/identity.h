#pragma once

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/rpc/address.h"
#include "proto/config.pb.h"

namespace sdp {

// Identity is what a process shows its peers, and asks of them, where [security] is set: on every
// connection a certificate of the authority on both sides, which of a server is for the host that
// was dialled, or for security.server_name, and with every call the join token.
// The authority's file is read at each handshake, certificate and key once a second, so that new
// ones count from the next connection on; the token is read once.
// Refusals: the verification is ours (common/tls/verify.h), in the last step of gRPC's handshake
// and before a byte of HTTP/2 is read, since gRPC's own does not tell what is wrong, or of whom.
// Threads: any.
class Identity {
 public:
  // Called on gRPC's threads with each refusal of a peer, the same one at most once a minute. May
  // be null.
  using Log = std::function<void(const std::string&)>;

  // FailedPrecondition - certificate, key or token are none, or peers would refuse them;
  // InvalidArgument - a path is missing, or the server's name is none; others - the file system's.
  // They name the key and the file.
  static absl::StatusOr<std::shared_ptr<const Identity>> Load(const RunConfig::Security& files,
                                                              Log log);

  // "TLS with security.ca = certs/ca.crt, ...": where what it shows and trusts comes from.
  const std::string& description() const;
  // The same object each time: gRPC gives channels with equal credentials one socket.
  const std::shared_ptr<grpc::ChannelCredentials>& channel() const { return channel_; }
  // For one server. FailedPrecondition - its certificate is not for security.server_name.
  absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> NewServerCredentials() const;

 private:
  class Guard;
  class Verifier;
  class TokenSender;
  class TokenCheck;
  explicit Identity(std::shared_ptr<Guard> guard);

  const std::shared_ptr<Guard> guard_;
  std::shared_ptr<grpc::ChannelCredentials> channel_;
};

// TLS by `files`; where they are empty, and no server's name is given, `plaintext`. Errors:
// Identity::Load's.
absl::StatusOr<SecurityOptions> LoadSecurity(const RunConfig::Security& files,
                                             const SecurityOptions& plaintext, Identity::Log log);

}  // namespace sdp
