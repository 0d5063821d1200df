#pragma once

#include <grpcpp/channel.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/control/heartbeats.h"
#include "common/protocol/messages.h"
#include "common/rpc/event_loop.h"
#include "common/rpc/retrying_calls.h"
#include "proto/coordinator.grpc.pb.h"

namespace sdp {

// What a shard or a worker asks of the coordinator. Calls return at once; their results come on the
// owner's EventLoop, in any order. The requests carry the generation that came with the admission.
// Retries: a call is repeated with backoff while the coordinator cannot be reached; long polls are
// asked again as often as it takes. Errors: Unavailable - the coordinator was out of reach for too
// long: which address was tried, how often, how long. Cancelled - the run was stopped. Others:
// proto/coordinator.proto. Threads: all methods on the EventLoop, which outlives the client.
// Destroy it there (not from inside one of its callbacks), or when the EventLoop has stopped; it
// cancels what is under way, and no callback runs after that.
class CoordinatorClient {
 public:
  template <typename T>
  using Done = std::function<void(absl::StatusOr<T>)>;

  struct Options {
    std::string address;                                   // of the coordinator, for messages
    absl::Duration unreachable_after = absl::Seconds(30);  // before this member is admitted
    absl::Duration gone_after = kCoordinatorGoneAfter;     // and then
    absl::Duration call_timeout =
        absl::Seconds(10);  // of one try of a call that is answered at once
    absl::Duration poll_timeout =
        absl::Seconds(10);  // of one try of a long poll; less than a lease
    // A report was refused, or could not be delivered for `gone_after`: reporting has ended.
    // Called once.
    std::function<void(absl::Status)> on_report_error;
    // A binding comes from another process than the one before: called before it is handed over.
    // May be null.
    std::function<void()> on_restarted;
    // What the coordinator waits for before it admits this member; called each time that this is
    // asked. May be null.
    std::function<void(const std::string&)> on_waiting;
  };

  CoordinatorClient(const std::shared_ptr<grpc::Channel>& channel, EventLoop* loop,
                    Options options);
  CoordinatorClient(const CoordinatorClient&) = delete;
  CoordinatorClient& operator=(const CoordinatorClient&) = delete;

  // Answered when the coordinator knows all it needs. FailedPrecondition - another config, too many
  // members, name taken.
  void RegisterShard(const ShardRegistration& registration, Done<ShardAdmission> done);
  void RegisterWorker(const WorkerRegistration& registration, Done<WorkerAdmission> done);

  // FailedPrecondition - this worker's data differs from that of the others.
  void Ready(Incarnation worker, const DataSummary& data, std::function<void(absl::Status)> done);
  // Asks to leave; the answer to BeginStep, or to a shard Finish, says when. Repeated until it is
  // acknowledged.
  void Leave(const Heartbeats::Member& member, std::function<void(absl::Status)> done);
  // Answered when `step` - 2 is committed, however long that takes. `known_plan`: the plan whose
  // units the worker has, or -1.
  void BeginStep(Incarnation worker, Step step, int64_t known_plan, Done<WorkerBinding> done);

  // Reports go out in the order of these calls, one at a time, each repeated until acknowledged.
  void ReportReduced(const Reduced& report);
  void ReportDiagnosed(const Diagnosed& report);
  void ReportStepDone(const StepDone& report);
  void ReportStateHashes(const StateHashes& report);
  void ReportCheckpoint(const CheckpointPart& report);
  void ReportStep(const StepReport& report);
  void ReportEvaluation(const EvaluationReport& report);
  void ReportNotFinite(const NotFiniteReport& report);
  // Calls `done` when every report made so far is acknowledged, or with the error that ended
  // reporting; perhaps at once.
  void WhenReported(std::function<void(absl::Status)> done);

 private:
  struct Waiter {
    int64_t count;  // reports that must be acknowledged
    std::function<void(absl::Status)> done;
  };
  using Async = std::remove_pointer_t<decltype(std::declval<proto::Coordinator::Stub&>().async())>;
  template <typename Request, typename Response>
  using Method = void (Async::*)(grpc::ClientContext*, const Request*, Response*,
                                 std::function<void(grpc::Status)>);

  template <typename Request, typename Response>
  void Call(std::string what, Method<Request, Response> method, absl::Duration timeout,
            absl::Duration give_up_after, const Request& request, Done<Response> done);
  // `take` gives an answer to its owner; false: it was none, ask again.
  template <typename Request, typename Response>
  void Poll(const std::string& what, Method<Request, Response> method, absl::Duration give_up_after,
            const Request& request, std::function<bool(const Response&)> take,
            std::function<void(absl::Status)> fail);
  template <typename Request>
  void Report(std::string what, Method<Request, proto::Ack> method, Request request);
  void Reported(const absl::Status& status);

  const Options options_;
  const std::unique_ptr<proto::Coordinator::Stub> stub_;
  Generation generation_;
  uint64_t coordinator_ = 0;                   // the process of the last binding
  std::deque<std::function<void()>> reports_;  // not acknowledged; the first one is under way
  int64_t reported_ = 0;                       // acknowledged
  std::deque<Waiter> waiters_;
  absl::Status report_error_;
  RetryingCalls calls_;  // Last: it is cancelled before what its outcomes use is gone.
};

}  // namespace sdp
