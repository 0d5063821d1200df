#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace sdp {

// CRC-32C (Castagnoli), as of RFC 3720: a byte at a time by a table, for records, not for tensors.
uint32_t Crc32c(absl::string_view bytes);

}  // namespace sdp
