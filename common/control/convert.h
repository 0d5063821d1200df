#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/protocol/messages.h"
#include "proto/coordinator.pb.h"

// The structs of common/protocol/messages.h <-> the messages of proto/coordinator.proto. Pure and
// total but for registrations; what a peer's numbers mean is checked by the logic that gets them. A
// message's `generation`, where the struct has none, belongs to the sender and is set and checked
// by the caller.
namespace sdp {

proto::RegisterShardRequest ToProto(const ShardRegistration& registration);
proto::RegisterShardResponse::Admission ToProto(const ShardAdmission& admission);
proto::RegisterWorkerRequest ToProto(const WorkerRegistration& registration);
proto::RegisterWorkerResponse::Admission ToProto(const WorkerAdmission& admission);
proto::ReadyRequest ToProto(Incarnation worker, const DataSummary& data);
proto::BeginStepResponse::Binding ToProto(const WorkerBinding& binding);
proto::ReducedReport ToProto(const Reduced& report);
proto::DiagnosedReport ToProto(const Diagnosed& report);
proto::StepDoneReport ToProto(const StepDone& report);
proto::StateHashesReport ToProto(const StateHashes& report);
proto::CheckpointReport ToProto(const CheckpointPart& report);
proto::MemoryLedger ToProto(const MemoryLedger& ledger);
proto::WorkerStepReport ToProto(const StepReport& report);
proto::WorkerEvaluationReport ToProto(const EvaluationReport& report);
proto::NotFinite ToProto(const NotFiniteReport& report);

// InvalidArgument: a name that is empty, longer than 100 bytes, or has other characters than
// letters, digits and "-_."; they become file names and parts of log lines. Or an address that is
// empty or has white space.
absl::StatusOr<ShardRegistration> FromProto(const proto::RegisterShardRequest& message);
absl::StatusOr<WorkerRegistration> FromProto(const proto::RegisterWorkerRequest& message);

ShardAdmission FromProto(const proto::RegisterShardResponse::Admission& message);
WorkerAdmission FromProto(const proto::RegisterWorkerResponse::Admission& message);
DataSummary FromProto(const proto::ReadyRequest& message);  // the worker: message.worker()
WorkerBinding FromProto(const proto::BeginStepResponse::Binding& message);
Reduced FromProto(const proto::ReducedReport& message);
Diagnosed FromProto(const proto::DiagnosedReport& message);
StepDone FromProto(const proto::StepDoneReport& message);
StateHashes FromProto(const proto::StateHashesReport& message);
CheckpointPart FromProto(const proto::CheckpointReport& message);
MemoryLedger FromProto(const proto::MemoryLedger& message);
StepReport FromProto(const proto::WorkerStepReport& message);
EvaluationReport FromProto(const proto::WorkerEvaluationReport& message);
NotFiniteReport FromProto(const proto::NotFinite& message);

}  // namespace sdp
