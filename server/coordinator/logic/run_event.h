#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "common/base/ids.h"

namespace sdp {

// Something that happened to a run, as events.jsonl, the log and status have it. Plain data; when
// it happened says whoever carries the actions out. A field that a kind does not name is not set.
struct RunEvent {
  enum class Kind {
    kStart,  // a generation, with version `step`. reason: of what, and what was set aside for it
    kJoin,   // `worker` has registered, as `incarnation`
    kReady,  // it can train. workers: ready ones
    kLeave,  // it finishes the steps before `step`, and goes. Of a `shard`: with version `step` in
             // a checkpoint, with which the next generation begins
    kLetGo,  // it is out before any step was bound with it. reason
    kExclude,  // it is out. reason
    kReplan,   // from `step` on: view, workers, plan_hash. A rotation, which follows from the step,
              // is no event. reason: a phase's beginning, other portions, what to know of the plan;
              // else it is who is a member
    kNoPlan,             // `workers` of them would not fit: those who want to join wait. reason
    kPause,              // no step is bound. reason
    kResume,             // after a pause
    kCheckpoint,         // checkpoint `step` is complete
    kCheckpointFailed,   // it is given up, and taken away. reason
    kEvaluationGivenUp,  // of version `step`. reason
    kSkip,               // `step` changes nothing. reason: what is not finite
    kGoBack,             // the generation is over. reason
    kTakeUp,             // a coordinator process goes on with the generation. workers
    kStop,               // asked for. reason
    kEnd,                // code, reason
  };
  Kind kind = Kind::kStart;
  Generation generation = {};
  Step step = -1;  // the next to bind, where the kind does not say another one
  std::string worker = "", shard = "";
  Incarnation incarnation = {};
  ViewId view = {};
  int workers = 0;
  uint64_t plan_hash = 0;
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string reason = "";
};

// "exclude", "checkpoint_failed": the kind's name in events.jsonl.
const char* EventName(RunEvent::Kind kind);

// For people: "worker-2 (incarnation 3) is excluded: no heartbeat for 21s, allowed are 20s".
std::string EventText(const RunEvent& event);

}  // namespace sdp
