#include "deploy/command/run_calls.h"

#include <grpcpp/client_context.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_code.h"
#include "proto/coordinator.grpc.pb.h"
#include "proto/health.grpc.pb.h"
#include "proto/shard.grpc.pb.h"

namespace sdp {
namespace {

// One unary call of `Service`'s stub.
template <typename Service, typename Request, typename Response>
absl::Status Call(grpc::Status (Service::Stub::*method)(grpc::ClientContext*, const Request&,
                                                        Response*),
                  const std::string& address, const SecurityOptions& security, absl::Time deadline,
                  const Request& request, Response* response) {
  SDP_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                       MakeChannel(address, security));
  const std::unique_ptr<typename Service::Stub> stub = Service::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(deadline));
  return FromGrpc((stub.get()->*method)(&context, request, response));
}

}  // namespace

absl::Status RequestStop(const std::string& coordinator, const std::string& reason,
                         const SecurityOptions& security, absl::Time deadline) {
  proto::StopRequest request;
  request.set_reason(reason);
  proto::Ack ack;
  return Context(Call<proto::Coordinator>(&proto::Coordinator::Stub::Stop, coordinator, security,
                                          deadline, request, &ack),
                 absl::StrCat("ask the coordinator at ", coordinator, " to stop"));
}

absl::Status RequestDrain(const std::string& coordinator, const std::string& member, Drain how,
                          const SecurityOptions& security, absl::Time deadline) {
  proto::DrainRequest request;
  request.set_name(member);
  request.set_gone(how == Drain::kIsGone);
  proto::Ack ack;
  return Context(Call<proto::Coordinator>(&proto::Coordinator::Stub::Drain, coordinator, security,
                                          deadline, request, &ack),
                 absl::StrCat("ask the coordinator at ", coordinator, " to drain ", member));
}

absl::StatusOr<int64_t> RequestCheckpoint(const std::string& coordinator,
                                          const SecurityOptions& security, absl::Time deadline) {
  proto::TakeCheckpointResponse response;
  SDP_RETURN_IF_ERROR(Context(
      Call<proto::Coordinator>(&proto::Coordinator::Stub::TakeCheckpoint, coordinator, security,
                               deadline, proto::TakeCheckpointRequest(), &response),
      absl::StrCat("ask the coordinator at ", coordinator, " for a checkpoint")));
  return response.step();
}

absl::StatusOr<proto::RunStatus> FetchRunStatus(const std::string& coordinator,
                                                const SecurityOptions& security,
                                                absl::Time deadline,
                                                const proto::GetStatusRequest& request) {
  proto::RunStatus status;
  SDP_RETURN_IF_ERROR(
      Context(Call<proto::Coordinator>(&proto::Coordinator::Stub::GetStatus, coordinator, security,
                                       deadline, request, &status),
              absl::StrCat("ask the coordinator at ", coordinator, " for its status")));
  return status;
}

absl::StatusOr<proto::ShardStatus> FetchShardStatus(const std::string& shard,
                                                    const SecurityOptions& security,
                                                    absl::Time deadline,
                                                    const proto::GetShardStatusRequest& request) {
  proto::ShardStatus status;
  SDP_RETURN_IF_ERROR(Context(Call<proto::Shard>(&proto::Shard::Stub::GetStatus, shard, security,
                                                 deadline, request, &status),
                              absl::StrCat("ask the shard at ", shard, " for its status")));
  return status;
}

absl::Status WatchRunStatus(const std::string& coordinator, const SecurityOptions& security,
                            const proto::WatchStatusRequest& request,
                            const std::function<bool(const proto::RunStatus&)>& show) {
  SDP_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                       MakeChannel(coordinator, security));
  const auto stub = proto::Coordinator::NewStub(channel);
  // No deadline: it lasts as long as someone looks. Keepalive notices a coordinator that is cut
  // off.
  grpc::ClientContext context;
  const auto stream = stub->WatchStatus(&context, request);
  proto::RunStatus status;
  while (stream->Read(&status)) {
    if (show(status)) continue;
    context.TryCancel();
    stream->Finish();
    return absl::OkStatus();
  }
  const absl::Status end = FromGrpc(stream->Finish());
  return Context(end.ok() ? absl::UnavailableError("it has ended") : end,
                 absl::StrCat("watch the coordinator at ", coordinator));
}

absl::Status CheckHealth(const std::string& address, Health health, const SecurityOptions& security,
                         absl::Time deadline) {
  SDP_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                       MakeChannel(address, security));
  const auto stub = grpc::health::v1::Health::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(deadline));
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(health == Health::kReady ? "readiness" : "liveness");
  grpc::health::v1::HealthCheckResponse response;
  SDP_RETURN_IF_ERROR(Context(FromGrpc(stub->Check(&context, request, &response)),
                              absl::StrCat("ask ", address, " for its health")));
  if (response.status() == grpc::health::v1::HealthCheckResponse::SERVING) return absl::OkStatus();
  const auto& trailing = context.GetServerTrailingMetadata();
  const auto reason = trailing.find("sdp-reason");  // common/rpc/health_service.h
  return absl::UnavailableError(reason == trailing.end()
                                    ? "it gives no reason"
                                    : std::string(reason->second.data(), reason->second.size()));
}

}  // namespace sdp
