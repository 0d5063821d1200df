#include "server/shard/service/shard_service.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/base/allocated.h"
#include "common/base/status.h"
#include "common/control/heartbeats.h"
#include "common/rpc/shard_convert.h"
#include "common/rpc/status_code.h"
#include "common/wire/frame.h"

namespace sdp {
namespace {

const char kNotReady[] = "the shard is not ready yet";

// The first frame of a stream names its worker, and all others must be of the same one.
absl::Status CheckWorker(Incarnation named, const FrameHeader& header) {
  if (header.worker == named) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "frame: worker incarnation ", header.worker.value(), " on the stream of ", named.value()));
}

}  // namespace

// Confined to `frames_`.
struct ShardService::PushStream {
  PushStream(const Layout* layout, int64_t assembly_bytes) : assembler(layout, assembly_bytes) {}

  Incarnation worker;  // 0: not named yet
  Assembler assembler;
  // Contributions begun -> whether the logic has refused it (confined to `logic_`).
  absl::flat_hash_map<std::pair<Step, FragmentId>, std::shared_ptr<bool>> begun;
};

ShardService::ShardService(Options options, EventLoop* logic, CoordinatorLink* coordinator,
                           std::function<void()> finished)
    : options_(std::move(options)),
      logic_(logic),
      coordinator_(coordinator),
      finished_(std::move(finished)),
      frames_("shard-frames") {}

void ShardService::Start(const ShardAdmission& admission, std::unique_ptr<Shard> shard) {
  auto owned = std::make_shared<std::unique_ptr<Shard>>(std::move(shard));  // a task can be copied
  logic_->Post([this, admission, owned] {
    admission_ = admission;
    shard_ = std::move(*owned);
    SnapshotWriter::Options snapshots{admission.checkpoints, admission.shard, admission.shards,
                                      admission.generation};
    snapshots_ = std::make_unique<SnapshotWriter>(std::move(snapshots), logic_);
    started_ = true;
    Execute(shard_->Start());
  });
}

void ShardService::Reconnected() {
  logic_->Post([this] {
    if (shard_ != nullptr) Execute(shard_->Reconnected());
  });
}

// ---- The data path ----

ShardService::Bidi* ShardService::Push(Context* context) {
  auto state = std::make_shared<PushStream>(options_.layout, options_.assembly_bytes);
  FrameStream::Events events;
  events.received = [this, state](FrameStream& stream, const ReceivedFrame& frame) {
    return PushFrame(state, stream, frame);
  };
  events.closed = [this, state](FrameStream& stream, const absl::Status&) {
    workers_.Remove(WorkerStreams::Kind::kPush, state->worker, stream);
  };
  return FrameStream::Serve(context, &frames_, std::move(events));
}

ShardService::Bidi* ShardService::Pull(Context* context) {
  auto worker = std::make_shared<Incarnation>();
  FrameStream::Events events;
  events.received = [this, worker](FrameStream& stream, const ReceivedFrame& frame) {
    return PullFrame(worker.get(), stream, frame);
  };
  events.closed = [this, worker](FrameStream& stream, const absl::Status&) {
    workers_.Remove(WorkerStreams::Kind::kPull, *worker, stream);
  };
  return FrameStream::Serve(context, &frames_, std::move(events));
}

