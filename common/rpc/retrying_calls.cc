#include "common/rpc/retrying_calls.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/rpc/in_flight.h"
#include "common/rpc/status_code.h"

namespace sdp {
namespace {

// A cancelled attempt ends at once; it takes this long only if gRPC is broken.
constexpr absl::Duration kCancelTimeout = absl::Seconds(30);

}  // namespace

bool IsTransient(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsResourceExhausted(status);
}

class RetryingCalls::Core : public std::enable_shared_from_this<Core> {
 public:
  // Confined to the loop after its first attempt, but for `context`.
  struct Call {
    RetryOptions options;
    AnyAttempt attempt;
    AnyOutcome outcome;
    absl::Time begun;
    int attempts = 0;
    absl::Duration pause;
    std::unique_ptr<grpc::ClientContext> context;  // of the attempt under way
  };

  explicit Core(EventLoop* loop) : loop_(loop) {}

  void Try(const std::shared_ptr<Call>& call) ABSL_LOCKS_EXCLUDED(mutex_) {
    ++call->attempts;
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_deadline(std::chrono::system_clock::now() +
                          absl::ToChronoMilliseconds(call->options.attempt_timeout));
    {
      MutexLock lock(&mutex_);
      if (cancelled_) return;
      call->context = std::move(context);
      under_way_.insert(call);
      in_flight_.Add();
    }
    // The reaction keeps no part of the call: its context holds the channel, and gRPC does not bear
    // the last reference to a channel being dropped on its own thread (it would join that thread).
    // `call = call` makes a copy that is not const, so that it can be moved from.
    call->attempt(call->context.get(),
                  [self = shared_from_this(), call = call](const grpc::Status& status) mutable {
                    self->loop_->Post([self, call = std::move(call), result = FromGrpc(status)] {
                      self->Tried(call, result);
                    });
                    self->in_flight_.Done();
                  });
  }

  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    cancelled_ = true;
    // Only asks gRPC to end the call: runs nothing of ours here.
    for (const auto& call : under_way_) call->context->TryCancel();
  }

  bool AwaitNone() ABSL_LOCKS_EXCLUDED(mutex_) {
    if (!in_flight_.AwaitNone(kCancelTimeout)) return false;
    // A reaction may hold this object a moment longer; see Try.
    std::set<std::shared_ptr<Call>> calls;
    MutexLock lock(&mutex_);
    calls.swap(under_way_);
    return true;
  }

 private:
  void Tried(const std::shared_ptr<Call>& call, const absl::Status& status)
      ABSL_LOCKS_EXCLUDED(mutex_) {
    {
      MutexLock lock(&mutex_);
      under_way_.erase(call);
      if (cancelled_) return;
    }
    if (status.ok()) return call->outcome(status);
    if (!IsTransient(status)) return call->outcome(Context(status, call->options.what));
    const absl::Time now = absl::Now();
    if (now + call->pause > call->begun + call->options.give_up_after) {
      return call->outcome(absl::UnavailableError(
          absl::StrCat(call->options.what, ": given up after ", call->attempts, " attempts in ",
                       absl::FormatDuration(absl::Trunc(now - call->begun, absl::Milliseconds(1))),
                       "; the last one: ", status.message())));
    }
    loop_->PostAt(now + call->pause, [self = shared_from_this(), call] { self->Try(call); });
    call->pause = std::min(2 * call->pause, call->options.max_pause);
  }

  EventLoop* const loop_;  // not used once cancelled and in_flight_ is none
  InFlight in_flight_;     // attempts
  Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<std::shared_ptr<Call>> under_way_ ABSL_GUARDED_BY(mutex_);
};

RetryingCalls::RetryingCalls(EventLoop* loop) : core_(std::make_shared<Core>(loop)) {}

RetryingCalls::~RetryingCalls() {
  Cancel();
  if (core_->AwaitNone()) return;
  std::fputs("RetryingCalls: gRPC did not end a cancelled call\n", stderr);
  std::abort();
}

void RetryingCalls::Cancel() { core_->Cancel(); }

void RetryingCalls::Begin(RetryOptions options, AnyAttempt attempt, AnyOutcome outcome) {
  auto call = std::make_shared<Core::Call>();
  call->pause = options.first_pause;
  call->options = std::move(options);
  call->attempt = std::move(attempt);
  call->outcome = std::move(outcome);
  call->begun = absl::Now();
  core_->Try(call);
}

}  // namespace sdp
