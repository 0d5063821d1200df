#pragma once

#include "absl/status/statusor.h"
#include "common/model/architectures.h"
#include "proto/config.pb.h"

namespace sdp {

// The model that a configuration describes. Pure. InvalidArgument - a word that is not known,
// naming the key; LoadConfig already refuses most of them.
absl::StatusOr<ModelSpec> ModelSpecFrom(const RunConfig& config);

}  // namespace sdp