absl::Status ShardService::PushFrame(const std::shared_ptr<PushStream>& state, FrameStream& stream,
                                     const ReceivedFrame& frame) {
  const FrameHeader& header = frame.header();
  if (!started_) return absl::UnavailableError(kNotReady);
  if (header.kind != FrameKind::kPushPart)
    return absl::InvalidArgumentError("frame: not a push part");
  if (state->worker == Incarnation()) {
    state->worker = header.worker;
    workers_.Add(WorkerStreams::Kind::kPush, header.worker, stream.shared_from_this());
  }
  SDP_RETURN_IF_ERROR(CheckWorker(state->worker, header));

  const PushKey key = PushKeyOf(header);
  const std::pair begun_key(key.step, key.fragment);
  SDP_ASSIGN_OR_RETURN(Assembler::Result result, state->assembler.Add(header, frame.payload()));
  switch (result.kind) {
    case Assembler::Result::Kind::kBegun: {
      auto& refused = state->begun[begun_key];
      refused = std::make_shared<bool>(false);
      Admit(state, key, header.total / BytesPerElement(header.wire_type), refused);
      break;
    }
    case Assembler::Result::Kind::kComplete: {
      const auto begun = state->begun.extract(begun_key);
      Contribute(key, std::move(result.value).Widened(), begun.empty() ? nullptr : begun.mapped());
      break;
    }
    case Assembler::Result::Kind::kRefused:
      state->begun.erase(begun_key);
      workers_.Answer(
          {key.worker, key.step, key.fragment, result.answer, std::move(result.detail)});
      break;
    case Assembler::Result::Kind::kMore:
    case Assembler::Result::Kind::kIgnored:
      break;
  }
  return absl::OkStatus();
}

// Asks the logic about a contribution of which the first part is here. Meanwhile the others may
// come, and all of it may be complete before the answer: then Contribute is behind us in the
// logic's queue, and sees `refused`.
void ShardService::Admit(const std::shared_ptr<PushStream>& state, const PushKey& key,
                         int64_t elements, const std::shared_ptr<bool>& refused) {
  logic_->Post([this, state, key, elements, refused] {
    std::string detail;
    const Answer answer = shard_->Admit(key, elements, &detail);
    if (answer == Answer::kReceived) return;
    *refused = true;
    // Before the answer is sent: afterwards the worker may begin again, and that must not be
    // dropped.
    frames_.Post([state, key] {
      state->begun.erase({key.step, key.fragment});
      state->assembler.Refuse(key.step, key.fragment);
    });
    workers_.Answer({key.worker, key.step, key.fragment, answer, detail});
  });
}

void ShardService::Contribute(const PushKey& key, FloatBuffer gradient,
                              const std::shared_ptr<bool>& refused) {
  auto owned = std::make_shared<FloatBuffer>(std::move(gradient));
  logic_->Post([this, key, owned, refused] {
    if (refused != nullptr && *refused) return;
    Execute(shard_->Push(key, std::move(*owned)));
  });
}

absl::Status ShardService::PullFrame(Incarnation* worker, FrameStream& stream,
                                     const ReceivedFrame& frame) {
  const FrameHeader& header = frame.header();
  if (!started_) return absl::UnavailableError(kNotReady);
  if (header.kind != FrameKind::kPullWant) return absl::InvalidArgumentError("frame: not a pull");
  if (!PayloadIntact(header, frame.payload())) return absl::DataLossError("frame: damaged pull");
  if (*worker == Incarnation()) {
    *worker = header.worker;
    workers_.Add(WorkerStreams::Kind::kPull, header.worker, stream.shared_from_this());
  }
  SDP_RETURN_IF_ERROR(CheckWorker(*worker, header));
  workers_.SetWireType(header.worker, header.wire_type);
  PullRequest request;
  static_cast<RequestKey&>(request) = RequestKeyOf(header);
  request.fragments = ReadWantPayload(frame.payload());
  logic_->Post([this, request = std::move(request)] { Execute(shard_->Pull(request)); });
  return absl::OkStatus();
}

void ShardService::Execute(ShardActions actions) {
  for (const PushAnswer& answer : actions.answers) workers_.Answer(answer);
  for (const Delivery& delivery : actions.deliveries)
    workers_.Deliver(admission_.generation, delivery);
  for (const Reduced& report : actions.reduced) coordinator_->ReportReduced(report);
  for (const StepDone& report : actions.done) coordinator_->ReportStepDone(report);
  for (const StateHashes& report : actions.hashes) coordinator_->ReportStateHashes(report);
  for (const NotFiniteReport& report : actions.not_finite) coordinator_->ReportNotFinite(report);
  for (Snapshot& snapshot : actions.snapshots) Write(std::move(snapshot));
}

