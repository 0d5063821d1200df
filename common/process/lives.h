#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "common/base/mutex.h"

namespace sdp {

// A process's memberships of a run, one after another: a member that is out of the run though it
// lives, or whose run has gone back to a checkpoint, comes back as a new one. `Member` has
// absl::Status Run(), which returns Aborted then.
// Threads: Run on one; Leave from any.
template <typename Member>
class Lives {
 public:
  using Make = std::function<std::unique_ptr<Member>()>;

  explicit Lives(Make make) : make_(std::move(make)) {}

  // Returns the first status that is not Aborted. `again` is told of each that is.
  absl::Status Run(const std::function<void(const absl::Status&)>& again) {
    for (;;) {
      const std::unique_ptr<Member> member = make_();
      {
        MutexLock lock(&mutex_);
        if (left_.has_value()) return absl::CancelledError(*left_);
        member_ = member.get();
      }
      const absl::Status end = member->Run();
      {
        MutexLock lock(&mutex_);
        member_ = nullptr;
      }
      if (!absl::IsAborted(end)) return end;
      again(end);
    }
  }

  // Ends the member there is, by `end`, and lets none come after it: Run returns Cancelled with
  // `why` then, if the member does not end otherwise.
  void Leave(const std::string& why, const std::function<void(Member&)>& end) {
    MutexLock lock(&mutex_);
    left_ = why;
    if (member_ != nullptr) end(*member_);
  }

 private:
  const Make make_;
  Mutex mutex_;
  Member* member_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::optional<std::string> left_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sdp
