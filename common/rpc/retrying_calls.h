#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/rpc/event_loop.h"

namespace sdp {

struct RetryOptions {
  std::string what;  // "report step 12 to the coordinator at 127.0.0.1:7000": for errors
  absl::Duration attempt_timeout = absl::Seconds(10);
  absl::Duration first_pause = absl::Milliseconds(100);  // doubles from attempt to attempt, up to:
  absl::Duration max_pause = absl::Seconds(1);
  absl::Duration give_up_after = absl::InfiniteDuration();  // counted from the first attempt
};

// Whether another attempt can help: Unavailable, DeadlineExceeded, ResourceExhausted.
bool IsTransient(const absl::Status& status);

// RetryingCalls makes unary calls, each repeated with growing pauses until it succeeds, fails for
// good or is cancelled. The outcome is a task on `loop`. Errors of a call: the server's, when not
// transient; Unavailable - given up, with the number of attempts and the last error; both say
// `what` first. After Cancel (or the destructor) nothing is reported. Threads: Start from any.
// Cancel and the destructor on the loop's thread, or once the loop has stopped.
class RetryingCalls {
 public:
  // One attempt of gRPC's callback API: stub.async()->Method(context, request, response, done).
  template <class Request, class Response>
  using Attempt = std::function<void(grpc::ClientContext*, const Request*, Response*,
                                     std::function<void(grpc::Status)>)>;
  template <class Response>
  using Outcome = std::function<void(absl::StatusOr<Response>)>;

  explicit RetryingCalls(EventLoop* loop);
  ~RetryingCalls();
  RetryingCalls(const RetryingCalls&) = delete;
  RetryingCalls& operator=(const RetryingCalls&) = delete;

  //   calls.Start<proto::BindRequest, proto::ControlResponse>(
  //       request, options, [stub](auto*... args, auto done) { stub->async()->Bind(args..., done);
  //       }, [](auto reply) {...});
  template <class Request, class Response>
  void Start(Request request, RetryOptions options, Attempt<Request, Response> attempt,
             Outcome<Response> outcome) {
    struct Messages {
      Request request;
      Response response;
    };
    auto messages = std::make_shared<Messages>();
    messages->request = std::move(request);
    Begin(
        std::move(options),
        [messages, attempt](grpc::ClientContext* context, std::function<void(grpc::Status)> done) {
          messages->response = Response();
          attempt(context, &messages->request, &messages->response, std::move(done));
        },
        [messages, outcome](const absl::Status& status) {
          if (status.ok()) {
            outcome(std::move(messages->response));
          } else {
            outcome(status);
          }
        });
  }

  void Cancel();

 private:
  class Core;
  using AnyAttempt = std::function<void(grpc::ClientContext*, std::function<void(grpc::Status)>)>;
  using AnyOutcome = std::function<void(const absl::Status&)>;

  void Begin(RetryOptions options, AnyAttempt attempt, AnyOutcome outcome);

  const std::shared_ptr<Core> core_;  // shared with tasks that wait on the loop
};

}  // namespace sdp
