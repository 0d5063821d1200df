#pragma once

#include "common/protocol/messages.h"

namespace sdp {

// What a shard tells the coordinator: a seam between the shard's service and the coordinator's
// client (tests record). Reports go out in the order of the calls, each repeated until
// acknowledged. Threads: called on the shard's EventLoop only.
class CoordinatorLink {
 public:
  virtual ~CoordinatorLink() = default;
  virtual void ReportReduced(const Reduced& report) = 0;
  virtual void ReportDiagnosed(const Diagnosed& report) = 0;
  virtual void ReportStepDone(const StepDone& report) = 0;
  virtual void ReportStateHashes(const StateHashes& report) = 0;
  virtual void ReportCheckpoint(const CheckpointPart& report) = 0;
  virtual void ReportNotFinite(const NotFiniteReport& report) = 0;
};

}  // namespace sdp
