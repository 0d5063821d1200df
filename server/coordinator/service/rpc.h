#pragma once

#include "common/rpc/status_stream.h"
#include "proto/coordinator.grpc.pb.h"
#include "server/coordinator/service/service.h"

namespace sdp {

// gRPC's side of CoordinatorService: every reaction posts to the loop and returns. Request and
// response live until the reactor's Finish, which each of them reaches, so nothing is copied.
// Threads: gRPC's.
class CoordinatorService::Rpc final : public proto::Coordinator::CallbackService {
 public:
  explicit Rpc(CoordinatorService* service);

  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  Reactor* RegisterShard(Context* context, const proto::RegisterShardRequest* request,
                         proto::RegisterShardResponse* response) override;
  Reactor* RegisterWorker(Context* context, const proto::RegisterWorkerRequest* request,
                          proto::RegisterWorkerResponse* response) override;
  Reactor* Ready(Context* context, const proto::ReadyRequest* request,
                 proto::Ack* response) override;
  Reactor* BeginStep(Context* context, const proto::BeginStepRequest* request,
                     proto::BeginStepResponse* response) override;
  Reactor* ReportReduced(Context* context, const proto::ReducedReport* request,
                         proto::Ack* response) override;
  Reactor* ReportDiagnosed(Context* context, const proto::DiagnosedReport* request,
                           proto::Ack* response) override;
  Reactor* ReportStepDone(Context* context, const proto::StepDoneReport* request,
                          proto::Ack* response) override;
  Reactor* ReportStateHashes(Context* context, const proto::StateHashesReport* request,
                             proto::Ack* response) override;
  Reactor* ReportCheckpoint(Context* context, const proto::CheckpointReport* request,
                            proto::Ack* response) override;
  Reactor* ReportStep(Context* context, const proto::WorkerStepReport* request,
                      proto::Ack* response) override;
  Reactor* ReportEvaluation(Context* context, const proto::WorkerEvaluationReport* request,
                            proto::Ack* response) override;
  Reactor* ReportNotFinite(Context* context, const proto::NotFinite* request,
                           proto::Ack* response) override;
  Reactor* Leave(Context* context, const proto::LeaveRequest* request,
                 proto::Ack* response) override;
  Reactor* Heartbeat(Context* context, const proto::HeartbeatRequest* request,
                     proto::HeartbeatResponse* response) override;
  Reactor* Drain(Context* context, const proto::DrainRequest* request,
                 proto::Ack* response) override;
  Reactor* TakeCheckpoint(Context* context, const proto::TakeCheckpointRequest* request,
                          proto::TakeCheckpointResponse* response) override;
  Reactor* Stop(Context* context, const proto::StopRequest* request, proto::Ack* response) override;
  Reactor* GetStatus(Context* context, const proto::GetStatusRequest* request,
                     proto::RunStatus* response) override;
  grpc::ServerWriteReactor<proto::RunStatus>* WatchStatus(
      Context* context, const proto::WatchStatusRequest* request) override;

 private:
  // Runs `answer` on the loop; the call ends with what it returns. Both refuse what CheckRequest
  // does.
  template <typename Answer>
  Reactor* OnLoop(Context* context, const google::protobuf::Message& request, Answer answer);
  // Runs `ask`(pending) on the loop, which keeps the call until the answer is known.
  template <typename Response, typename Ask>
  Reactor* LongPoll(Context* context, const google::protobuf::Message& request, Response* response,
                    Ask ask);

  CoordinatorService* const service_;
  StatusStreams<proto::RunStatus> watchers_;
};

}  // namespace sdp
