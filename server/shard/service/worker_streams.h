#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "common/protocol/messages.h"
#include "common/rpc/frame_stream.h"
#include "common/rpc/stream_name.h"

namespace sdp {

// The streams of a shard's workers: who may open one, and where answers and values go. A member of
// the run has at most one of each kind; a newer one takes the older one's place, and only the
// member itself, by its instance, can open it. Workers open theirs before they are members: those
// of incarnations newer than all that are known wait, and beyond `max_waiting` the oldest is ended,
// so that strangers can neither pile up nor keep members out, who open theirs again. What is meant
// for a worker without a stream is dropped: it asks again when it is back. Threads: any.
class WorkerStreams {
 public:
  enum class Kind { kPush, kPull };

  explicit WorkerStreams(size_t max_waiting) : max_waiting_(max_waiting) {}

  // The run's generation is known: streams of another end.
  void Begin(Generation generation);
  // A view's members, who stay members until they are excluded. Their streams are admitted; others
  // that cannot become members any more end.
  void AddMembers(const HolderSets& holders);
  // Ends the worker's streams: it is no member any more, and none again.
  void Exclude(Incarnation worker);

  // A stream opens. True: it is a member's. False: it waits, and `admitted` is called when it is a
  // member's, by AddMembers' thread. Errors end the stream: Aborted - another generation.
  // FailedPrecondition - no member.
  absl::StatusOr<bool> Open(Kind kind, const StreamName& name,
                            const std::shared_ptr<FrameStream>& stream,
                            std::function<void()> admitted);
  // It is closed. Does nothing if another one has taken its place.
  void Remove(Kind kind, Incarnation worker, const FrameStream& stream);
  // How the worker wants its values written.
  void SetWireType(Incarnation worker, WireType type);

  void Answer(const PushAnswer& answer);
  // A value or a refusal. Values are shared with the stream, not copied, until they have left.
  void Deliver(Generation generation, const Delivery& delivery);

  int count(Kind kind) const;  // of members
  int waiting() const;

 private:
  struct Streams {
    std::shared_ptr<FrameStream> push, pull;
    WireType pull_type = WireType::kF32;
  };
  struct Waiting {
    Kind kind = Kind::kPush;
    StreamName name;
    std::shared_ptr<FrameStream> stream;
    std::function<void()> admitted;
  };
  static std::shared_ptr<FrameStream>& Of(Kind kind, Streams& streams) {
    return kind == Kind::kPush ? streams.push : streams.pull;
  }
  // True: a member. False: it may become one.
  absl::StatusOr<bool> CheckMember(const StreamName& name) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t max_waiting_;
  mutable Mutex mutex_;
  Generation generation_ ABSL_GUARDED_BY(mutex_);                               // 0: not known yet
  Incarnation newest_ ABSL_GUARDED_BY(mutex_);                                  // of all members
  absl::flat_hash_map<Incarnation, uint64_t> members_ ABSL_GUARDED_BY(mutex_);  // -> instance
  absl::flat_hash_map<Incarnation, Streams> workers_ ABSL_GUARDED_BY(mutex_);   // members'
  std::list<Waiting> waiting_ ABSL_GUARDED_BY(mutex_);                          // oldest first
};

}  // namespace sdp
