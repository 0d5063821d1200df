#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "common/base/ids.h"
#include "deploy/audit/logic/positions.h"

// What a run has written about its samples, as plain data: the coordinator's store, metrics.jsonl
// and the checkpoints' manifests, without what the audit has no use for.
namespace sdp::audit {

struct StartRecord {  // a generation
  Generation generation;
  Step step = 0;  // the version that it begins with, and its first step
};

struct ViewRecord {
  ViewId view;
  std::vector<Incarnation> members;  // by rank
  std::vector<int64_t> portions;     // of each, samples of a step
};

struct BindingRecord {
  Generation generation;
  Step step = 0;
  ViewId view;
  FreePositions free;   // before the step takes its own
  int64_t samples = 0;  // that it takes
  bool closing = false;
};

struct ExclusionRecord {
  Generation generation;
  int64_t number = 0;  // from 1 in each generation
  Incarnation worker;
  std::string reason;
  Step committed = -1;         // the newest committed step at that time
  std::vector<Step> returned;  // steps of which its portion came back
};

struct StepRecord {  // a line of metrics.jsonl: the step is committed, and all of it is reported
  Generation generation;
  Step step = 0;
  std::vector<Incarnation> lost;  // members without a report; all others have reported
};

using Record = std::variant<StartRecord, ViewRecord, BindingRecord, ExclusionRecord, StepRecord>;

struct CheckpointRecord {
  std::string name;       // of its folder
  Generation generation;  // that wrote it
  Step step = 0;
  FreePositions free;
};

}  // namespace sdp::audit
