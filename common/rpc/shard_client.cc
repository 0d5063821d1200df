#include "common/rpc/shard_client.h"

#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/retrying_calls.h"
#include "common/rpc/shard_convert.h"
#include "proto/shard.grpc.pb.h"

namespace sdp {
namespace {

using AsyncStub = class proto::Shard::Stub::async;
template <class Request>
using Method = void (AsyncStub::*)(grpc::ClientContext*, const Request*, proto::ControlResponse*,
                                   std::function<void(grpc::Status)>);

}  // namespace

// One call, waiting: begins itself, given a stub and where its outcome goes.
struct ShardControlClient::Call {
  std::string what;
  bool finish = false;
  std::function<void(RetryingCalls*, AsyncStub*, RetryOptions,
                     RetryingCalls::Outcome<proto::ControlResponse>)>
      begin;

  template <class Request>
  static Call Make(std::string what, Request request, Method<Request> method) {
    Call call;
    call.what = std::move(what);
    call.begin = [request = std::move(request), method](
                     RetryingCalls* calls, AsyncStub* stub, RetryOptions options,
                     RetryingCalls::Outcome<proto::ControlResponse> outcome) {
      calls->Start<Request, proto::ControlResponse>(
          request, std::move(options),
          [stub, method](grpc::ClientContext* context, const Request* in,
                         proto::ControlResponse* out, std::function<void(grpc::Status)> done) {
            (stub->*method)(context, in, out, std::move(done));
          },
          std::move(outcome));
    };
    return call;
  }
};

struct ShardControlClient::Peer {
  std::string address;
  std::unique_ptr<proto::Shard::Stub> stub;
  std::deque<Call> queue;                // the first one is under way
  std::unique_ptr<RetryingCalls> calls;  // last: its destructor ends what uses the stub
};

ShardControlClient::ShardControlClient(EventLoop* loop, Generation generation, uint64_t coordinator,
                                       const SecurityOptions& security, Events events)
    : loop_(loop),
      generation_(generation),
      coordinator_(coordinator),
      security_(security),
      events_(std::move(events)) {}

ShardControlClient::~ShardControlClient() { Shutdown(); }

absl::Status ShardControlClient::Connect(ShardId shard, const std::string& address) {
  auto channel = MakeChannel(address, security_);
  if (!channel.ok()) return Context(channel.status(), absl::StrCat("shard ", shard.value()));
  auto peer = std::make_unique<Peer>();
  peer->address = address;
  peer->stub = proto::Shard::NewStub(*channel);
  peer->calls = std::make_unique<RetryingCalls>(loop_);
  peers_[shard] = std::move(peer);
  return absl::OkStatus();
}

void ShardControlClient::Bind(ShardId shard, const ShardBinding& binding) {
  proto::BindRequest request = ToProto(binding);
  request.set_coordinator(coordinator_);
  Enqueue(shard, Call::Make<proto::BindRequest>(absl::StrCat("bind step ", binding.step),
                                                std::move(request), &AsyncStub::Bind));
}

void ShardControlClient::Exclude(ShardId shard, const Exclusion& exclusion) {
  Enqueue(shard, Call::Make<proto::ExcludeRequest>(
                     absl::StrCat("exclude worker incarnation ", exclusion.worker.value()),
                     ToProto(exclusion), &AsyncStub::Exclude));
}

void ShardControlClient::SetScale(ShardId shard, const ClipScale& scale) {
  Enqueue(shard,
          Call::Make<proto::SetScaleRequest>(absl::StrCat("set the scale of step ", scale.step),
                                             ToProto(scale), &AsyncStub::SetScale));
}

void ShardControlClient::ReleaseEvaluation(ShardId shard, Step step) {
  proto::ReleaseEvaluationRequest request;
  request.set_generation(generation_.value());
  request.set_step(step);
  Enqueue(shard, Call::Make<proto::ReleaseEvaluationRequest>(
                     absl::StrCat("release the evaluation of step ", step), std::move(request),
                     &AsyncStub::ReleaseEvaluation));
}

void ShardControlClient::Finish(ShardId shard) {
  proto::FinishRequest request;
  request.set_generation(generation_.value());
  Call call = Call::Make<proto::FinishRequest>("finish", std::move(request), &AsyncStub::Finish);
  call.finish = true;
  Enqueue(shard, std::move(call));
}

void ShardControlClient::Shutdown() { peers_.clear(); }

int64_t ShardControlClient::waiting() const {
  int64_t count = 0;
  for (const auto& [shard, peer] : peers_) count += static_cast<int64_t>(peer->queue.size());
  return count;
}

void ShardControlClient::Enqueue(ShardId shard, Call call) {
  const auto peer = peers_.find(shard);
  if (peer == peers_.end()) return;  // after Shutdown
  peer->second->queue.push_back(std::move(call));
  if (peer->second->queue.size() == 1) Next(shard);
}

void ShardControlClient::Next(ShardId shard) {
  Peer& peer = *peers_.at(shard);
  RetryOptions options;
  options.what =
      absl::StrCat(peer.queue.front().what, " on shard ", shard.value(), " at ", peer.address);
  peer.queue.front().begin(peer.calls.get(), peer.stub->async(), std::move(options),
                           [this, shard](const absl::StatusOr<proto::ControlResponse>& response) {
                             Answered(shard, response.status());
                           });
}

void ShardControlClient::Answered(ShardId shard, const absl::Status& status) {
  Peer& peer = *peers_.at(shard);
  const bool finish = peer.queue.front().finish;
  peer.queue.pop_front();
  if (!peer.queue.empty()) Next(shard);
  // Last, since the owner may end us in its event.
  if (!status.ok()) {
    events_.failed(shard, status);
  } else if (finish) {
    events_.finished(shard);
  }
}

}  // namespace sdp
