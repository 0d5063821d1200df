#pragma once

#include <prometheus/metric_family.h>

#include <vector>

#include "proto/worker.pb.h"

namespace sdp {

// What a worker's /metrics shows of its status. Pure. Counters begin with its process.
std::vector<prometheus::MetricFamily> FamiliesOf(const proto::WorkerStatus& status);

}  // namespace sdp
