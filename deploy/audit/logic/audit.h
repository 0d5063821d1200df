#pragma once

#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "deploy/audit/logic/records.h"
#include "deploy/audit/logic/sample_audit.h"

namespace sdp::audit {

// Gives the audit all records and lines, each line as soon as its step is bound; each source ends
// with nullopt. The sources' errors.
absl::Status Audit(const std::function<absl::StatusOr<std::optional<Record>>()>& next_record,
                   const std::function<absl::StatusOr<std::optional<StepRecord>>()>& next_line,
                   SampleAudit* audit);

}  // namespace sdp::audit
