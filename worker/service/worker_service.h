#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/allocated.h"
#include "common/base/mutex.h"
#include "common/control/coordinator_client.h"
#include "common/control/heartbeats.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "common/protocol/messages.h"
#include "common/rpc/address.h"
#include "common/rpc/event_loop.h"
#include "worker/logic/worker.h"
#include "worker/service/compute_thread.h"
#include "worker/service/shard_streams.h"
#include "worker/service/worker_board.h"

namespace sdp {

// A worker's life outside its logic: registers, connects to all shards, says it is ready, then
// carries out what the logic wants until the run is over. Logic and connections are confined to one
// EventLoop; the model computes on a thread of its own and heartbeats have theirs.
class WorkerService {
 public:
  struct Options {
    std::string coordinator;  // address
    SecurityOptions security;
    std::string name;
    std::string config_hash;
    uint64_t instance = 0;     // random per life
    uint64_t before = 0;       // of the life that this process had before; 0: none
    int64_t memory_bytes = 0;  // that it may use to train; 0: not limited
    Worker::Options worker;    // name and the rest of what the logic needs
    DataSummary data;
    WireType precision = WireType::kF32;  // of values from the shards; gradients have the model's
    MemoryPlace computes = MemoryPlace::kHost;  // where the memory is that is reported
    WorkerBoard* board = nullptr;               // told what it does; outlives it; null: nobody is
    // Of a shard, and of the coordinator before it admits this worker.
    absl::Duration unreachable_after = absl::Seconds(30);
    // Of the coordinator later; of both in a process that has been in the run before.
    absl::Duration gone_after = kCoordinatorGoneAfter;
    absl::Duration take_timeout =
        absl::Minutes(30);  // of weights; the coordinator gives up earlier, with names
  };

  // `model` outlives the service.
  WorkerService(Options options, LocalModel* model);
  ~WorkerService();
  WorkerService(const WorkerService&) = delete;
  WorkerService& operator=(const WorkerService&) = delete;

  // Blocks until the run is over for this worker. OK - finished, or it has left; Cancelled -
  // stopped on request; Aborted - it was excluded, has lost a shard that others may reach, or the
  // run has gone back: another service may register again; else what went wrong. Once.
  absl::Status Run();
  // Ends Run with this status. From any thread, also before Run.
  void End(absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_);
  // Leaves the run: finishes what is bound to it and ends Run with OK; after `grace` it gives up,
  // and ends with Cancelled. From any thread.
  void Leave(absl::Duration grace, const std::string& why);

 private:
  // On the loop.
  // How long it tries to reach those whom it needs to get ready.
  absl::Duration patience() const {
    return options_.before == 0 ? options_.unreachable_after : options_.gone_after;
  }
  void Register();
  void Admitted(const WorkerAdmission& admission);
  void Connected(ShardId shard);
  void Disconnected(ShardId shard, const absl::Status& why);
  void SayReady();
  void SayLeave();
  void CoordinatorRestarted();
  // status.cc: twice a second
  void ShowStatus();
  proto::WorkerStatus Status(absl::Time now) const;
  void FillWaits(proto::WorkerStatus* status) const;
  void Do(WorkerActions actions);
  void Push(const WorkerActions::Push& push);
  ComputeThread::Events ComputeEvents();
  ShardStreams::Events StreamEvents();

  const Options options_;
  LocalModel* const model_;

  Mutex mutex_;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  std::string phase_ ABSL_GUARDED_BY(mutex_);
  bool waits_ ABSL_GUARDED_BY(mutex_) = false;

  // Confined to the loop.
  std::unique_ptr<CoordinatorClient> client_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<ShardStreams> streams_;
  std::vector<bool> connected_;           // [shards]
  std::vector<absl::Time> broken_since_;  // [shards]; InfiniteFuture: connected
  bool ready_said_ = false, started_ = false, leaving_ = false;
  WorkerAdmission admission_;
  std::string shown_phase_;
  absl::Time phase_since_;

  // The last go first: heartbeats and computation end before the loop they report to.
  EventLoop loop_{"worker"};
  std::unique_ptr<ComputeThread> compute_;
  std::unique_ptr<Heartbeats> heartbeats_;
};

}  // namespace sdp
