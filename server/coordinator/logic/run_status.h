#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/allocated.h"
#include "common/base/ids.h"

namespace sdp {

// A consistent picture of a run, for status.
struct RunStatus {
  struct Member {
    std::string role;  // "shard" or "worker"
    std::string name;
    int64_t number = 0;      // shard number or incarnation
    std::string address;     // shards
    std::string phase;       // what it said it does
    absl::Duration silence;  // since it was last heard
    int64_t peak_memory_bytes = 0;
    Step step = -1;            // the last step it reported
    MemoryLedger ledger = {};  // workers: with that step
    int64_t samples = 0;       // workers: of the next step
  };
  std::string phase;  // "waiting for shards", "waiting for workers", "training", "paused", ...
  std::string waiting_for;  // who or what the run waits for now, and why; empty: nothing
  Generation generation;
  Step step = 0;  // next step to bind
  Step committed = -1;
  int64_t steps = 0;
  std::optional<double> loss, full_loss;  // the last ones known
  uint64_t plan_hash = 0;
  std::optional<Step> checkpoint;  // the newest complete one,
  absl::Duration checkpoint_age;   // and since when
  std::string checkpoint_error;    // of the last one that failed; stays
  int64_t samples_dealt = 0;       // positions of the sample sequence that steps have had
  int64_t samples_returned = 0;    // of these, to be dealt again: their worker was lost
  int64_t train_samples = 0;       // of the data, so in an epoch; 0: not known yet
  std::vector<Member> members;
};

}  // namespace sdp
