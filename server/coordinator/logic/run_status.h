#pragma once

#include <cstdint>
#include <map>
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
    int64_t number = 0;           // shard number or incarnation
    std::string address;          // shards
    std::string phase = {};       // what it said it does
    absl::Duration silence = {};  // since it was last heard
    int64_t peak_memory_bytes = 0;
    Step step = -1;            // the last step it reported
    MemoryLedger ledger = {};  // workers: with that step
    int64_t samples = 0;       // workers: of the next step
    // shards: "registered", "starting", "serving", "leaving", "finished"; workers: "preparing",
    // "waiting to join", "training", "leaving"
    std::string state = {};
    int64_t units = 0;  // workers: of their subnetworks, in the newest view
  };
  // Of all shards or workers, also those that are not in `members`.
  struct Count {
    std::map<std::string, int64_t> states;  // how many are in each
    absl::Duration longest_silence;

    int64_t all() const;
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
  ViewId view;                     // the newest
  std::vector<Member> members;     // all shards, and the first workers by name
  Count shards, workers;
};

// Who holds a unit, in the newest view.
struct UnitStatus {
  int64_t holders = 0;
  std::vector<std::string> names;  // the first ones, in rank order; of a shared unit none
  std::vector<ShardId> shards;     // that own its fragments, ascending
};

}  // namespace sdp
