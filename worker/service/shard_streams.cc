#include "worker/service/shard_streams.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/frame_stream.h"
#include "common/rpc/in_flight.h"
#include "common/wire/assembler.h"

namespace sdp {
namespace {

// Ours are at most 4 MiB; a shard sends one after the other.
constexpr int64_t kAssemblyBytes = int64_t{64} << 20;
// A cancelled stream ends at once; it takes this long only if gRPC is broken.
constexpr absl::Duration kCloseTimeout = absl::Seconds(30);
constexpr size_t kFragmentsPerWant = static_cast<size_t>(kMaxPayloadBytes) / 4;

}  // namespace

// Confined to `frames_`, but for what says otherwise.
class ShardStreams::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(Options options, Events events, EventLoop* owner)
      : options_(std::move(options)),
        events_(std::move(events)),
        owner_(owner),
        frames_("worker-frames") {}

  absl::Status Start();                                               // on the creator's thread
  void Stop();                                                        // likewise
  void Send(ShardId shard, const PushKey& key, SharedWire gradient);  // any thread
  void Pull(ShardId shard, const PullRequest& request);               // any thread
  void Done(ShardId shard, const ReadsDone& reads);                   // any thread

 private:
  // The two streams to a shard, from an attempt to open them until both are closed.
  struct Connection {
    std::shared_ptr<FrameStream> push, pull;
    int opened = 0;
    int closed = 0;
    absl::Status why;  // of the first one closed
    std::unique_ptr<Assembler> values;
  };
  struct Peer {
    std::string address;
    std::shared_ptr<grpc::Channel> channel;
    Connection connection;
    absl::Duration
        pause;  // before the next attempt; short again once the shard has said something useful
  };

  Peer& peer(ShardId shard) { return peers_[static_cast<size_t>(shard.value())]; }
  bool connected(ShardId shard) {
    return peer(shard).connection.opened == 2 && peer(shard).connection.closed == 0;
  }
  void Connect(ShardId shard);
  FrameStream::Events StreamEvents(ShardId shard);
  void Opened(ShardId shard);
  void Closed(ShardId shard, const absl::Status& why);
  absl::Status PushFrame(ShardId shard, const ReceivedFrame& frame);
  absl::Status PullFrame(ShardId shard, const ReceivedFrame& frame);
  absl::Status Value(ShardId shard, const ReceivedFrame& frame);

  // Runs an event on the owner's loop, unless this object is gone by then.
  template <typename Event>
  void Tell(Event event) {
    owner_->Post([weak = weak_from_this(), event = std::move(event)] {
      const std::shared_ptr<Impl> self = weak.lock();
      if (self != nullptr && !self->stopped_) event(self->events_);
    });
  }

  const Options options_;
  const Events events_;  // called on the owner's loop
  EventLoop* const owner_;
  bool stopped_ = false;  // confined to the owner's loop
  bool stopping_ = false;
  InFlight streams_;  // any thread
  std::vector<Peer> peers_;
  EventLoop frames_;  // last: its tasks use the rest
};

absl::Status ShardStreams::Impl::Start() {
  for (const std::string& address : options_.addresses) {
    auto channel = MakeChannel(address, options_.security);
    if (!channel.ok()) return Context(channel.status(), absl::StrCat("shard ", peers_.size()));
    Peer peer;
    peer.address = address;
    peer.channel = *std::move(channel);
    peer.pause = options_.first_pause;
    peers_.push_back(std::move(peer));
  }
  frames_.Post([this] {
    for (size_t s = 0; s < peers_.size(); ++s) Connect(ShardId(static_cast<int32_t>(s)));
  });
  return absl::OkStatus();
}

void ShardStreams::Impl::Stop() {
  stopped_ = true;
  streams_.Add();  // for the task below
  frames_.Post([this] {
    stopping_ = true;
    for (Peer& peer : peers_) {
      for (const auto& stream : {peer.connection.push, peer.connection.pull}) {
        if (stream != nullptr) stream->Close(absl::CancelledError("the worker ends"));
      }
    }
    streams_.Done();
  });
  if (!streams_.AwaitNone(kCloseTimeout)) {
    std::fputs("ShardStreams: gRPC did not end a cancelled stream\n", stderr);
    std::abort();
  }
  frames_.Stop();
}

