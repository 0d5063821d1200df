#include "server/shard/service/shard_service.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/rpc/shard_convert.h"
#include "common/rpc/status_code.h"
#include "common/rpc/stream_name.h"
#include "common/wire/frame.h"

namespace sdp {
namespace {

// One is complete, and the next one may be, before the coordinator has stored either.
constexpr size_t kRepeatedParts = 2;
const char kNotReady[] = "the shard is not ready yet";

absl::Status CheckWorker(const StreamName& name, const FrameHeader& header) {
  if (header.worker == name.worker) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("frame: worker incarnation ",
                                                 header.worker.value(), " on the stream of ",
                                                 name.worker.value()));
}

absl::StatusOr<StreamName> NameOf(const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find(kStreamNameKey);
  if (found == context.client_metadata().end()) return ParseStreamName("");
  return ParseStreamName({found->second.data(), found->second.size()});
}

absl::Status TooMuch(const char* what, int64_t most) {
  return absl::ResourceExhaustedError(
      absl::StrCat("more than ", most, " ", what, " that have not been looked at yet"));
}

// What passes though nothing happens.
void ClearAges(proto::ShardStatus* status) {
  status->clear_step_sec();
  status->clear_logic_cpu_sec();
  status->mutable_memory()->clear_resident_bytes();
  for (proto::Wait& wait : *status->mutable_waits()) wait.clear_since_sec();
}

// A task can be copied, a buffer and a hold cannot.
template <typename T>
std::shared_ptr<T> Share(T value) {
  return std::make_shared<T>(std::move(value));
}

}  // namespace

// Both are confined to `frames_`. `turns` counts what the logic has not looked at yet.
struct ShardService::PushStream {
  PushStream(const Options& options, std::shared_ptr<ByteBudget> all, int64_t most_asked)
      : assembler(options.layout, ByteBudget::Make(options.worker_bytes, std::move(all))),
        turns(ByteBudget::Make(most_asked)) {}

  StreamName name;
  bool admitted = false;
  std::vector<PushKey> held;  // headers that came before
  Assembler assembler;
  const std::shared_ptr<ByteBudget> turns;
  // Contributions begun -> whether the logic has refused it (confined to `logic_`).
  absl::flat_hash_map<std::tuple<Step, Purpose, FragmentId>, std::shared_ptr<bool>> begun;
};

struct ShardService::PullStream {
  explicit PullStream(int64_t most_asked) : turns(ByteBudget::Make(most_asked)) {}

  StreamName name;
  bool admitted = false;
  WireType wire_type = WireType::kF32;  // of what is held
  std::vector<std::pair<PullRequest, ByteBudget::Hold>> held;
  std::optional<ReadsDone> held_done;  // the last one: it holds for those before
  const std::shared_ptr<ByteBudget> turns;
};

ShardService::ShardService(Options options, EventLoop* logic, CoordinatorLink* coordinator,
                           std::function<void()> finished)
    : options_(std::move(options)),
      logic_(logic),
      coordinator_(coordinator),
      finished_(std::move(finished)),
      incoming_(ByteBudget::Make(options_.incoming_bytes)),
      workers_(options_.waiting_streams),
      watchers_(logic, ClearAges),
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
    workers_.Begin(admission.generation);
    Execute(shard_->Start());
  });
}

void ShardService::Reconnected() {
  logic_->Post([this] {
    if (shard_ != nullptr) RepeatReports();
  });
}

void ShardService::RepeatReports() {
  Execute(shard_->Reconnected());
  for (const CheckpointPart& part : last_parts_) coordinator_->ReportCheckpoint(part);
}

// ---- The data path ----

template <typename State>
ShardService::Bidi* ShardService::Open(WorkerStreams::Kind kind, Context* context,
                                       std::shared_ptr<State> state) {
  const absl::StatusOr<StreamName> name = NameOf(*context);
  if (name.ok()) state->name = *name;
  FrameStream::Events events;
  events.opened = [this, kind, state, status = name.status()](FrameStream& stream) {
    if (!status.ok()) return stream.Close(status);
    const absl::StatusOr<bool> member =
        workers_.Open(kind, state->name, stream.shared_from_this(),
                      [this, state] { frames_.Post([this, state] { ReplayHeld(state); }); });
    if (!member.ok()) return stream.Close(member.status());
    state->admitted = *member;
  };
  events.received = [this, state](FrameStream&, const ReceivedFrame& frame) {
    return Received(state, frame);
  };
  events.closed = [this, kind, state](FrameStream& stream, const absl::Status&) {
    workers_.Remove(kind, state->name.worker, stream);
  };
  FrameStream::Limits limits;
  limits.queued_texts = static_cast<size_t>(MostAsked());
  limits.stalled_write = options_.stalled_write;
  return FrameStream::Serve(context, &frames_, std::move(events), limits);
}

