#pragma once

#include "deploy/audit/logic/sample_audit.h"
#include "tests/cluster/sim_cluster.h"

namespace sdp {

// The audit of what simulated runs have left on their disk, of all generations.
audit::Report AuditOf(const SimDisk& disk);

}  // namespace sdp