void ShardStreams::Impl::Connect(ShardId shard) {
  if (stopping_) return;
  Peer& to = peer(shard);
  to.connection = Connection();
  to.connection.values =
      std::make_unique<Assembler>(options_.layout, ByteBudget::Make(kAssemblyBytes));
  streams_.Add();
  streams_.Add();
  FrameStream::Events push = StreamEvents(shard);
  push.received = [this, shard](FrameStream&, const ReceivedFrame& frame) {
    return PushFrame(shard, frame);
  };
  push.sent = [this](const FrameHeader& header) {
    if (header.purpose != Purpose::kTrain) return;
    Tell([step = header.step, bytes = FrameBytes(header)](const Events& events) {
      events.pushed(step, bytes);
    });
  };
  FrameStream::Events pull = StreamEvents(shard);
  pull.received = [this, shard](FrameStream&, const ReceivedFrame& frame) {
    return PullFrame(shard, frame);
  };
  to.connection.push = FrameStream::Call(to.channel, "/sdp.proto.Shard/Push", options_.name,
                                         &frames_, std::move(push));
  to.connection.pull = FrameStream::Call(to.channel, "/sdp.proto.Shard/Pull", options_.name,
                                         &frames_, std::move(pull));
}

FrameStream::Events ShardStreams::Impl::StreamEvents(ShardId shard) {
  FrameStream::Events events;
  events.opened = [this, shard](FrameStream&) { Opened(shard); };
  events.closed = [this, shard](FrameStream&, const absl::Status& why) {
    Closed(shard, why);
    streams_.Done();
  };
  return events;
}

void ShardStreams::Impl::Opened(ShardId shard) {
  ++peer(shard).connection.opened;
  if (!connected(shard)) return;
  Tell([shard](const Events& events) { events.connected(shard); });
}

void ShardStreams::Impl::Closed(ShardId shard, const absl::Status& why) {
  Peer& from = peer(shard);
  Connection& connection = from.connection;
  if (++connection.closed == 1) {
    connection.why = why.ok() ? absl::UnavailableError("closed by the shard") : why;
    for (const auto& stream : {connection.push, connection.pull}) {
      stream->Close(absl::CancelledError("the shard's other stream broke"));
    }
    return;
  }
  if (stopping_) return;
  const absl::Status broken = Context(
      connection.why, absl::StrCat("streams to shard ", shard.value(), " at ", from.address));
  Tell([shard, broken](const Events& events) { events.disconnected(shard, broken); });
  frames_.PostAt(absl::Now() + from.pause, [this, shard] { Connect(shard); });
  from.pause = std::min(2 * from.pause, options_.max_pause);
}

absl::Status ShardStreams::Impl::PushFrame(ShardId shard, const ReceivedFrame& frame) {
  const FrameHeader& header = frame.header();
  if (header.kind != FrameKind::kPushAnswer)
    return absl::InvalidArgumentError("frame: not a push answer");
  if (!PayloadIntact(header, frame.payload()))
    return absl::DataLossError("frame: damaged push answer");
  peer(shard).pause = options_.first_pause;
  PushAnswer answer{header.worker, header.step,  header.fragment,
                    header.answer, frame.Text(), header.purpose};
  Tell([answer = std::move(answer)](const Events& events) { events.push_answer(answer); });
  return absl::OkStatus();
}

absl::Status ShardStreams::Impl::PullFrame(ShardId shard, const ReceivedFrame& frame) {
  const FrameHeader& header = frame.header();
  if (header.kind == FrameKind::kValuePart) return Value(shard, frame);
  if (header.kind != FrameKind::kRefusal)
    return absl::InvalidArgumentError("frame: neither a value nor a refusal");
  if (!PayloadIntact(header, frame.payload())) return absl::DataLossError("frame: damaged refusal");
  peer(shard).pause = options_.first_pause;
  Tell([step = header.step, fragment = header.fragment, answer = header.answer,
        detail = frame.Text()](const Events& events) {
    events.refused(step, fragment, answer, detail);
  });
  return absl::OkStatus();
}

