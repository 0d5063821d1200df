#include "common/rpc/health_service.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sdp {
namespace {

// As HTTP/2 wants a header's value: printable ASCII in one line.
std::string HeaderText(absl::string_view text) {
  std::string header(text.substr(0, 1000));
  std::replace_if(
      header.begin(), header.end(), [](char c) { return c < ' ' || c > '~'; }, ' ');
  return header;
}

}  // namespace

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const grpc::health::v1::HealthCheckRequest* request,
                                               grpc::health::v1::HealthCheckResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const std::string& service = request->service();
  const bool alive = service.empty() || service == "liveness";
  if (!alive && service != "readiness") {
    reactor->Finish(
        {grpc::StatusCode::NOT_FOUND, absl::StrCat("health of \"", service.substr(0, 100),
                                                   "\": known are liveness, readiness and \"\"")});
    return reactor;
  }
  (alive ? checks_.alive : checks_.ready)([context, reactor, response](const absl::Status& status) {
    response->set_status(status.ok() ? grpc::health::v1::HealthCheckResponse::SERVING
                                     : grpc::health::v1::HealthCheckResponse::NOT_SERVING);
    if (!status.ok()) context->AddTrailingMetadata(kReasonKey, HeaderText(status.message()));
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

HealthService::Ask CheckedOn(EventLoop* loop, std::function<absl::Status()> status) {
  return [loop, status = std::move(status)](HealthService::Answer answer) {
    loop->Post([status, answer = std::move(answer)] { answer(status()); });
  };
}

}  // namespace sdp
