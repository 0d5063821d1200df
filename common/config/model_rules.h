#pragma once

#include "common/config/checks.h"
#include "proto/config.pb.h"

// Rules between the sizes of a model, and between these and its data.
namespace sdp::config {

bool TakesImages(const RunConfig& config);

void CheckModel(const RunConfig& config, Checks* checks);

}  // namespace sdp::config
