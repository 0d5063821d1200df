#pragma once

#include <prometheus/metric_family.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/http/server.h"

namespace sdp {

// GET /metrics of one process, in Prometheus' text format, over plain HTTP: numbers and names of
// members, nothing secret, and nothing can be changed through it.
// `collect` is called on the server's thread. Null where `address` is "". Errors:
// HttpServer::Start's, naming --metrics.
absl::StatusOr<std::unique_ptr<HttpServer>> ServeMetrics(
    const std::string& address, const SecurityOptions& security,
    std::function<std::vector<prometheus::MetricFamily>()> collect);

}  // namespace sdp
