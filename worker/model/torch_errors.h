#pragma once

#include <string>

#include "absl/status/status.h"

namespace sdp {

// The exception that is being handled, as a status: ResourceExhausted (out of memory) or Internal.
// Only inside of a catch block. `doing` comes in front.
absl::Status CurrentException(const std::string& doing);

}  // namespace sdp
