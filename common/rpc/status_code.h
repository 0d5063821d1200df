#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"

namespace sdp {

// gRPC's and Abseil's codes are the same numbers. A call that was cut off by the end of its server
// is Unavailable: Cancelled is what a peer says, with its reason.
inline absl::Status FromGrpc(const grpc::Status& status) {
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  if (code == absl::StatusCode::kCancelled &&
      (status.error_message().empty() || status.error_message() == "CANCELLED"))
    return absl::UnavailableError("the call was cut off");
  // Some of gRPC's own errors have no text: a process that does not know the call, for one.
  return absl::Status(code, status.error_message().empty() ? absl::StatusCodeToString(code)
                                                           : status.error_message());
}

inline grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

}  // namespace sdp
