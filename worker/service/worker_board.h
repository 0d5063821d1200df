#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/protocol/messages.h"
#include "proto/worker.pb.h"

namespace sdp {

// What a worker's process tells of itself, through all its memberships of the run. The membership's
// loop hangs up a new status now and then; whoever asks reads the newest and makes nobody wait.
// Threads: any.
class WorkerBoard {
 public:
  // Of a process whose loop has said nothing for so long something is wrong.
  static constexpr absl::Duration kHangs = absl::Minutes(1);

  explicit WorkerBoard(std::string name);

  void SetAddresses(const std::string& address, const std::string& metrics);
  std::string address() const;
  std::string metrics_address() const;

  void Begin(absl::Time now);  // another membership
  void Count(const StepReport& report);
  // Name, addresses and totals are the board's.
  void HangUp(proto::WorkerStatus status, absl::Time now);

  proto::WorkerStatus Status(absl::Time now) const;
  absl::Status Alive(absl::Time now) const;  // Unavailable: since when it hangs
  absl::Status Ready(absl::Time now) const;  // Unavailable: what it waits for

 private:
  mutable Mutex mutex_;
  proto::WorkerStatus status_ ABSL_GUARDED_BY(mutex_);
  absl::Time hung_up_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
};

}  // namespace sdp
