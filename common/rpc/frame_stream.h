#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "common/rpc/event_loop.h"
#include "common/rpc/outgoing.h"
#include "common/rpc/stream_name.h"

namespace sdp {

// FrameStream is one end of a bidirectional stream of frames; the other end is one too. gRPC's
// reactions only move messages between gRPC and short queues; checksums, conversions and the events
// run on `frames`, an executor for such work. Reading never waits for anything but that executor.
// One write is under way at a time. Threads: methods from any; events on `frames`, which outlives
// the stream. `closed` comes once, as the last event.
class FrameStream : public std::enable_shared_from_this<FrameStream> {
 public:
  struct Events {
    // The first event. Client: the server has accepted the stream. Server: a client has come.
    std::function<void(FrameStream&)> opened;
    // An error ends the stream with it.
    std::function<absl::Status(FrameStream&, const ReceivedFrame&)> received;
    // A frame begins to leave. Before whatever the peer says in return.
    std::function<void(const FrameHeader&)> sent;
    // OK - the other end is done. Otherwise why it broke: the peer's frames, the peer, or the
    // connection.
    std::function<void(FrameStream&, const absl::Status&)> closed;
  };

  // What a server allows a client that does not take what it is sent.
  struct Limits {
    size_t queued_texts = std::numeric_limits<size_t>::max();  // answers and refusals
    absl::Duration stalled_write = absl::InfiniteDuration();
  };

  // What gRPC's reactors of both sides can do, without waiting. Called one at a time; none after
  // Finish.
  class Reactor {
   public:
    virtual ~Reactor() = default;
    virtual bool is_client() const = 0;
    virtual void BeginRead(grpc::ByteBuffer* message) = 0;
    // more: another write follows at once, so this one need not leave before it.
    virtual void BeginWrite(const grpc::ByteBuffer* message, bool more) = 0;
    virtual void Cancel() = 0;
    // Nothing more will be begun. A server's `why` travels to the client.
    virtual void Finish(const absl::Status& why) = 0;
  };

  // Calls `path` ("/sdp.proto.Shard/Push") in the name of `name`. Neither blocks nor fails: what
  // goes wrong is an event.
  static std::shared_ptr<FrameStream> Call(const std::shared_ptr<grpc::Channel>& channel,
                                           const std::string& path, const StreamName& name,
                                           EventLoop* frames, Events events);
  // Serves a call that came in: what a raw callback method returns. gRPC ends the reactor's life.
  static grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Serve(
      grpc::CallbackServerContext* context, EventLoop* frames, Events events, Limits limits);

  FrameStream(EventLoop* frames, Reactor* reactor, Events events, Limits limits)
      : frames_(frames), reactor_(reactor), limits_(limits), events_(std::move(events)) {}

  // Dropped once the stream is over.
  void Send(Outgoing outgoing) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the stream; `closed` follows, with `why`.
  void Close(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mutex_);

  // ---- For the reactors ----
  // Begins whatever can be begun.
  void Pump() ABSL_LOCKS_EXCLUDED(mutex_);
  void OnOpened();
  void OnRead(bool ok) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnWritten(bool ok) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDone(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  enum class Next { kNothing, kRead, kWrite, kCancel, kFinish };

  bool over() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ended_ || closing_; }
  Next Choose() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LimitLastWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WatchWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CheckWrite() ABSL_LOCKS_EXCLUDED(mutex_);
  void PostWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // On `frames`: takes what was received and sent, encodes what is to be sent.
  void Work() ABSL_LOCKS_EXCLUDED(mutex_);
  void Clear() ABSL_LOCKS_EXCLUDED(mutex_);
  void Receive(const grpc::ByteBuffer& message) ABSL_LOCKS_EXCLUDED(mutex_);
  void Encode() ABSL_LOCKS_EXCLUDED(mutex_);

  EventLoop* const frames_;
  Reactor* const reactor_;  // not touched after Finish
  const Limits limits_;
  Events events_;           // confined to `frames_`
  OutgoingQueue outgoing_;  // confined to `frames_`

  // gRPC's while the operation is under way, otherwise guarded.
  grpc::ByteBuffer read_message_;
  EncodedFrame written_frame_;
  bool more_follow_ = false;  // another frame was ready when this one began

  Mutex mutex_;
  bool pumping_ ABSL_GUARDED_BY(mutex_) = false;  // a thread is in Pump
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool working_ ABSL_GUARDED_BY(mutex_) = false;  // Work is posted
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;    // the other end is done, or the connection broke
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;  // we are done
  bool overdue_ ABSL_GUARDED_BY(mutex_) = false;  // over, and the last write takes too long
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool watching_ ABSL_GUARDED_BY(mutex_) = false;  // CheckWrite is posted
  absl::Time write_began_ ABSL_GUARDED_BY(mutex_);
  absl::Status why_ ABSL_GUARDED_BY(mutex_);
  std::deque<Outgoing> added_ ABSL_GUARDED_BY(mutex_);             // on the way to outgoing_
  std::deque<EncodedFrame> encoded_ ABSL_GUARDED_BY(mutex_);       // ready to be written
  std::deque<grpc::ByteBuffer> received_ ABSL_GUARDED_BY(mutex_);  // not yet looked at
  std::deque<FrameHeader> sent_ ABSL_GUARDED_BY(mutex_);           // not yet told
};

}  // namespace sdp
