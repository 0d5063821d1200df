#include "common/rpc/address.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace sdp {
namespace {

constexpr size_t kMaxUnixPath = 107;  // sockaddr_un, without the final zero

absl::Status CheckForm(absl::string_view address) {
  absl::string_view path = address;
  if (absl::ConsumePrefix(&path, "unix:")) {
    if (!path.empty() && path.size() <= kMaxUnixPath) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("address \"", address,
                                                   "\": the path of a unix socket has 1 to ",
                                                   kMaxUnixPath, " characters"));
  }
  const size_t colon = address.rfind(':');
  int port = -1;
  const bool good = colon != absl::string_view::npos && colon > 0 &&
                    absl::SimpleAtoi(address.substr(colon + 1), &port) && port >= 0 &&
                    port <= 65535;
  const absl::string_view host = address.substr(0, good ? colon : 0);
  const bool bracketed = absl::StartsWith(host, "[") && absl::EndsWith(host, "]");
  if (good && (bracketed || !absl::StrContains(host, ':')) && !absl::StrContains(host, '/'))
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("address \"", address, "\": neither HOST:PORT (port 0 to 65535) nor unix:PATH"));
}

}  // namespace

bool IsLocalAddress(absl::string_view address) {
  if (absl::StartsWith(address, "unix:")) return true;
  const absl::string_view host = address.substr(0, address.rfind(':'));
  if (host == "localhost" || host == "[::1]") return true;
  // Only digits and points behind 127.: "127.0.0.1.example.org" is somewhere else.
  return absl::StartsWith(host, "127.") &&
         host.find_first_not_of("0123456789.") == absl::string_view::npos;
}

absl::Status CheckAddress(absl::string_view address, const SecurityOptions& security) {
  if (absl::Status status = CheckForm(address); !status.ok()) return status;
  if (security.identity != nullptr || security.insecure || IsLocalAddress(address))
    return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("address \"", address,
                   "\" is not on this machine, and the connection would be plaintext; set "
                   "[security] (`sdp certs` makes what it names), or give --insecure to allow "
                   "that"));
}

}  // namespace sdp
