#pragma once

#include <prometheus/metric_family.h>

#include <vector>

#include "proto/shard.pb.h"

namespace sdp {

// What a shard's /metrics shows of its status. Pure. Counters begin with its life in the
// generation.
std::vector<prometheus::MetricFamily> FamiliesOf(const proto::ShardStatus& status);

}  // namespace sdp