ShardService::Bidi* ShardService::Push(Context* context) {
  return Open(WorkerStreams::Kind::kPush, context,
              std::make_shared<PushStream>(options_, incoming_, MostAsked()));
}

ShardService::Bidi* ShardService::Pull(Context* context) {
  return Open(WorkerStreams::Kind::kPull, context, std::make_shared<PullStream>(MostAsked()));
}

absl::Status ShardService::Received(const std::shared_ptr<PushStream>& state,
                                    const ReceivedFrame& frame) {
  const FrameHeader& header = frame.header();
  if (header.kind != FrameKind::kPushPart)
    return absl::InvalidArgumentError("frame: not a push part");
  SDP_RETURN_IF_ERROR(CheckWorker(state->name, header));
  const PushKey key = PushKeyOf(header);
  if (!state->admitted) {
    // Nobody has been told a value that a gradient could be of.
    if (header.total > 0)
      return absl::FailedPreconditionError("a gradient before the first binding");
    if (static_cast<int64_t>(state->held.size()) >= MostAsked())
      return TooMuch("headers", MostAsked());
    state->held.push_back(key);
    return absl::OkStatus();
  }

  const std::tuple begun_key(key.step, key.purpose, key.fragment);
  SDP_ASSIGN_OR_RETURN(Assembler::Result result, state->assembler.Add(header, frame.payload()));
  switch (result.kind) {
    case Assembler::Result::Kind::kBegun: {
      auto& refused = state->begun[begun_key];
      refused = std::make_shared<bool>(false);
      return Admit(state, key, header.total / BytesPerElement(header.wire_type), refused);
    }
    case Assembler::Result::Kind::kComplete: {
      const auto begun = state->begun.extract(begun_key);
      ByteBudget::Hold turn = state->turns->Take(1);
      if (!turn) return TooMuch("contributions", MostAsked());
      result.value = std::move(result.value).Widened();
      Contribute(key, std::move(result), std::move(turn), begun.empty() ? nullptr : begun.mapped());
      break;
    }
    case Assembler::Result::Kind::kRefused:
      state->begun.erase(begun_key);
      workers_.Answer({key.worker, key.step, key.fragment, result.answer, std::move(result.detail),
                       key.purpose});
      break;
    case Assembler::Result::Kind::kMore:
    case Assembler::Result::Kind::kIgnored:
      break;
  }
  return absl::OkStatus();
}

void ShardService::ReplayHeld(const std::shared_ptr<PushStream>& state) {
  state->admitted = true;
  for (const PushKey& key : std::exchange(state->held, {}))
    Contribute(key, Assembler::Result(), ByteBudget::Hold(), nullptr);
}

// Asks the logic about a contribution of which the first part is here. Meanwhile the others may
// come, and all of it may be complete before the answer: then Contribute is behind us in the
// logic's queue, and sees `refused`.
absl::Status ShardService::Admit(const std::shared_ptr<PushStream>& state, const PushKey& key,
                                 int64_t elements, const std::shared_ptr<bool>& refused) {
  ByteBudget::Hold turn = state->turns->Take(1);
  if (!turn) return TooMuch("contributions", MostAsked());
  logic_->Post([this, state, key, elements, refused, turn = Share(std::move(turn))] {
    std::string detail;
    const Answer answer = shard_->Admit(key, elements, &detail);
    if (answer == Answer::kReceived) return;
    *refused = true;
    // Before the answer is sent: afterwards the worker may begin again, and that must not be
    // dropped.
    frames_.Post([state, key] {
      state->begun.erase({key.step, key.purpose, key.fragment});
      state->assembler.Refuse(key);
    });
    workers_.Answer({key.worker, key.step, key.fragment, answer, detail, key.purpose});
  });
  return absl::OkStatus();
}

void ShardService::Contribute(const PushKey& key, Assembler::Result complete, ByteBudget::Hold turn,
                              const std::shared_ptr<bool>& refused) {
  logic_->Post(
      [this, key, owned = Share(std::move(complete)), turn = Share(std::move(turn)), refused] {
        if (refused != nullptr && *refused) return;
        Execute(shard_->Push(key, std::move(owned->value).Widened()));
      });
}

