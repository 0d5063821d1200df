#pragma once

#include <prometheus/metric_family.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/control/coordinator_client.h"
#include "common/control/heartbeats.h"
#include "common/protocol/messages.h"
#include "common/rpc/address.h"
#include "common/rpc/event_loop.h"
#include "common/rpc/health_service.h"
#include "common/run/run_setup.h"
#include "server/shard/service/coordinator_link.h"
#include "server/shard/service/shard_service.h"
#include "server/shard/service/start_values.h"

namespace sdp {

// ShardMember is a shard's life in a generation of a run: listen, register, load the start state,
// serve, end. Run does it all. Threads: Run on one, which starts all others, so that signals can be
// taken care of before; End from any, at any time.
class ShardMember final : private CoordinatorLink {
 public:
  struct Options {
    std::string name;
    std::string listen;
    std::string advertise;    // "": where it listens
    std::string metrics;      // address of /metrics; "": none
    std::string coordinator;  // address
    SecurityOptions security;
    uint64_t instance = 0;  // random per life
    uint64_t before = 0;    // of the life that this process had before; 0: none
    // It comes to a run that is finished: waits for End, alive, instead of ending with that error.
    bool outlives_run = false;
  };

  // `setup` outlives this object.
  ShardMember(Options options, const RunSetup* setup);
  ~ShardMember();

  // Returns when the run is over for this shard: OK - finished, or it has left, or was about
  // to when the run went back to a checkpoint. Cancelled - stopped on request.
  // Aborted - the run has gone back to a checkpoint: another life may register again.
  // Otherwise why it cannot go on: it cannot listen, the coordinator refuses it, has been out of
  // reach for 30 s (later 5 minutes), or ended the run with an error.
  absl::Status Run();

  // Makes Run return `why`, unless it has a reason already.
  void End(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mutex_);
  // Leaves the run: once its parameters are in a checkpoint Run returns OK; after `grace` it gives
  // up, and Run returns Cancelled. From any thread.
  void Leave(absl::Duration grace, const std::string& why);

 private:
  // On the loop.
  void Register(const std::string& address);
  void Admitted(const ShardAdmission& admission);
  void SayLeave();
  void CoordinatorRestarted();
  void ReportReduced(const Reduced& report) override { coordinator_->ReportReduced(report); }
  void ReportDiagnosed(const Diagnosed& report) override { coordinator_->ReportDiagnosed(report); }
  void ReportStepDone(const StepDone& report) override;
  void ReportStateHashes(const StateHashes& report) override {
    coordinator_->ReportStateHashes(report);
  }
  void ReportCheckpoint(const CheckpointPart& report) override {
    coordinator_->ReportCheckpoint(report);
  }
  void ReportNotFinite(const NotFiniteReport& report) override {
    coordinator_->ReportNotFinite(report);
  }

  // For the server's threads.
  HealthService::Checks Checks();
  std::vector<prometheus::MetricFamily> Collect();
  absl::Status AwaitEnd() ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  std::string metrics_address_;  // set before the loop has anything to do
  const RunSetup* const setup_;
  StartValues start_values_;
  std::atomic<Step> step_ = -1;  // -1: the start state is not loaded
  std::atomic<bool> leaving_ = false;
  std::atomic<bool> too_late_ = false;  // the run is finished, and this member outlives it
  Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status why_ ABSL_GUARDED_BY(mutex_);

  EventLoop loop_{"shard"};       // what follows is used on it; it stops first
  std::optional<ShardId> shard_;  // none: not admitted
  std::unique_ptr<CoordinatorClient> coordinator_;
  std::unique_ptr<ShardService> service_;
  std::unique_ptr<Heartbeats> heartbeats_;
};

}  // namespace sdp
