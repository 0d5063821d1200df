#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/byte_budget.h"
#include "common/base/ids.h"
#include "common/model/layout.h"
#include "common/protocol/messages.h"
#include "common/rpc/event_loop.h"
#include "common/rpc/frame_stream.h"
#include "common/rpc/status_stream.h"
#include "common/wire/assembler.h"
#include "proto/shard.grpc.pb.h"
#include "server/shard/logic/shard.h"
#include "server/shard/service/coordinator_link.h"
#include "server/shard/service/snapshot_writer.h"
#include "server/shard/service/worker_streams.h"

namespace sdp {

// The service's methods: the data path raw, since its messages are frames, the rest typed.
using ShardServiceBase = proto::Shard::WithRawCallbackMethod_Push<
    proto::Shard::WithRawCallbackMethod_Pull<proto::Shard::WithCallbackMethod_Bind<
        proto::Shard::WithCallbackMethod_Exclude<proto::Shard::WithCallbackMethod_SetScale<
            proto::Shard::WithCallbackMethod_ReleaseEvaluation<
                proto::Shard::WithCallbackMethod_Finish<proto::Shard::WithCallbackMethod_GetStatus<
                    proto::Shard::WithCallbackMethod_WatchStatus<proto::Shard::Service>>>>>>>>>;

// ShardService puts the shard's logic on the network: frames and calls in, the logic's actions out.
// Until Start() it answers Unavailable. Threads: gRPC's only take messages; `frames_` puts
// fragments together and writes them; `logic` alone runs the Shard, sums and optimizer. What a peer
// can make it keep is bounded, whatever the peer does (DESIGN.md, Hostile input). End it in this
// order: the server, `logic`, this object.
class ShardService final : public ShardServiceBase {
 public:
  struct Options {
    std::string name;
    const Layout* layout = nullptr;    // outlives the service
    size_t units = 0;                  // of the catalog
    const Catalog* catalog = nullptr;  // for status; outlives the service
    // What contributions that are incomplete, or wait to be added, may hold: of one worker, of all.
    int64_t worker_bytes = int64_t{256} << 20;
    int64_t incoming_bytes = int64_t{1} << 30;
    size_t waiting_streams = 256;  // before the first binding; members have two each
    absl::Duration stalled_write = absl::Seconds(60);  // then a peer that takes nothing is cut off
  };

  // `finished` is called on `logic` when the coordinator has said that the run is complete, or
  // that the shard may leave it.
  ShardService(Options options, EventLoop* logic, CoordinatorLink* coordinator,
               std::function<void()> finished);

  // Where others reach it, for GetStatus. On `logic`.
  void SetAddress(const std::string& address) { address_ = address; }
  // Likewise, of its /metrics.
  void SetMetricsAddress(const std::string& address) { metrics_address_ = address; }
  // On `logic`. Unavailable - it has no parameters yet.
  absl::Status Ready() const;
  proto::ShardStatus Status(const proto::GetShardStatusRequest& request) const;
  // The start state is loaded. From any thread.
  bool started() const { return started_; }
  // The logic begins, with the report that its start state is loaded. From any thread, once.
  void Start(const ShardAdmission& admission, std::unique_ptr<Shard> shard);
  // Of the checkpoint being written; empty: none is. From any thread.
  std::string writing() const;
  // Repeats the last reports: the coordinator is another process now. From any thread.
  void Reconnected();

  using Bidi = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;
  using Context = grpc::CallbackServerContext;
  Bidi* Push(Context* context) override;
  Bidi* Pull(Context* context) override;
  grpc::ServerUnaryReactor* Bind(Context*, const proto::BindRequest*,
                                 proto::ControlResponse*) override;
  grpc::ServerUnaryReactor* Exclude(Context*, const proto::ExcludeRequest*,
                                    proto::ControlResponse*) override;
  grpc::ServerUnaryReactor* SetScale(Context*, const proto::SetScaleRequest*,
                                     proto::ControlResponse*) override;
  grpc::ServerUnaryReactor* ReleaseEvaluation(Context*, const proto::ReleaseEvaluationRequest*,
                                              proto::ControlResponse*) override;
  grpc::ServerUnaryReactor* Finish(Context*, const proto::FinishRequest*,
                                   proto::ControlResponse*) override;
  grpc::ServerUnaryReactor* GetStatus(Context*, const proto::GetShardStatusRequest*,
                                      proto::ShardStatus*) override;
  grpc::ServerWriteReactor<proto::ShardStatus>* WatchStatus(
      Context*, const proto::WatchShardStatusRequest*) override;

 private:
  struct PushStream;
  struct PullStream;
  using Do = std::function<absl::Status(Shard&)>;

  template <typename State>
  Bidi* Open(WorkerStreams::Kind kind, Context* context, std::shared_ptr<State> state);
  absl::Status Received(const std::shared_ptr<PushStream>& state, const ReceivedFrame& frame);
  absl::Status Received(const std::shared_ptr<PullStream>& state, const ReceivedFrame& frame);
  absl::Status ReceivedDone(const std::shared_ptr<PullStream>& state, const FrameHeader& header);
  // What came before the worker was a member.
  void ReplayHeld(const std::shared_ptr<PushStream>& state);
  void ReplayHeld(const std::shared_ptr<PullStream>& state);
  absl::Status Admit(const std::shared_ptr<PushStream>& state, const PushKey& key, int64_t elements,
                     const std::shared_ptr<bool>& refused);
  void Contribute(const PushKey& key, Assembler::Result complete, ByteBudget::Hold turn,
                  const std::shared_ptr<bool>& refused);
  void Ask(PullRequest request, ByteBudget::Hold turn);
  void EndReads(const ReadsDone& done, ByteBudget::Hold turn);
  // How much a worker may have asked for and not been answered yet: fragments and headers.
  int64_t MostAsked() const { return 1024 + 4 * int64_t{options_.layout->fragments()}; }
  // Runs `act` on the logic's executor and ends the call with its status.
  grpc::ServerUnaryReactor* Control(Context* context, Do act);
  grpc::ServerUnaryReactor* ControlOf(Context* context, int64_t generation, Do act);
  void RepeatReports();
  void Execute(ShardActions actions);
  void Write(Snapshot snapshot);
  // status.cc
  void FillCounts(proto::ShardStatus* status) const;
  void FillWaits(proto::ShardStatus* status) const;
  void FillBlocks(int first, proto::ShardStatus* status) const;

  const Options options_;
  EventLoop* const logic_;
  CoordinatorLink* const coordinator_;
  const std::function<void()> finished_;
  std::string address_, metrics_address_;             // confined to `logic_`, as the next three
  absl::Time step_done_at_ = absl::InfiniteFuture();  // the newest
  ShardAdmission admission_;
  int writing_ = 0;  // snapshots
  std::deque<CheckpointPart> last_parts_;
  uint64_t coordinator_process_ = 0;           // of the last binding
  std::unique_ptr<Shard> shard_;               // null until Start
  std::unique_ptr<SnapshotWriter> snapshots_;  // made before started_
  std::atomic<bool> started_ = false;
  std::atomic<bool> waits_for_disk_ = false;
  const std::shared_ptr<ByteBudget> incoming_;
  WorkerStreams workers_;
  StatusStreams<proto::ShardStatus> watchers_;
  EventLoop frames_;  // last: its tasks use the rest
};

}  // namespace sdp
