#include "common/metrics/metrics_server.h"

#include <prometheus/text_serializer.h>

#include <utility>

#include "common/base/status.h"

namespace sdp {

absl::StatusOr<std::unique_ptr<HttpServer>> ServeMetrics(
    const std::string& address, const SecurityOptions& security,
    std::function<std::vector<prometheus::MetricFamily>()> collect) {
  if (address.empty()) return std::unique_ptr<HttpServer>();
  auto server = HttpServer::Start({.address = address, .security = security},
                                  [collect = std::move(collect)](const HttpRequest& request) {
                                    if (request.path != "/metrics")
                                      return HttpResponse{.status = 404, .body = "only /metrics\n"};
                                    return HttpResponse{
                                        .type = "text/plain; version=0.0.4; charset=utf-8",
                                        .body = prometheus::TextSerializer().Serialize(collect())};
                                  });
  if (!server.ok()) return Context(server.status(), "--metrics");
  return server;
}

}  // namespace sdp
