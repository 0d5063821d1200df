#include "deploy/command/run_calls.h"

#include <grpcpp/client_context.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_code.h"
#include "proto/coordinator.grpc.pb.h"
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
                                                absl::Time deadline) {
  proto::RunStatus status;
  SDP_RETURN_IF_ERROR(
      Context(Call<proto::Coordinator>(&proto::Coordinator::Stub::GetStatus, coordinator, security,
                                       deadline, proto::GetStatusRequest(), &status),
              absl::StrCat("ask the coordinator at ", coordinator, " for its status")));
  return status;
}

absl::StatusOr<proto::ShardStatus> FetchShardStatus(const std::string& shard,
                                                    const SecurityOptions& security,
                                                    absl::Time deadline) {
  proto::ShardStatus status;
  SDP_RETURN_IF_ERROR(Context(Call<proto::Shard>(&proto::Shard::Stub::GetStatus, shard, security,
                                                 deadline, proto::GetShardStatusRequest(), &status),
                              absl::StrCat("ask the shard at ", shard, " for its status")));
  return status;
}

}  // namespace sdp
