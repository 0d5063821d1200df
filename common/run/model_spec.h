#pragma once

#include "absl/status/statusor.h"
#include "common/model/architectures.h"
#include "proto/config.pb.h"

namespace sdp {

// The model that a configuration describes. Pure. InvalidArgument - an architecture that is not
// known, naming the key.
absl::StatusOr<ModelSpec> ModelSpecFrom(const RunConfig& config);

}  // namespace sdp
