#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace sdp {

class Identity;

// How the connections of a process are protected: by TLS, all of them, or not at all
// (LoadSecurity, common/rpc/identity.h).
struct SecurityOptions {
  bool insecure = false;    // flag --insecure: plaintext to and on other machines
  bool plain_http = false;  // flag --plain-http: of /metrics and pages alone
  std::shared_ptr<const Identity> identity = nullptr;  // null: plaintext
};

// Whether bytes for `address` stay on this machine: "localhost:P", "127.x.y.z:P", "[::1]:P",
// "unix:PATH".
bool IsLocalAddress(absl::string_view address);

// Whether a process may listen on or dial `address`. FailedPrecondition - it is not local, the
// connection would be plaintext, and --insecure was not given. InvalidArgument - neither HOST:PORT
// (0..65535) nor unix:PATH.
absl::Status CheckAddress(absl::string_view address, const SecurityOptions& security);

}  // namespace sdp
