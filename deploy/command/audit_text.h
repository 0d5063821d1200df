#pragma once

#include <functional>
#include <string>

#include "common/base/ids.h"
#include "deploy/audit/logic/sample_audit.h"
#include "deploy/audit/run_records.h"

// An audit's report as a table for people, and as JSON for programs. Pure functions. JSON keys are
// the fields of audit::Report; positions are pairs of the first one and how many there are; what is
// not known is absent.
namespace sdp {

using WorkerNames = std::function<std::string(Incarnation)>;

std::string AuditText(const std::string& run_dir, const audit::Report& report,
                      const audit::Checkpoints& checkpoints, const WorkerNames& names);
std::string AuditJson(const std::string& run_dir, const audit::Report& report,
                      const audit::Checkpoints& checkpoints, const WorkerNames& names);

// "step 12 of generation 1, worker-2 (incarnation 3), positions 96-98: its portion ..."
std::string FindingText(const audit::Finding& finding, const WorkerNames& names);

}  // namespace sdp
