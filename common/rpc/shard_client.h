#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/protocol/messages.h"
#include "common/rpc/address.h"
#include "common/rpc/event_loop.h"

namespace sdp {

// ShardControlClient is the coordinator's end of the control calls to all shards. Per shard the
// calls go out in the order they were made, one at a time, each repeated until the shard answers
// it: shards may be slow or away for a while, and losing one is noticed by its heartbeats, not
// here. Threads: all methods and events on the loop's thread, or once the loop has stopped (the
// destructor too).
class ShardControlClient {
 public:
  struct Events {
    // The shard has taken Finish, and ends.
    std::function<void(ShardId)> finished;
    // The shard refused a call for good (another generation, a binding it cannot read): the run
    // cannot go on.
    std::function<void(ShardId, const absl::Status&)> failed;
  };

  // `coordinator`: the number of this process.
  ShardControlClient(EventLoop* loop, Generation generation, uint64_t coordinator,
                     const SecurityOptions& security, Events events);
  ~ShardControlClient();

  // Names the address of a shard, before its first call. Errors: CheckAddress's.
  absl::Status Connect(ShardId shard, const std::string& address);

  void Bind(ShardId shard, const ShardBinding& binding);
  void Exclude(ShardId shard, const Exclusion& exclusion);
  void SetScale(ShardId shard, const ClipScale& scale);
  void ReleaseEvaluation(ShardId shard, Step step);
  void Finish(ShardId shard);

  // Drops what has not been answered; no event comes any more.
  void Shutdown();

  // Calls not yet answered, over all shards.
  int64_t waiting() const;

 private:
  struct Peer;
  struct Call;
  void Enqueue(ShardId shard, Call call);
  void Next(ShardId shard);
  void Answered(ShardId shard, const absl::Status& status);

  EventLoop* const loop_;
  const Generation generation_;
  const uint64_t coordinator_;
  const SecurityOptions security_;
  const Events events_;
  std::map<ShardId, std::unique_ptr<Peer>> peers_;
};

}  // namespace sdp
