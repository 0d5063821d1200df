#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace sdp {

// Becomes `sdp-worker NAME ARGS...` of `program_dir`, which has what `sdp` itself is built without:
// torch. Input, output, signals and exit status are that program's from then on. Returns only if it
// cannot be run: NotFound, PermissionDenied, ...
absl::Status BecomeWorker(const std::string& program_dir, const std::string& name,
                          const std::vector<std::string>& args);

}  // namespace sdp
