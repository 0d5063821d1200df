#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sdp {

// A file of the status page, as it was when the program was built.
struct Asset {
  absl::string_view path;  // "/page.js"
  absl::string_view bytes;
};

// All of them; chart.min.js is Chart.js, of the Debian package libjs-chart.js.
absl::Span<const Asset> PageAssets();

}  // namespace sdp