void ShardService::Write(Snapshot snapshot) {
  const Step step = snapshot.step;
  snapshots_->Write(std::move(snapshot), [this, step](const CheckpointPart& part) {
    coordinator_->ReportCheckpoint(part);
    Execute(shard_->Written(step));
  });
}

std::string ShardService::writing() const { return started_ ? snapshots_->phase() : ""; }

// ---- Control calls ----

grpc::ServerUnaryReactor* ShardService::Control(Context* context, Do act) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  logic_->Post([this, reactor, act = std::move(act)] {
    reactor->Finish(ToGrpc(shard_ == nullptr ? absl::UnavailableError(kNotReady) : act(*shard_)));
  });
  return reactor;
}

grpc::ServerUnaryReactor* ShardService::ControlOf(Context* context, int64_t generation, Do act) {
  return Control(context, [this, generation, act = std::move(act)](Shard& shard) -> absl::Status {
    if (Generation(generation) == admission_.generation) return act(shard);
    return absl::AbortedError(absl::StrCat(options_.name, " is of generation ",
                                           admission_.generation.value(), ", the request of ",
                                           generation));
  });
}

grpc::ServerUnaryReactor* ShardService::Bind(Context* context, const proto::BindRequest* request,
                                             proto::ControlResponse*) {
  return ControlOf(context, request->generation(), [this, request](Shard& shard) -> absl::Status {
    SDP_ASSIGN_OR_RETURN(const ShardBinding binding, FromProto(*request, options_.units));
    Execute(shard.Bind(binding));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ShardService::SetScale(Context* context,
                                                 const proto::SetScaleRequest* request,
                                                 proto::ControlResponse*) {
  return ControlOf(context, request->generation(), [this, request](Shard& shard) -> absl::Status {
    SDP_ASSIGN_OR_RETURN(const ClipScale scale, FromProto(*request));
    Execute(shard.Scale(scale));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ShardService::ReleaseEvaluation(
    Context* context, const proto::ReleaseEvaluationRequest* request, proto::ControlResponse*) {
  return ControlOf(context, request->generation(), [this, request](Shard& shard) {
    Execute(shard.ReleaseEvaluation(request->step()));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ShardService::Finish(Context* context,
                                               const proto::FinishRequest* request,
                                               proto::ControlResponse*) {
  return ControlOf(context, request->generation(), [this](Shard&) {
    finished_();
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ShardService::GetStatus(Context* context,
                                                  const proto::GetShardStatusRequest*,
                                                  proto::ShardStatus* status) {
  return Control(context, [this, status](Shard& shard) {
    FillStatus(shard, status);
    return absl::OkStatus();
  });
}

void ShardService::FillStatus(const Shard& shard, proto::ShardStatus* status) const {
  const Shard::Counts counts = shard.counts();
  int64_t parameters = 0;
  Step newest = counts.oldest_version;
  for (const FragmentId fragment : shard.owned()) {
    parameters += options_.layout->fragment(fragment).size;
    newest = std::max(newest, shard.version(fragment));
  }
  status->set_name(options_.name);
  status->set_address(address_);
  status->set_shard(admission_.shard.value());
  status->set_shards(admission_.shards);
  status->set_generation(admission_.generation.value());
  status->set_term(admission_.term.value());
  status->set_fragments(static_cast<int64_t>(shard.owned().size()));
  status->set_parameters(parameters);
  status->set_oldest_version(counts.oldest_version);
  status->set_newest_version(newest);
  status->set_value_bytes(counts.value_bytes);
  status->set_optimizer_bytes(counts.optimizer_bytes);
  status->set_retained_bytes(counts.retained_bytes);
  status->set_round_bytes(counts.round_bytes);
  status->set_open_rounds(counts.open_rounds);
  status->set_pending_pulls(counts.pending_pulls);
  status->set_uncovered_fragment_steps(counts.uncovered_fragment_steps);
  status->set_peak_memory_bytes(PeakMemoryBytes());
  status->set_allocated_peak_bytes(Allocated().peak);
  status->set_push_streams(workers_.count(WorkerStreams::Kind::kPush));
  status->set_pull_streams(workers_.count(WorkerStreams::Kind::kPull));
}

}  // namespace sdp
