#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"

namespace sdp {

// gRPC's and Abseil's codes are the same numbers. A call that was cut off by the end of its server
// is Unavailable: Cancelled is what a peer says, with its reason. Of a connection that was refused
// it says what that may mean.
absl::Status FromGrpc(const grpc::Status& status);

inline grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

}  // namespace sdp
