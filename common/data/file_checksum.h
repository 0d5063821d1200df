#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace sdp {

// Tells whether a file is still the same: XXH3 over its size and its bytes; of one larger than 1
// GiB over 64 pieces of 1 MiB spread evenly. Reads a piece at a time. Errors name the file.
absl::StatusOr<uint64_t> FileChecksum(const std::string& path);

}  // namespace sdp
