#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace sdp {

// XXH3, 64 bits: checksums of payloads, plan and config hashes, state_hash. Not for security.
uint64_t Hash64(absl::string_view bytes, uint64_t seed = 0);

// 16 lower-case hexadecimal digits.
std::string HashText(uint64_t hash);

}  // namespace sdp
