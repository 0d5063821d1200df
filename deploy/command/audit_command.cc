#include "deploy/command/audit_command.h"

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/export/run_model.h"
#include "deploy/audit/logic/audit.h"
#include "deploy/audit/logic/sample_audit.h"
#include "deploy/audit/run_records.h"
#include "deploy/command/audit_text.h"

namespace sdp {

absl::Status RunAuditCommand(const AuditCommand& command, std::ostream& out) {
  const std::string& run_dir = command.run_dir;
  SDP_ASSIGN_OR_RETURN(const std::string folder, CheckpointFolder(run_dir));
  // Before the records: what a checkpoint follows from was stored before it.
  SDP_ASSIGN_OR_RETURN(const audit::Checkpoints checkpoints, audit::ReadCheckpoints(folder));
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<audit::RunRecords> records,
                       audit::RunRecords::Open(run_dir));
  audit::SampleAudit samples(records->starts(), checkpoints.records);
  SDP_RETURN_IF_ERROR(audit::Audit([&] { return records->NextRecord(); },
                                   [&] { return records->NextLine(); }, &samples));
  const audit::Report report = samples.Finish();
  const WorkerNames names = [&](Incarnation worker) { return records->NameOf(worker); };
  out << (command.format == AuditCommand::Format::kJson
              ? AuditJson(run_dir, report, checkpoints, names)
              : AuditText(run_dir, report, checkpoints, names));
  if (report.violations == 0) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      "the samples of ", run_dir,
      " were not used as promised: ", FindingText(report.first_findings.front(), names)));
}

}  // namespace sdp
