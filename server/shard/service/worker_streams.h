#pragma once

#include <memory>

#include "absl/container/flat_hash_map.h"
#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "common/protocol/messages.h"
#include "common/rpc/frame_stream.h"

namespace sdp {

// The streams of a shard's workers: where answers and values go. A worker has at most one of each
// kind; a newer one takes the older one's place. What is meant for a worker without a stream is
// dropped: it asks again when it is back. Threads: any.
class WorkerStreams {
 public:
  enum class Kind { kPush, kPull };

  // `stream` belongs to `worker` from now on.
  void Add(Kind kind, Incarnation worker, const std::shared_ptr<FrameStream>& stream);
  // It is closed. Does nothing if another one has taken its place.
  void Remove(Kind kind, Incarnation worker, const FrameStream& stream);
  // How the worker wants its values written.
  void SetWireType(Incarnation worker, WireType type);

  void Answer(const PushAnswer& answer);
  // A value or a refusal. Values are shared with the stream, not copied, until they have left.
  void Deliver(Generation generation, const Delivery& delivery);

  int count(Kind kind) const;

 private:
  struct Streams {
    std::shared_ptr<FrameStream> push, pull;
    WireType pull_type = WireType::kF32;
  };
  static std::shared_ptr<FrameStream>& Of(Kind kind, Streams& streams) {
    return kind == Kind::kPush ? streams.push : streams.pull;
  }

  mutable Mutex mutex_;
  absl::flat_hash_map<Incarnation, Streams> workers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sdp
