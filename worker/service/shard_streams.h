#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/base/wire_buffer.h"
#include "common/model/layout.h"
#include "common/protocol/messages.h"
#include "common/rpc/address.h"
#include "common/rpc/event_loop.h"
#include "common/rpc/stream_name.h"

namespace sdp {

// ShardStreams is a worker's end of the data path: to each shard one Push and one Pull stream of
// frames. When either breaks, both are closed and opened anew, with growing pauses, for as long as
// this object lives. Order: what waits is sent in order of (step, purpose, fragment): training
// before what is only looked at, and the first layers first, since they are needed first; a
// fragment that was begun is finished first, so a shard has one incomplete contribution of a worker
// at a time. Shapes: gradients and values are whole fragments, [n] in the type in which they
// travel: a gradient as it is given, a value as `pull_type` asks. Threads: all methods from any
// thread; all events on `owner`. Destroy it on the owner's thread or once the owner has stopped.
// Errors: a peer that breaks the frame format loses the connection (event `disconnected`), nothing
// else.
class ShardStreams {
 public:
  struct Events {
    // Both streams to the shard are open: at first and after each break. Whatever was sent or asked
    // before and has not been answered is lost: ask again.
    std::function<void(ShardId)> connected;
    // A break, or a failed attempt to connect, which is repeated after a pause.
    std::function<void(ShardId, const absl::Status&)> disconnected;
    // A fragment is complete. wire_bytes: headers and payloads of its parts.
    std::function<void(Step, FragmentId, WireBuffer, int64_t wire_bytes)> value;
    std::function<void(Step, FragmentId, Answer, const std::string& detail)> refused;
    std::function<void(const PushAnswer&)> push_answer;
    // A part of a contribution to the training of `step` has left: header and payload.
    std::function<void(Step, int64_t wire_bytes)> pushed;
  };

  struct Options {
    const Layout* layout = nullptr;      // outlives this object
    StreamName name;                     // whose streams they are
    std::vector<std::string> addresses;  // by shard number
    SecurityOptions security;
    WireType pull_type = WireType::kF32;  // what shards are asked to send
    absl::Duration first_pause = absl::Milliseconds(100);
    absl::Duration max_pause = absl::Seconds(1);
  };

  // Begins to connect. Errors: CheckAddress's, with the shard's number.
  static absl::StatusOr<std::unique_ptr<ShardStreams>> Create(Options options, Events events,
                                                              EventLoop* owner);
  ~ShardStreams();
  ShardStreams(const ShardStreams&) = delete;
  ShardStreams& operator=(const ShardStreams&) = delete;

  // Sends a contribution, whose gradient it shares until the last part has left; null with
  // key.terms = 0: a header alone. Dropped while the shard is disconnected.
  void Send(ShardId shard, const PushKey& key, SharedWire gradient);
  // Asks for fragments; each comes as `value` or `refused`, in any order. Dropped while the shard
  // is disconnected.
  void Pull(ShardId shard, const PullRequest& request);
  // Ends this worker's reads of versions up to a step. Dropped while the shard is disconnected.
  void Done(ShardId shard, const ReadsDone& reads);

 private:
  class Impl;
  explicit ShardStreams(std::shared_ptr<Impl> impl);
  const std::shared_ptr<Impl> impl_;
};

}  // namespace sdp
