#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace sdp {

// How the connections of a process are protected. Nothing but plaintext is built yet.
struct SecurityOptions {
  bool insecure = false;  // flag --insecure: plaintext to and on other machines
};

// Whether bytes for `address` stay on this machine: "localhost:P", "127.x.y.z:P", "[::1]:P",
// "unix:PATH".
bool IsLocalAddress(absl::string_view address);

// Whether a process may listen on or dial `address` in plaintext. FailedPrecondition - it is not
// local and --insecure was not given. InvalidArgument - neither HOST:PORT (0..65535) nor unix:PATH.
absl::Status CheckAddress(absl::string_view address, const SecurityOptions& security);

}  // namespace sdp
