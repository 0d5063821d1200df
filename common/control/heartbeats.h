#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <variant>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"

namespace grpc {
class Channel;
class ClientContext;
}  // namespace grpc

namespace sdp {

// How long members do without a coordinator, which may be started again.
inline constexpr absl::Duration kCoordinatorGoneAfter = absl::Minutes(5);

// Tells the coordinator once a second that a member lives and what it does, and hears from it when
// the run is over. Own thread and own connection, so that a busy data path never makes a member
// look dead: make the channel with GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, since channels with equal
// arguments share one socket otherwise. Threads: `state` and `ended` are called on the heartbeat
// thread; post from `ended` to the owner's EventLoop. The destructor cancels the call under way and
// joins; not from inside `ended`.
class Heartbeats {
 public:
  struct State {
    std::string phase;
    int64_t peak_memory_bytes = 0;
    int64_t allocated_peak_bytes = 0;
    bool waits = false;           // of a worker: it can do nothing until others have done theirs
    int64_t allocated_bytes = 0;  // now
    std::string address = {};     // where it answers GetStatus; "": nowhere
    std::string metrics_address = {};  // "": none
  };
  using Member = std::variant<Incarnation, ShardId>;
  struct Options {
    std::string address;  // of the coordinator, for messages
    Generation generation;
    absl::Duration interval = absl::Seconds(1);
    absl::Duration call_timeout = absl::Seconds(5);
    absl::Duration unreachable_after = kCoordinatorGoneAfter;
    // Another process answers as the coordinator: it knows what the one before had stored, not what
    // it was told. Called on the heartbeat thread; may be null.
    std::function<void()> restarted = nullptr;
  };

  // `ended` is called at most once, after which no more is sent:
  //   OK - the run is finished. Cancelled - stopped on request. Unavailable - no answer for
  //   `unreachable_after`. Aborted - this member is of another generation, or was excluded. Other
  //   codes - the error
  //   with which the run ended.
  Heartbeats(std::shared_ptr<grpc::Channel> own_connection, Member member,
             std::function<State()> state, std::function<void(absl::Status)> ended,
             Options options);
  ~Heartbeats();
  Heartbeats(const Heartbeats&) = delete;
  Heartbeats& operator=(const Heartbeats&) = delete;

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);

  const std::shared_ptr<grpc::Channel> channel_;
  const Member member_;
  const std::function<State()> state_;
  const std::function<void(absl::Status)> ended_;
  const Options options_;

  Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* call_ ABSL_GUARDED_BY(mutex_) = nullptr;  // under way
  std::thread thread_;
};

// The most memory this process has held at once: VmHWM, 0 where the system does not tell.
int64_t PeakMemoryBytes();
// What it holds now: VmRSS, likewise.
int64_t ResidentMemoryBytes();

}  // namespace sdp
