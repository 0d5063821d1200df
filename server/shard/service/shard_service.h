#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "common/base/ids.h"
#include "common/model/layout.h"
#include "common/protocol/messages.h"
#include "common/rpc/event_loop.h"
#include "common/rpc/frame_stream.h"
#include "common/wire/assembler.h"
#include "proto/shard.grpc.pb.h"
#include "server/shard/logic/shard.h"
#include "server/shard/service/coordinator_link.h"
#include "server/shard/service/snapshot_writer.h"
#include "server/shard/service/worker_streams.h"

namespace sdp {

// The service's methods: the data path raw, since its messages are frames, the rest typed.
using ShardServiceBase =
    proto::Shard::WithRawCallbackMethod_Push<proto::Shard::WithRawCallbackMethod_Pull<
        proto::Shard::WithCallbackMethod_Bind<proto::Shard::WithCallbackMethod_SetScale<
            proto::Shard::WithCallbackMethod_ReleaseEvaluation<
                proto::Shard::WithCallbackMethod_Finish<
                    proto::Shard::WithCallbackMethod_GetStatus<proto::Shard::Service>>>>>>>;

// ShardService puts the shard's logic on the network: frames and calls in, the logic's actions out.
// Until Start() it answers Unavailable. Threads: gRPC's only take messages; `frames_` puts
// fragments together and writes them; `logic` alone runs the Shard, sums and optimizer. End it in
// this order: the server, `logic`, this object.
class ShardService final : public ShardServiceBase {
 public:
  struct Options {
    std::string name;
    const Layout* layout = nullptr;              // outlives the service
    size_t units = 0;                            // of the catalog
    int64_t assembly_bytes = int64_t{64} << 20;  // incomplete contributions of one worker
  };

  // `finished` is called on `logic` when the coordinator has said that the run is complete.
  ShardService(Options options, EventLoop* logic, CoordinatorLink* coordinator,
               std::function<void()> finished);

  // Where others reach it, for GetStatus. On `logic`.
  void SetAddress(const std::string& address) { address_ = address; }
  // The logic begins, with the report that its start state is loaded. From any thread, once.
  void Start(const ShardAdmission& admission, std::unique_ptr<Shard> shard);
  // Of the checkpoint being written; empty: none is. From any thread.
  std::string writing() const;
  // Repeats the last reports. From any thread.
  void Reconnected();

  using Bidi = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;
  using Context = grpc::CallbackServerContext;
  Bidi* Push(Context* context) override;
  Bidi* Pull(Context* context) override;
  grpc::ServerUnaryReactor* Bind(Context*, const proto::BindRequest*,
                                 proto::ControlResponse*) override;
  grpc::ServerUnaryReactor* SetScale(Context*, const proto::SetScaleRequest*,
                                     proto::ControlResponse*) override;
  grpc::ServerUnaryReactor* ReleaseEvaluation(Context*, const proto::ReleaseEvaluationRequest*,
                                              proto::ControlResponse*) override;
  grpc::ServerUnaryReactor* Finish(Context*, const proto::FinishRequest*,
                                   proto::ControlResponse*) override;
  grpc::ServerUnaryReactor* GetStatus(Context*, const proto::GetShardStatusRequest*,
                                      proto::ShardStatus*) override;

 private:
  struct PushStream;
  using Do = std::function<absl::Status(Shard&)>;

  absl::Status PushFrame(const std::shared_ptr<PushStream>& state, FrameStream& stream,
                         const ReceivedFrame& frame);
  absl::Status PullFrame(Incarnation* worker, FrameStream& stream, const ReceivedFrame& frame);
  void Admit(const std::shared_ptr<PushStream>& state, const PushKey& key, int64_t elements,
             const std::shared_ptr<bool>& refused);
  void Contribute(const PushKey& key, FloatBuffer gradient, const std::shared_ptr<bool>& refused);
  // Runs `act` on the logic's executor and ends the call with its status.
  grpc::ServerUnaryReactor* Control(Context* context, Do act);
  grpc::ServerUnaryReactor* ControlOf(Context* context, int64_t generation, Do act);
  void Execute(ShardActions actions);
  void Write(Snapshot snapshot);
  void FillStatus(const Shard& shard, proto::ShardStatus* status) const;

  const Options options_;
  EventLoop* const logic_;
  CoordinatorLink* const coordinator_;
  const std::function<void()> finished_;
  std::atomic<bool> started_ = false;
  std::string address_;  // confined to `logic_`, as the next two
  ShardAdmission admission_;
  std::unique_ptr<Shard> shard_;               // null until Start
  std::unique_ptr<SnapshotWriter> snapshots_;  // made before started_
  WorkerStreams workers_;
  EventLoop frames_;  // last: its tasks use the rest
};

}  // namespace sdp
