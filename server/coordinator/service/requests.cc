// CoordinatorService: what members and people ask.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/control/convert.h"
#include "common/rpc/status_code.h"
#include "server/coordinator/service/service.h"

namespace sdp {
namespace {

// A member's peaks only grow; messages may come in another order than they were sent.
template <typename Message, typename Member>
void KeepPeaks(const Message& message, Member* member) {
  member->peak_memory_bytes = std::max(member->peak_memory_bytes, message.peak_memory_bytes());
  member->allocated_peak_bytes =
      std::max(member->allocated_peak_bytes, message.allocated_peak_bytes());
}

}  // namespace

absl::Status CoordinatorService::CheckGeneration(int64_t generation) const {
  if (Generation(generation) == generation_) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("a message of generation ", generation,
                                         "; the run is in generation ", generation_.value(),
                                         ": register again"));
}

absl::Status CoordinatorService::CheckReport(int64_t generation, const MemberKey& member) const {
  if (const absl::Status same = CheckGeneration(generation); !same.ok()) return same;
  if (members_.contains(member)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(member.first == Role::kShard ? "shard number " : "worker of incarnation ",
                   member.second, " is not a member of this run"));
}

void CoordinatorService::OnRegisterShard(const proto::RegisterShardRequest& request,
                                         const Pending<proto::RegisterShardResponse>& pending) {
  const absl::StatusOr<ShardRegistration> registration = FromProto(request);
  if (over_.has_value() || !registration.ok()) {
    return pending.reactor->Finish(ToGrpc(over_.has_value() ? Over() : registration.status()));
  }
  shard_applicants_.Add({registration->name, registration->instance}, pending);
  if (going_back_) return;  // it hears what is waited for, and asks again
  Execute(logic_->RegisterShard(*registration, absl::Now()));
}

void CoordinatorService::OnRegisterWorker(const proto::RegisterWorkerRequest& request,
                                          const Pending<proto::RegisterWorkerResponse>& pending) {
  const absl::StatusOr<WorkerRegistration> registration = FromProto(request);
  if (over_.has_value() || !registration.ok()) {
    return pending.reactor->Finish(ToGrpc(over_.has_value() ? Over() : registration.status()));
  }
  worker_applicants_.Add({registration->name, registration->instance}, pending);
  if (going_back_) return;
  Execute(logic_->RegisterWorker(*registration, absl::Now()));
}

absl::Status CoordinatorService::OnReady(const proto::ReadyRequest& request) {
  if (over_.has_value()) return Over();
  if (const absl::Status valid =
          CheckReport(request.generation(), {Role::kWorker, request.worker()});
      !valid.ok())
    return valid;
  absl::Status error;
  Execute(logic_->Ready(Incarnation(request.worker()), FromProto(request), absl::Now(), &error));
  return error;
}

absl::Status CoordinatorService::OnLeave(const proto::LeaveRequest& request) {
  if (over_.has_value()) return over_->ok() ? absl::OkStatus() : Over();
  const bool shard = request.has_shard();
  const MemberKey key = {shard ? Role::kShard : Role::kWorker,
                         shard ? request.shard() : request.worker()};
  SDP_RETURN_IF_ERROR(CheckReport(request.generation(), key));
  Execute(shard ? logic_->LeaveShard(ShardId(request.shard()), absl::Now())
                : logic_->Leave(Incarnation(request.worker()), absl::Now()));
  return absl::OkStatus();
}

absl::Status CoordinatorService::OnDrain(const proto::DrainRequest& request) {
  if (over_.has_value()) return Over();
  absl::Status error;
  const absl::Time now = absl::Now();
  Execute(request.gone() ? logic_->ProcessEnded(request.name(), now, &error)
                         : logic_->Drain(request.name(), now, &error));
  return error;
}

absl::Status CoordinatorService::OnTakeCheckpoint(proto::TakeCheckpointResponse* response) {
  if (over_.has_value()) return Over();
  if (going_back_) return absl::FailedPreconditionError(WaitingFor());
  Step step = 0;
  absl::Status error;
  Execute(logic_->TakeCheckpoint(&step, &error));
  response->set_step(step);
  return error;
}

void CoordinatorService::OnBeginStep(const proto::BeginStepRequest& request,
                                     const Pending<proto::BeginStepResponse>& pending) {
  absl::Status error = CheckReport(request.generation(), {Role::kWorker, request.worker()});
  if (error.ok() && over_.has_value()) {
    error = Over();
    if (over_->ok()) {  // The answer that said so was lost.
      auto* binding = pending.response->mutable_binding();
      binding->set_generation(generation_.value());
      binding->set_step(request.step());
      binding->set_finished(true);
      members_[{Role::kWorker, request.worker()}].told = true;
      return pending.reactor->Finish(grpc::Status::OK);
    }
  }
  if (!error.ok()) return pending.reactor->Finish(ToGrpc(error));
  const Question question = {Incarnation(request.worker()), request.step()};
  questions_.Add(question, pending);
  CoordinatorActions actions =
      logic_->BeginStep(question.first, question.second, request.known_plan(), absl::Now(), &error);
  if (!error.ok()) {
    for (const auto& refused : questions_.Take(question)) refused.reactor->Finish(ToGrpc(error));
  }
  Execute(std::move(actions));
}

// Reports that come after a good end are copies, and acknowledged; after a bad one the member hears
// of it.
absl::Status CoordinatorService::OnReduced(const proto::ReducedReport& report) {
  if (over_.has_value()) return over_->ok() ? absl::OkStatus() : Over();
  const absl::Status valid = CheckReport(report.generation(), {Role::kShard, report.shard()});
  if (valid.ok()) Execute(logic_->OnReduced(FromProto(report), absl::Now()));
  return valid;
}

