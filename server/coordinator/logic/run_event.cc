#include "server/coordinator/logic/run_event.h"

#include "absl/strings/str_cat.h"

namespace sdp {

const char* EventName(RunEvent::Kind kind) {
  switch (kind) {
    case RunEvent::Kind::kStart:
      return "start";
    case RunEvent::Kind::kJoin:
      return "join";
    case RunEvent::Kind::kReady:
      return "ready";
    case RunEvent::Kind::kLeave:
      return "leave";
    case RunEvent::Kind::kLetGo:
      return "let_go";
    case RunEvent::Kind::kExclude:
      return "exclude";
    case RunEvent::Kind::kReplan:
      return "replan";
    case RunEvent::Kind::kNoPlan:
      return "no_plan";
    case RunEvent::Kind::kPause:
      return "pause";
    case RunEvent::Kind::kResume:
      return "resume";
    case RunEvent::Kind::kCheckpoint:
      return "checkpoint";
    case RunEvent::Kind::kCheckpointFailed:
      return "checkpoint_failed";
    case RunEvent::Kind::kEvaluationGivenUp:
      return "evaluation_given_up";
    case RunEvent::Kind::kSkip:
      return "skip";
    case RunEvent::Kind::kGoBack:
      return "go_back";
    case RunEvent::Kind::kTakeUp:
      return "take_up";
    case RunEvent::Kind::kStop:
      return "stop";
    case RunEvent::Kind::kEnd:
      return "end";
  }
  return "";
}

std::string EventText(const RunEvent& event) {
  const auto because = [&event](const auto&... what) {
    return absl::StrCat(what..., event.reason.empty() ? "" : ": ", event.reason);
  };
  switch (event.kind) {
    case RunEvent::Kind::kStart:
      return because("generation ", event.generation.value(), " begins with version ", event.step);
    case RunEvent::Kind::kJoin:
      return absl::StrCat(event.worker, " registered, incarnation ", event.incarnation.value());
    case RunEvent::Kind::kReady:
      return absl::StrCat(event.worker, " is ready (workers: ", event.workers, ")");
    case RunEvent::Kind::kLeave:
      if (!event.shard.empty()) {
        return absl::StrCat(event.shard, " leaves; the next generation begins with version ",
                            event.step);
      }
      return absl::StrCat(event.worker, " leaves; the steps before ", event.step, " it finishes");
    case RunEvent::Kind::kLetGo:
      return because(event.worker, " is let go");
    case RunEvent::Kind::kExclude:
      return because(event.worker, " (incarnation ", event.incarnation.value(), ") is excluded");
    case RunEvent::Kind::kReplan:
      return absl::StrCat("view ", event.view.value(), " from step ", event.step,
                          " on: ", event.workers, " workers",
                          event.reason.empty() ? "" : absl::StrCat(" (", event.reason, ")"));
    case RunEvent::Kind::kNoPlan:
      return absl::StrCat(because("no plan for ", event.workers, " workers"),
                          "; those who want to join wait");
    case RunEvent::Kind::kPause:
      return event.reason;
    case RunEvent::Kind::kResume:
      return "enough workers: training goes on";
    case RunEvent::Kind::kCheckpoint:
      return absl::StrCat("checkpoint ", event.step, " is complete");
    case RunEvent::Kind::kCheckpointFailed:
      return absl::StrCat(because("checkpoint ", event.step), "; training goes on without it");
    case RunEvent::Kind::kEvaluationGivenUp:
      return because("the evaluation of version ", event.step, " is given up");
    case RunEvent::Kind::kSkip:
      return because("step ", event.step, " changes nothing");
    case RunEvent::Kind::kGoBack:
      return because("generation ", event.generation.value(), " is over");
    case RunEvent::Kind::kTakeUp:
      return absl::StrCat("generation ", event.generation.value(), " is taken up before step ",
                          event.step, ": ", event.workers, " workers have time to come back");
    case RunEvent::Kind::kStop:
      return because("stopping at step ", event.step);
    case RunEvent::Kind::kEnd:
      return event.code == absl::StatusCode::kOk ? "the run is finished" : because("the run ends");
  }
  return "";
}

}  // namespace sdp
