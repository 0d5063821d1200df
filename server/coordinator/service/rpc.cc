#include "server/coordinator/service/rpc.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "common/control/check_request.h"
#include "common/rpc/status_code.h"

namespace sdp {
namespace {

// What passes though nothing happens.
void ClearAges(proto::RunStatus* status) {
  status->clear_time_sec();
  status->clear_checkpoint_age_sec();
  status->clear_eta_sec();
  status->mutable_all_workers()->clear_longest_silence_sec();
  status->mutable_all_shards()->clear_longest_silence_sec();
  for (proto::Wait& wait : *status->mutable_waits()) wait.clear_since_sec();
  for (proto::RunStatus::Member& member : *status->mutable_members()) {
    member.clear_silence_sec();
    member.clear_phase_sec();
    member.clear_memory_bytes();
  }
}

grpc::Status NotYet() {
  return grpc::Status(grpc::StatusCode::UNAVAILABLE,
                      "the coordinator has not read yet what it knows of its run");
}

}  // namespace

CoordinatorService::Rpc::Rpc(CoordinatorService* service)
    : service_(service), watchers_(service->loop_, ClearAges) {}

template <typename Answer>
grpc::ServerUnaryReactor* CoordinatorService::Rpc::OnLoop(Context* context,
                                                          const google::protobuf::Message& request,
                                                          Answer answer) {
  Reactor* reactor = context->DefaultReactor();
  if (const absl::Status valid = CheckRequest(request); !valid.ok()) {
    reactor->Finish(ToGrpc(valid));
    return reactor;
  }
  service_->loop_->Post([service = service_, reactor, answer] {
    reactor->Finish(service->begun_ ? ToGrpc(answer()) : NotYet());
  });
  return reactor;
}

template <typename Response, typename Ask>
grpc::ServerUnaryReactor* CoordinatorService::Rpc::LongPoll(
    Context* context, const google::protobuf::Message& request, Response* response, Ask ask) {
  if (const absl::Status valid = CheckRequest(request); !valid.ok()) {
    Reactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(valid));
    return reactor;
  }
  // Early enough that the answer arrives in time on a busy machine; soon enough that a caller
  // without a deadline is not kept.
  constexpr absl::Duration kLongest = absl::Seconds(30);
  const absl::Time now = absl::Now();
  const absl::Time answer_by =
      now + 0.8 * std::min(absl::FromChrono(context->deadline()) - now, kLongest);
  const Pending<Response> pending = {context->DefaultReactor(), response, answer_by};
  service_->loop_->Post([service = service_, pending, ask] {
    if (!service->begun_) return pending.reactor->Finish(NotYet());
    ask(pending);
    service->loop_->PostAt(pending.answer_by, [service] { service->AnswerDue(); });
  });
  return pending.reactor;
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::RegisterShard(
    Context* context, const proto::RegisterShardRequest* request,
    proto::RegisterShardResponse* response) {
  return LongPoll(context, *request, response, [this, request](const auto& pending) {
    service_->OnRegisterShard(*request, pending);
  });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::RegisterWorker(
    Context* context, const proto::RegisterWorkerRequest* request,
    proto::RegisterWorkerResponse* response) {
  return LongPoll(context, *request, response, [this, request](const auto& pending) {
    service_->OnRegisterWorker(*request, pending);
  });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::Ready(Context* context,
                                                         const proto::ReadyRequest* request,
                                                         proto::Ack*) {
  return OnLoop(context, *request, [this, request] { return service_->OnReady(*request); });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::Leave(Context* context,
                                                         const proto::LeaveRequest* request,
                                                         proto::Ack*) {
  return OnLoop(context, *request, [this, request] { return service_->OnLeave(*request); });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::BeginStep(Context* context,
                                                             const proto::BeginStepRequest* request,
                                                             proto::BeginStepResponse* response) {
  return LongPoll(context, *request, response, [this, request](const auto& pending) {
    service_->OnBeginStep(*request, pending);
  });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::ReportReduced(
    Context* context, const proto::ReducedReport* request, proto::Ack*) {
  return OnLoop(context, *request, [this, request] { return service_->OnReduced(*request); });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::ReportDiagnosed(
    Context* context, const proto::DiagnosedReport* request, proto::Ack*) {
  return OnLoop(context, *request, [this, request] { return service_->OnDiagnosed(*request); });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::ReportStepDone(
    Context* context, const proto::StepDoneReport* request, proto::Ack*) {
  return OnLoop(context, *request, [this, request] { return service_->OnStepDone(*request); });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::ReportStateHashes(
    Context* context, const proto::StateHashesReport* request, proto::Ack*) {
  return OnLoop(context, *request, [this, request] { return service_->OnStateHashes(*request); });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::ReportCheckpoint(
    Context* context, const proto::CheckpointReport* request, proto::Ack*) {
  return OnLoop(context, *request, [this, request] { return service_->OnCheckpoint(*request); });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::ReportStep(
    Context* context, const proto::WorkerStepReport* request, proto::Ack*) {
  return OnLoop(context, *request, [this, request] { return service_->OnStep(*request); });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::ReportEvaluation(
    Context* context, const proto::WorkerEvaluationReport* request, proto::Ack*) {
  return OnLoop(context, *request, [this, request] { return service_->OnEvaluation(*request); });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::ReportNotFinite(Context* context,
                                                                   const proto::NotFinite* request,
                                                                   proto::Ack*) {
  return OnLoop(context, *request, [this, request] { return service_->OnNotFinite(*request); });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::Heartbeat(Context* context,
                                                             const proto::HeartbeatRequest* request,
                                                             proto::HeartbeatResponse* response) {
  return OnLoop(context, *request,
                [this, request, response] { return service_->OnHeartbeat(*request, response); });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::Drain(Context* context,
                                                         const proto::DrainRequest* request,
                                                         proto::Ack*) {
  return OnLoop(context, *request, [this, request] { return service_->OnDrain(*request); });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::TakeCheckpoint(
    Context* context, const proto::TakeCheckpointRequest* request,
    proto::TakeCheckpointResponse* response) {
  return OnLoop(context, *request,
                [this, response] { return service_->OnTakeCheckpoint(response); });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::Stop(Context* context,
                                                        const proto::StopRequest* request,
                                                        proto::Ack*) {
  return OnLoop(context, *request, [this, request] {
    service_->Stop(request->reason());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CoordinatorService::Rpc::GetStatus(Context* context,
                                                             const proto::GetStatusRequest* request,
                                                             proto::RunStatus* response) {
  return OnLoop(context, *request, [this, request, response] {
    *response = service_->Status(*request);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<proto::RunStatus>* CoordinatorService::Rpc::WatchStatus(
    Context*, const proto::WatchStatusRequest* request) {
  return watchers_.Watch(request->options(), [service = service_, wanted = request->status()] {
    return service->Status(wanted);
  });
}

}  // namespace sdp