absl::Status CoordinatorService::OnDiagnosed(const proto::DiagnosedReport& report) {
  if (over_.has_value()) return over_->ok() ? absl::OkStatus() : Over();
  const absl::Status valid = CheckReport(report.generation(), {Role::kShard, report.shard()});
  if (valid.ok()) Execute(logic_->OnDiagnosed(FromProto(report), absl::Now()));
  return valid;
}

absl::Status CoordinatorService::OnStepDone(const proto::StepDoneReport& report) {
  if (over_.has_value()) return over_->ok() ? absl::OkStatus() : Over();
  const MemberKey key = {Role::kShard, report.shard()};
  SDP_RETURN_IF_ERROR(CheckReport(report.generation(), key));
  KeepPeaks(report, &members_[key]);  // before the step's metrics, which have them
  Execute(logic_->OnStepDone(FromProto(report), absl::Now()));
  return absl::OkStatus();
}

absl::Status CoordinatorService::OnStateHashes(const proto::StateHashesReport& report) {
  if (over_.has_value()) return over_->ok() ? absl::OkStatus() : Over();
  const absl::Status valid = CheckReport(report.generation(), {Role::kShard, report.shard()});
  if (valid.ok()) Execute(logic_->OnStateHashes(FromProto(report), absl::Now()));
  return valid;
}

absl::Status CoordinatorService::OnCheckpoint(const proto::CheckpointReport& report) {
  if (over_.has_value()) return over_->ok() ? absl::OkStatus() : Over();
  const absl::Status valid = CheckReport(report.generation(), {Role::kShard, report.shard()});
  if (valid.ok()) Execute(logic_->OnCheckpointPart(FromProto(report), absl::Now()));
  return valid;
}

absl::Status CoordinatorService::OnStep(const proto::WorkerStepReport& report) {
  if (over_.has_value()) return over_->ok() ? absl::OkStatus() : Over();
  const MemberKey key = {Role::kWorker, report.worker()};
  SDP_RETURN_IF_ERROR(CheckReport(report.generation(), key));
  KeepPeaks(report, &members_[key]);
  const StepReport step = FromProto(report);
  members_[key].at_peak = step.ledger.peak;
  members_[key].report = step;
  Execute(logic_->OnStepReport(step, absl::Now()));
  return absl::OkStatus();
}

absl::Status CoordinatorService::OnEvaluation(const proto::WorkerEvaluationReport& report) {
  if (over_.has_value()) return over_->ok() ? absl::OkStatus() : Over();
  const absl::Status valid = CheckReport(report.generation(), {Role::kWorker, report.worker()});
  if (valid.ok()) Execute(logic_->OnEvaluation(FromProto(report), absl::Now()));
  return valid;
}

absl::Status CoordinatorService::OnNotFinite(const proto::NotFinite& report) {
  if (over_.has_value()) return absl::OkStatus();  // The first report is enough.
  // Of a member's numbers, whoever reports it: a stranger must not end the run.
  const absl::Status valid = CheckReport(report.generation(), {Role::kWorker, report.worker()});
  if (valid.ok()) Execute(logic_->OnNotFinite(FromProto(report), absl::Now()));
  return valid;
}

absl::Status CoordinatorService::OnHeartbeat(const proto::HeartbeatRequest& request,
                                             proto::HeartbeatResponse* response) {
  const bool worker = request.has_worker();
  const MemberKey key = {worker ? Role::kWorker : Role::kShard,
                         worker ? request.worker() : request.shard()};
  SDP_RETURN_IF_ERROR(CheckReport(request.generation(), key));
  const absl::Time now = absl::Now();
  response->set_coordinator(options_.instance);
  Member& member = members_[key];
  member.heard = now;
  if (member.phase != request.phase() || member.phase_since > now) member.phase_since = now;
  member.phase = request.phase();
  member.waits = request.waits();
  member.memory_bytes = request.memory_bytes();
  member.allocated_bytes = request.allocated_bytes();
  member.address = request.address();
  member.metrics_address = request.metrics_address();
  KeepPeaks(request, &member);
  if (over_.has_value()) {
    response->set_over(true);
    response->set_code(static_cast<int>(over_->code()));
    response->set_reason(std::string(over_->message()));
    member.told = true;
    // Posted, so that this answer is on its way before the last one told lets the process leave.
    loop_->Post([this] { TryLeave(); });
  } else if (worker) {
    absl::Status error;
    Execute(logic_->WorkerHeartbeat(Incarnation(request.worker()), request.phase(), request.waits(),
                                    now, &error));
    if (!error.ok()) member.told = true;  // It leaves, or comes back as another incarnation.
    return error;
  } else {
    Execute(logic_->ShardHeartbeat(ShardId(request.shard()), request.phase(),
                                   request.peak_memory_bytes(), now));
  }
  return absl::OkStatus();
}

void CoordinatorService::AnswerDue() {
  const absl::Time now = absl::Now();
  const auto shards = shard_applicants_.TakeDue(now);
  const auto workers = worker_applicants_.TakeDue(now);
  const auto questions = questions_.TakeDue(now);
  if (shards.empty() && workers.empty() && questions.empty()) return;
  const std::string waiting_for = WaitingFor();
  const auto answer = [&waiting_for](const auto& pending) {
    pending.response->set_waiting_for(waiting_for);
    pending.reactor->Finish(grpc::Status::OK);
  };
  for (const auto& pending : shards) answer(pending);
  for (const auto& pending : workers) answer(pending);
  for (const auto& pending : questions) answer(pending);
}

std::string CoordinatorService::WaitingFor() const {
  return going_back_ ? "a checkpoint is chosen and checked, to go back to" : logic_->WaitingFor();
}

}  // namespace sdp
