#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sdp {

// "1Gbit", "2.5 Gbit/s", "100Mbps", "125MB/s", "1GiB": bytes per second. Units of 1000 (KiB, MiB,
// GiB: of 1024); "/s" may be left out. InvalidArgument - anything else, or not above 0.
absl::StatusOr<double> ParseBandwidth(absl::string_view text);

}  // namespace sdp
