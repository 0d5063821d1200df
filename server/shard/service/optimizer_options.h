#pragma once

#include "proto/config.pb.h"
#include "server/shard/logic/optimizer.h"

namespace sdp {

// What [train] says to a shard. Precondition: a checked config.
OptimizerOptions OptimizerOptionsOf(const RunConfig::Train& train);

}  // namespace sdp
