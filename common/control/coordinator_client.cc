#include "common/control/coordinator_client.h"

#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/control/convert.h"

namespace sdp {

CoordinatorClient::CoordinatorClient(const std::shared_ptr<grpc::Channel>& channel, EventLoop* loop,
                                     Options options)
    : options_(std::move(options)), stub_(proto::Coordinator::NewStub(channel)), calls_(loop) {}

template <typename Request, typename Response>
void CoordinatorClient::Call(std::string what, Method<Request, Response> method,
                             absl::Duration timeout, absl::Duration give_up_after,
                             const Request& request, Done<Response> done) {
  RetryOptions retry;
  retry.what = absl::StrCat(what, " at the coordinator ", options_.address);
  retry.attempt_timeout = timeout;
  retry.give_up_after = give_up_after;
  calls_.Start<Request, Response>(
      request, std::move(retry),
      [stub = stub_.get(), method](grpc::ClientContext* context, const Request* asked,
                                   Response* response, std::function<void(grpc::Status)> answered) {
        auto* async = stub->async();
        (async->*method)(context, asked, response, std::move(answered));
      },
      std::move(done));
}

template <typename Request, typename Response>
void CoordinatorClient::Poll(const std::string& what, Method<Request, Response> method,
                             absl::Duration give_up_after, const Request& request,
                             std::function<bool(const Response&)> take,
                             std::function<void(absl::Status)> fail) {
  Call<Request, Response>(
      what, method, options_.poll_timeout, give_up_after, request,
      [this, what, method, give_up_after = std::min(give_up_after, options_.gone_after), request,
       take, fail](absl::StatusOr<Response> response) {
        if (!response.ok()) return fail(response.status());
        if (take(*response)) return;
        if (options_.on_waiting) options_.on_waiting(response->waiting_for());
        // It was there just now; should it go away in the middle of a poll, that time does not
        // count.
        Poll<Request, Response>(what, method, options_.poll_timeout + give_up_after, request, take,
                                fail);
      });
}

void CoordinatorClient::RegisterShard(const ShardRegistration& registration,
                                      Done<ShardAdmission> done) {
  Poll<proto::RegisterShardRequest, proto::RegisterShardResponse>(
      absl::StrCat("register ", registration.name), &Async::RegisterShard,
      options_.unreachable_after, ToProto(registration),
      [this, done](const proto::RegisterShardResponse& response) {
        if (!response.has_admission()) return false;
        const ShardAdmission admission = FromProto(response.admission());
        generation_ = admission.generation;
        done(admission);
        return true;
      },
      done);
}

void CoordinatorClient::RegisterWorker(const WorkerRegistration& registration,
                                       Done<WorkerAdmission> done) {
  Poll<proto::RegisterWorkerRequest, proto::RegisterWorkerResponse>(
      absl::StrCat("register ", registration.name), &Async::RegisterWorker,
      options_.unreachable_after, ToProto(registration),
      [this, done](const proto::RegisterWorkerResponse& response) {
        if (!response.has_admission()) return false;
        WorkerAdmission admission = FromProto(response.admission());
        generation_ = admission.generation;
        done(std::move(admission));
        return true;
      },
      done);
}

void CoordinatorClient::Ready(Incarnation worker, const DataSummary& data,
                              std::function<void(absl::Status)> done) {
  proto::ReadyRequest request = ToProto(worker, data);
  request.set_generation(generation_.value());
  Call<proto::ReadyRequest, proto::Ack>(
      "get ready", &Async::Ready, options_.call_timeout, options_.gone_after, request,
      [done](const absl::StatusOr<proto::Ack>& ack) { done(ack.status()); });
}

void CoordinatorClient::Leave(const Heartbeats::Member& member,
                              std::function<void(absl::Status)> done) {
  proto::LeaveRequest request;
  request.set_generation(generation_.value());
  if (const auto* worker = std::get_if<Incarnation>(&member)) {
    request.set_worker(worker->value());
  } else {
    request.set_shard(std::get<ShardId>(member).value());
  }
  Call<proto::LeaveRequest, proto::Ack>(
      "leave", &Async::Leave, options_.call_timeout, options_.gone_after, request,
      [done](const absl::StatusOr<proto::Ack>& ack) { done(ack.status()); });
}

void CoordinatorClient::BeginStep(Incarnation worker, Step step, int64_t known_plan,
                                  Done<WorkerBinding> done) {
  proto::BeginStepRequest request;
  request.set_generation(generation_.value());
  request.set_worker(worker.value());
  request.set_step(step);
  request.set_known_plan(known_plan);
  Poll<proto::BeginStepRequest, proto::BeginStepResponse>(
      absl::StrCat("begin step ", step), &Async::BeginStep,
      options_.poll_timeout + options_.gone_after, request,
      [this, done](const proto::BeginStepResponse& response) {
        if (!response.has_binding()) return false;
        const uint64_t before = std::exchange(coordinator_, response.coordinator());
        if (before != 0 && before != coordinator_ && options_.on_restarted) options_.on_restarted();
        done(FromProto(response.binding()));
        return true;
      },
      done);
}

template <typename Request>
void CoordinatorClient::Report(std::string what, Method<Request, proto::Ack> method,
                               Request request) {
  if (!report_error_.ok()) return;
  request.set_generation(generation_.value());
  reports_.push_back([this, what = std::move(what), method, request = std::move(request)] {
    Call<Request, proto::Ack>(
        what, method, options_.call_timeout, options_.gone_after, request,
        [this](const absl::StatusOr<proto::Ack>& ack) { Reported(ack.status()); });
  });
  if (reports_.size() == 1) reports_.front()();
}

void CoordinatorClient::Reported(const absl::Status& status) {
  if (status.ok()) {
    ++reported_;
    reports_.pop_front();
    if (!reports_.empty()) reports_.front()();
  } else {
    report_error_ = status;
    reports_.clear();
    if (options_.on_report_error) options_.on_report_error(status);
  }
  std::vector<Waiter> due;
  while (!waiters_.empty() && (!status.ok() || waiters_.front().count <= reported_)) {
    due.push_back(std::move(waiters_.front()));
    waiters_.pop_front();
  }
  for (const Waiter& waiter : due) waiter.done(status);
}

void CoordinatorClient::WhenReported(std::function<void(absl::Status)> done) {
  if (reports_.empty()) {
    done(report_error_);
  } else {
    waiters_.push_back({reported_ + static_cast<int64_t>(reports_.size()), std::move(done)});
  }
}

void CoordinatorClient::ReportReduced(const Reduced& report) {
  Report(absl::StrCat("report the sums of step ", report.step), &Async::ReportReduced,
         ToProto(report));
}

void CoordinatorClient::ReportDiagnosed(const Diagnosed& report) {
  Report(absl::StrCat("report the dense gradient of step ", report.step), &Async::ReportDiagnosed,
         ToProto(report));
}

void CoordinatorClient::ReportStepDone(const StepDone& report) {
  Report(absl::StrCat("report version ", report.step + 1), &Async::ReportStepDone, ToProto(report));
}

void CoordinatorClient::ReportStateHashes(const StateHashes& report) {
  Report(absl::StrCat("report the hashes of version ", report.step), &Async::ReportStateHashes,
         ToProto(report));
}

void CoordinatorClient::ReportCheckpoint(const CheckpointPart& report) {
  Report(absl::StrCat("report checkpoint ", report.step), &Async::ReportCheckpoint,
         ToProto(report));
}

void CoordinatorClient::ReportStep(const StepReport& report) {
  Report(absl::StrCat("report the loss of step ", report.step), &Async::ReportStep,
         ToProto(report));
}

void CoordinatorClient::ReportEvaluation(const EvaluationReport& report) {
  Report(absl::StrCat("report the evaluation of version ", report.step), &Async::ReportEvaluation,
         ToProto(report));
}

void CoordinatorClient::ReportNotFinite(const NotFiniteReport& report) {
  Report(absl::StrCat("report a number that is not finite in step ", report.step),
         &Async::ReportNotFinite, ToProto(report));
}

}  // namespace sdp