absl::Status ShardService::Received(const std::shared_ptr<PullStream>& state,
                                    const ReceivedFrame& frame) {
  const FrameHeader& header = frame.header();
  if (header.kind == FrameKind::kReadsDone) return ReceivedDone(state, header);
  if (header.kind != FrameKind::kPullWant) return absl::InvalidArgumentError("frame: not a pull");
  if (!PayloadIntact(header, frame.payload())) return absl::DataLossError("frame: damaged pull");
  SDP_RETURN_IF_ERROR(CheckWorker(state->name, header));
  PullRequest request;
  static_cast<RequestKey&>(request) = RequestKeyOf(header);
  request.fragments = ReadWantPayload(frame.payload());
  const auto asked = static_cast<int64_t>(request.fragments.size());
  ByteBudget::Hold turn;
  if (asked <= MostAsked()) turn = state->turns->Take(asked);
  if (!turn) return TooMuch("fragments asked for", MostAsked());
  if (!state->admitted) {
    state->wire_type = header.wire_type;
    state->held.emplace_back(std::move(request), std::move(turn));
    return absl::OkStatus();
  }
  workers_.SetWireType(header.worker, header.wire_type);
  Ask(std::move(request), std::move(turn));
  return absl::OkStatus();
}

absl::Status ShardService::ReceivedDone(const std::shared_ptr<PullStream>& state,
                                        const FrameHeader& header) {
  SDP_RETURN_IF_ERROR(CheckWorker(state->name, header));
  const ReadsDone done{RequestKeyOf(header)};
  if (!state->admitted) {
    state->held_done = done;
    return absl::OkStatus();
  }
  ByteBudget::Hold turn = state->turns->Take(1);
  if (!turn) return TooMuch("requests", MostAsked());
  EndReads(done, std::move(turn));
  return absl::OkStatus();
}

void ShardService::EndReads(const ReadsDone& done, ByteBudget::Hold turn) {
  logic_->Post([this, done, turn = Share(std::move(turn))] { shard_->Done(done); });
}

void ShardService::ReplayHeld(const std::shared_ptr<PullStream>& state) {
  state->admitted = true;
  workers_.SetWireType(state->name.worker, state->wire_type);
  for (auto& [request, turn] : std::exchange(state->held, {}))
    Ask(std::move(request), std::move(turn));
  if (state->held_done.has_value()) EndReads(*state->held_done, ByteBudget::Hold());
}

void ShardService::Ask(PullRequest request, ByteBudget::Hold turn) {
  logic_->Post([this, request = std::move(request), turn = Share(std::move(turn))] {
    Execute(shard_->Pull(request));
  });
}

void ShardService::Execute(ShardActions actions) {
  for (const PushAnswer& answer : actions.answers) workers_.Answer(answer);
  for (const Delivery& delivery : actions.deliveries)
    workers_.Deliver(admission_.generation, delivery);
  for (const Reduced& report : actions.reduced) coordinator_->ReportReduced(report);
  for (const Diagnosed& report : actions.diagnosed) coordinator_->ReportDiagnosed(report);
  for (const StepDone& report : actions.done) coordinator_->ReportStepDone(report);
  if (!actions.done.empty()) step_done_at_ = absl::Now();
  for (const StateHashes& report : actions.hashes) coordinator_->ReportStateHashes(report);
  for (const NotFiniteReport& report : actions.not_finite) coordinator_->ReportNotFinite(report);
  for (Snapshot& snapshot : actions.snapshots) Write(std::move(snapshot));
  if (writing_ > 0) waits_for_disk_ = shard_->WaitsForDisk();
}

void ShardService::Write(Snapshot snapshot) {
  const Step step = snapshot.step;
  ++writing_;
  snapshots_->Write(
      std::move(snapshot),
      [this, step](FragmentId fragment) { Execute(shard_->Written(step, fragment)); },
      [this, step](const CheckpointPart& part) {
        --writing_;
        waits_for_disk_ = false;
        last_parts_.push_back(part);
        if (last_parts_.size() > kRepeatedParts) last_parts_.pop_front();
        coordinator_->ReportCheckpoint(part);
        Execute(shard_->Written(step));
      });
}

std::string ShardService::writing() const {
  if (!started_) return "";
  return absl::StrCat(snapshots_->phase(), waits_for_disk_ ? "; updates wait for it" : "");
}

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
    const uint64_t before = std::exchange(coordinator_process_, request->coordinator());
    if (before != 0 && before != coordinator_process_) RepeatReports();
    if (binding.holders != nullptr) workers_.AddMembers(*binding.holders);
    Execute(shard.Bind(binding));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ShardService::Exclude(Context* context,
                                                const proto::ExcludeRequest* request,
                                                proto::ControlResponse*) {
  return ControlOf(context, request->generation(), [this, request](Shard& shard) {
    const Exclusion exclusion = FromProto(*request);
    Execute(shard.Exclude(exclusion));
    workers_.Exclude(exclusion.worker);
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

}  // namespace sdp
