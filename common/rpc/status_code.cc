#include "common/rpc/status_code.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace sdp {
namespace {

// gRPC 1.51's words for a handshake that failed. A server that refuses a client closes the
// connection without a word, and in TLS 1.3 only after the client took itself for connected.
std::string Explained(const std::string& text) {
  if (!absl::StartsWith(text, "failed to connect")) return text;
  if (absl::EndsWith(text, "Socket closed") || absl::EndsWith(text, "Connection reset by peer")) {
    return absl::StrCat(text,
                        ": the server took the connection and closed it: it refused this side's "
                        "certificate (security.cert), wants TLS where this side has no [security], "
                        "or just ended; its log says which");
  }
  if (absl::EndsWith(text, "wrong version number"))
    return absl::StrCat(text, ": the server has no [security], and this side has");
  return absl::StrReplaceAll(
      text, {{"Custom verification check failed with error: UNAUTHENTICATED: ", ""}});
}

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  if (code == absl::StatusCode::kCancelled &&
      (status.error_message().empty() || status.error_message() == "CANCELLED"))
    return absl::UnavailableError("the call was cut off");
  // Some of gRPC's own errors have no text: a process that does not know the call, for one.
  return absl::Status(code, status.error_message().empty() ? absl::StatusCodeToString(code)
                                                           : Explained(status.error_message()));
}

}  // namespace sdp
