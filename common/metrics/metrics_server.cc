#include "common/metrics/metrics_server.h"

#include <exception>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace sdp {
namespace {

class Collected final : public prometheus::Collectable {
 public:
  explicit Collected(MetricsServer::Collect collect) : collect_(std::move(collect)) {}
  std::vector<prometheus::MetricFamily> Collect() const override { return collect_(); }

 private:
  const MetricsServer::Collect collect_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address,
                                                                    Collect collect) {
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(absl::string_view(address).substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics ", address, ": not HOST:PORT with a port from 0 to 65535"));
  }
  // The HTTP server takes no names.
  std::string host = address.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";
  std::unique_ptr<prometheus::Exposer> exposer;
  try {
    exposer = std::make_unique<prometheus::Exposer>(
        std::vector<std::string>{"listening_ports", absl::StrCat(host, ":", port), "num_threads",
                                 "2", "request_timeout_ms", "5000", "enable_keep_alive", "no"});
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("--metrics ", address,
                     ": cannot listen there: the port is in use, or it is "
                     "not an address of this machine (",
                     error.what(), ")"));
  }
  const std::vector<int> ports = exposer->GetListeningPorts();
  auto collectable = std::make_shared<Collected>(std::move(collect));
  exposer->RegisterCollectable(collectable);
  return std::unique_ptr<MetricsServer>(new MetricsServer(
      std::move(exposer), absl::StrCat(host, ":", ports.empty() ? port : ports.front()),
      std::move(collectable)));
}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::StartIfAsked(
    const std::string& address, Collect collect) {
  if (address.empty()) return std::unique_ptr<MetricsServer>();
  return Start(address, std::move(collect));
}

MetricsServer::MetricsServer(std::unique_ptr<prometheus::Exposer> exposer, std::string address,
                             std::shared_ptr<prometheus::Collectable> collectable)
    : address_(std::move(address)),
      collectable_(std::move(collectable)),
      exposer_(std::move(exposer)) {}

}  // namespace sdp
