#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "common/base/ids.h"
#include "common/protocol/messages.h"
#include "common/protocol/sample_cursor.h"

// What the coordinator makes durable before the first message that depends on it. Stored is what
// derives a decision, not the decision's whole extent: a plan follows from the view, the seed and
// the step.
namespace sdp {

struct GenerationRecord {
  Generation generation;
  Term term;
  std::string config_hash;
  Step step = 0;          // its first one
  std::string init_path;  // file or folder that step 0 starts from; empty: values are drawn
  uint64_t init_checksum = 0;
  std::vector<double> coverage;          // [units] c_j, resolved at the run's first start
  std::vector<int64_t> reshuffles = {};  // of the sample order, as it is in this generation
};
struct MemberRecord {
  Incarnation incarnation;
  std::string name;
  uint64_t instance = 0;     // of its process
  int64_t memory_bytes = 0;  // that it may use; 0: not limited
};                           // a worker's life
struct ShardRecord {
  ShardId shard;
  std::string name;
  std::string address;
  uint64_t instance = 0;
};
// What the first worker found in its data, and all others must.
struct DataRecord {
  DataSummary data;
};
struct ViewRecord {
  ViewId view;
  std::vector<Incarnation> members;  // by rank
  std::vector<int64_t> portions;     // [members] samples of a step
};
struct BindingRecord {
  Generation generation;
  Step step = 0;
  ViewId view;
  SampleCursor cursor;  // before its samples,
  int64_t samples = 0;  // which are the next of it
  bool evaluate = false;
  bool closing = false;
  bool checkpoint = false;
};
struct ExclusionRecord {
  Generation generation;
  int64_t number = 0;
  Incarnation worker;
  std::string reason;
  Step committed = -1;              // the newest committed step at that time
  std::vector<Step> returned = {};  // of which its portion came back to the cursor
};
struct ScaleRecord {
  Generation generation;
  Step step = 0;
  double scale = 1;
};

// The shard wants to go, and is let go once its parameters are in a checkpoint.
struct ShardLeaveRecord {
  Generation generation;
  ShardId shard;
};
// The generation is over: whoever finds this last goes back to a checkpoint.
struct GenerationEndRecord {
  Generation generation;
  std::string reason;
  bool reshuffle = false;  // the next one begins with a reshuffle of the sample order
};

using Record =
    std::variant<GenerationRecord, MemberRecord, ShardRecord, ViewRecord, BindingRecord,
                 ScaleRecord, ExclusionRecord, DataRecord, ShardLeaveRecord, GenerationEndRecord>;

}  // namespace sdp
