#pragma once

#include <ostream>
#include <string>

#include "absl/status/status.h"

namespace sdp {

// `sdp audit RUN [--json]`: whether the run's own records agree that its samples were used as
// promised (deploy/audit/logic/sample_audit.h). While the run goes on: up to now.
struct AuditCommand {
  std::string run_dir;
  enum class Format { kTable, kJson };
  Format format = Format::kTable;
};

// Writes the report to `out`. DataLoss - a promise is broken; the message has the first finding,
// and the report is written all the same. Nothing is written with other errors: NotFound - no run
// folder, or a file of it is missing; DataLoss - a damaged file, named; FailedPrecondition -
// records of another format.
absl::Status RunAuditCommand(const AuditCommand& command, std::ostream& out);

}  // namespace sdp
