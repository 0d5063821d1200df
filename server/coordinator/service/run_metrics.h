#pragma once

#include <prometheus/metric_family.h>

#include <vector>

#include "proto/coordinator.pb.h"

namespace sdp {

// What the coordinator's /metrics shows of a run's status. Pure. Counters begin with its process.
// Members are counted, not listed: each tells of itself at its own /metrics.
std::vector<prometheus::MetricFamily> FamiliesOf(const proto::RunStatus& status,
                                                 const proto::ProcessMemory& memory);

}  // namespace sdp