absl::Status ShardStreams::Impl::Value(ShardId shard, const ReceivedFrame& frame) {
  const FrameHeader& header = frame.header();
  if (header.wire_type != options_.pull_type) {
    return absl::InvalidArgumentError(
        absl::StrCat("frame: a value of ", BytesPerElement(header.wire_type),
                     " bytes an element, asked for ", BytesPerElement(options_.pull_type)));
  }
  SDP_ASSIGN_OR_RETURN(Assembler::Result result,
                       peer(shard).connection.values->Add(header, frame.payload()));
  if (result.kind == Assembler::Result::Kind::kRefused) {
    const std::string detail =
        absl::StrCat("value of fragment ", header.fragment.value(), ", step ", header.step, ": ",
                     AnswerName(result.answer), ": ", result.detail);
    // All that is open is asked for again on new streams: simpler than asking for one fragment, and
    // rare.
    if (result.answer == Answer::kBadChecksum) return absl::DataLossError(detail);
    return absl::InvalidArgumentError(detail);
  }
  if (result.kind != Assembler::Result::Kind::kComplete) return absl::OkStatus();
  peer(shard).pause = options_.first_pause;
  auto value = std::make_shared<WireBuffer>(
      std::move(result.value));  // a task can be copied, a buffer cannot
  Tell([step = header.step, fragment = header.fragment, value, bytes = result.wire_bytes](
           const Events& events) { events.value(step, fragment, std::move(*value), bytes); });
  return absl::OkStatus();
}

void ShardStreams::Impl::Send(ShardId shard, const PushKey& key, SharedWire gradient) {
  Outgoing outgoing;
  outgoing.header = gradient == nullptr ? PushHeader(key, 0, WireType::kF32)
                                        : PushHeader(key, gradient->size(), gradient->type());
  outgoing.encoded = std::move(gradient);
  frames_.Post([this, shard, outgoing = std::move(outgoing)] {
    if (connected(shard)) peer(shard).connection.push->Send(outgoing);
  });
}

void ShardStreams::Impl::Pull(ShardId shard, const PullRequest& request) {
  frames_.Post([this, shard, request] {
    if (!connected(shard)) return;
    const absl::Span<const FragmentId> all = request.fragments;
    for (size_t begin = 0; begin < all.size(); begin += kFragmentsPerWant) {
      const absl::Span<const FragmentId> some = all.subspan(begin, kFragmentsPerWant);
      Outgoing outgoing;
      outgoing.header = WantHeader(request, some.size(), options_.pull_type);
      outgoing.text = WantPayload(some);
      peer(shard).connection.pull->Send(std::move(outgoing));
    }
  });
}

void ShardStreams::Impl::Done(ShardId shard, const ReadsDone& reads) {
  frames_.Post([this, shard, reads] {
    if (!connected(shard)) return;
    Outgoing outgoing;
    outgoing.header = ReadsDoneHeader(reads);
    peer(shard).connection.pull->Send(std::move(outgoing));
  });
}

absl::StatusOr<std::unique_ptr<ShardStreams>> ShardStreams::Create(Options options, Events events,
                                                                   EventLoop* owner) {
  auto impl = std::make_shared<Impl>(std::move(options), std::move(events), owner);
  auto streams = std::unique_ptr<ShardStreams>(new ShardStreams(impl));
  SDP_RETURN_IF_ERROR(impl->Start());
  return streams;
}

ShardStreams::ShardStreams(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

ShardStreams::~ShardStreams() { impl_->Stop(); }

void ShardStreams::Send(ShardId shard, const PushKey& key, SharedWire gradient) {
  impl_->Send(shard, key, std::move(gradient));
}

void ShardStreams::Pull(ShardId shard, const PullRequest& request) { impl_->Pull(shard, request); }

void ShardStreams::Done(ShardId shard, const ReadsDone& reads) { impl_->Done(shard, reads); }

}  // namespace sdp
