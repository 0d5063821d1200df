#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/protocol/messages.h"
#include "common/rpc/event_loop.h"
#include "server/shard/logic/shard.h"

namespace sdp {

// Writes a shard's file of each checkpoint, on a thread of its own: the disk is slow and the shard
// has workers to serve. One after another, in the order of the calls.
// Threads: Write from the owner's loop; phase from any. The destructor ends after the fragment that
// is being written and leaves nothing of an incomplete file.
class SnapshotWriter {
 public:
  struct Options {
    std::string folder;  // of all checkpoints
    ShardId shard;
    int shards = 1;
    Generation generation;
  };

  SnapshotWriter(Options options, EventLoop* owner);
  ~SnapshotWriter();

  // Both are called on the owner's loop. `written`: the part of this fragment is with the file
  // system, and let go of. `done`: all is let go of; the file is on the disk, or the part says why
  // not.
  void Write(Snapshot snapshot, std::function<void(FragmentId)> written,
             std::function<void(const CheckpointPart&)> done);

  // "writing checkpoint 500: fragment 3 of 40"; empty: nothing is being written.
  std::string phase() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  absl::StatusOr<CheckpointFile> WriteFile(Snapshot& snapshot,
                                           const std::function<void(FragmentId)>& written);
  void SetPhase(std::string phase) ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  EventLoop* const owner_;
  mutable Mutex mutex_;
  std::string phase_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  EventLoop disk_{"checkpoints"};  // last: its tasks use the rest
};

}  // namespace sdp
