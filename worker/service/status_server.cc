#include "worker/service/status_server.h"

#include <utility>

#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/rpc/status_stream.h"
#include "proto/worker.grpc.pb.h"
#include "worker/service/worker_metrics.h"

namespace sdp {
namespace {

// What passes though nothing happens.
void ClearAges(proto::WorkerStatus* status) {
  status->clear_snapshot_age_sec();
  status->clear_phase_sec();
  status->mutable_memory()->clear_resident_bytes();
  for (proto::Wait& wait : *status->mutable_waits()) wait.clear_since_sec();
  for (auto& shard : *status->mutable_shards()) shard.clear_broken_sec();
}

}  // namespace

class WorkerStatusServer::Service final : public proto::Worker::CallbackService {
 public:
  Service(EventLoop* loop, WorkerBoard* board) : board_(board), watchers_(loop, ClearAges) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const proto::GetWorkerStatusRequest*,
                                      proto::WorkerStatus* status) override {
    *status = board_->Status(absl::Now());
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  grpc::ServerWriteReactor<proto::WorkerStatus>* WatchStatus(
      grpc::CallbackServerContext*, const proto::WatchWorkerStatusRequest* request) override {
    return watchers_.Watch(request->options(),
                           [board = board_] { return board->Status(absl::Now()); });
  }

 private:
  WorkerBoard* const board_;
  StatusStreams<proto::WorkerStatus> watchers_;
};

WorkerStatusServer::WorkerStatusServer(WorkerBoard* board)
    : service_(std::make_unique<Service>(&loop_, board)),
      health_(
          {.alive = [board](HealthService::Answer answer) { answer(board->Alive(absl::Now())); },
           .ready = [board](HealthService::Answer answer) { answer(board->Ready(absl::Now())); }}) {
}

// First those that others reach it by, then the loop that answers.
WorkerStatusServer::~WorkerStatusServer() {
  metrics_ = nullptr;
  server_ = nullptr;
}

absl::StatusOr<std::unique_ptr<WorkerStatusServer>> WorkerStatusServer::Start(
    const Options& options, WorkerBoard* board) {
  std::unique_ptr<WorkerStatusServer> started(new WorkerStatusServer(board));
  std::string address, metrics;
  if (!options.listen.empty()) {
    SDP_ASSIGN_OR_RETURN(started->server_,
                         RpcServer::Start(options.listen, options.security,
                                          {started->service_.get(), &started->health_}));
    address = options.advertise.empty() ? started->server_->address() : options.advertise;
  }
  SDP_ASSIGN_OR_RETURN(started->metrics_, ServeMetrics(options.metrics, options.security, [board] {
                         return FamiliesOf(board->Status(absl::Now()));
                       }));
  if (started->metrics_ != nullptr) metrics = started->metrics_->address();
  board->SetAddresses(address, metrics);
  return started;
}

}  // namespace sdp
