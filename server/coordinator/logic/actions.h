#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/checkpoint/manifest.h"
#include "common/protocol/messages.h"
#include "server/coordinator/logic/records.h"
#include "server/coordinator/logic/run_event.h"
#include "server/coordinator/logic/step_metrics.h"

namespace sdp {

// What the coordinator wants done after an event, in this order of fields. Nothing in one
// CoordinatorActions depends on a record that is still being stored: what does is kept back until
// Stored().
struct CoordinatorActions {
  struct Store {
    int64_t id;
    Record record;
  };
  struct ToWorker {
    Incarnation worker;
    WorkerBinding binding;
  };
  struct ToShard {
    ShardId shard;
    ShardBinding binding;
  };
  struct Release {
    ShardId shard;
    Step step;
  };  // the evaluation of version `step` is complete
  struct Scale {
    ShardId shard;
    ClipScale scale;
  };
  struct Exclude {
    ShardId shard;
    Exclusion exclusion;
  };
  struct AdmitShard {
    std::string name;
    uint64_t instance;
    std::string address;  // that it registered with
    absl::StatusOr<ShardAdmission> admission;
  };
  struct AdmitWorker {
    std::string name;
    uint64_t instance;
    absl::StatusOr<WorkerAdmission> admission;
  };

  std::vector<Store> store;
  std::vector<AdmitShard> admit_shards;
  std::vector<AdmitWorker> admit_workers;
  std::vector<ToShard> bind_shards;
  std::vector<Exclude> exclude;
  std::vector<ToWorker> bind_workers;
  std::vector<Scale> scales;
  std::vector<CheckpointManifest>
      manifests;                       // all files are written: make it complete, then say so
  std::vector<Step> abandoned;         // checkpoints that will never be complete: take them away
  std::vector<StepMetrics> metrics;    // finished steps, in order
  std::vector<Release> releases;       // of what these tell
  std::vector<RunEvent> events;        // what happened, in order
  std::vector<std::string> log;        // for people: the events' texts, and lesser things
  std::vector<ShardId> finish_shards;  // the run is complete, or they may leave it
  // This generation is over, and why, which is stored: the next one begins with the newest complete
  // checkpoint.
  // Nothing comes from this coordinator any more.
  std::optional<std::string> go_back;
  std::optional<absl::Status> stop;  // the run is over (OK: finished); tell everyone and exit

  void Append(CoordinatorActions&& more);
};

}  // namespace sdp
