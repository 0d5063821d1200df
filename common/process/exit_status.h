#pragma once

#include "absl/status/status.h"

namespace sdp {

// What a command that people call ends with: 0 done, 1 failed, 2 a mistake in the command line, the
// config or what it names, 130 stopped on request.
inline int ExitStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kCancelled:
      return 130;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kPermissionDenied:
      return 2;
    default:
      return 1;
  }
}

}  // namespace sdp
