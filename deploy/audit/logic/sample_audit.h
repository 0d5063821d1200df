#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/base/ids.h"
#include "deploy/audit/logic/positions.h"
#include "deploy/audit/logic/records.h"

namespace sdp::audit {

// Something that is not as promised.
struct Finding {
  Generation generation = {};
  Step step = -1;           // -1: of no step
  Incarnation worker = {};  // none: nobody's in particular
  std::vector<Range> positions = {};
  std::string what = "";
};

// A portion that a lost worker had, and other steps got.
struct Return {
  Generation generation;
  Step step = 0;
  Incarnation worker;
  std::string reason;
  std::vector<Range> positions;
};

struct Report {
  int64_t generations = 0, views = 0, bindings = 0, exclusions = 0;
  int64_t checkpoints = 0;  // whose cursor was compared
  int64_t steps = 0;        // committed, and undone by no later generation: these count
  int64_t undone = 0;       // of older generations, from where a later one begins
  int64_t open = 0;         // bound, and not finished where the records end
  int64_t dealt = 0;        // positions that the steps that count, and open ones, have begun with
  int64_t used_once = 0;    // by one step, whose workers had them all
  int64_t used_again = 0;   // by one step, after a worker that was lost had them: at least once
  int64_t waiting = 0;      // came back, and no step has got them yet (after the last: none will)
  int64_t in_open_steps = 0;
  int64_t lost = 0;     // never dealt, or came back, and passed over
  int64_t doubled = 0;  // dealt again though nobody was lost
  int64_t returns = 0, violations = 0;
  std::vector<Return> first_returns;    // at most kListed
  std::vector<Finding> first_findings;  // at most kListed

  static constexpr size_t kListed = 20;
};

// SampleAudit recomputes from a run's records what each step and each worker got, and reports where
// the records disagree with that or with each other (protocol.md section 4). What it checks:
//   - the steps of a generation are bound one by one, once each, and are committed in that order;
//   - the cursor of a binding is what the one before leaves, and what came back since;
//   - the portion of an excluded worker comes back whole, of exactly those steps that were not
//     committed and that it has not reported; every member has reported or is excluded;
//   - a generation begins with the cursor that its first version had in the one before it;
//   - a checkpoint has the cursor of its version, with what came back from the steps before it.
// Nothing of it is shared with the coordinator's logic. After a finding it goes on from what is
// recorded. Memory: open steps, members, generations and checkpoints, not the length of the run.
// Threads: confined to one.
class SampleAudit {
 public:
  // `starts`: of all generations of the run; a step counts if no later one begins at or before it.
  SampleAudit(std::vector<StartRecord> starts, std::vector<CheckpointRecord> checkpoints);

  // In the order in which they were written; a StepRecord at any time after its binding.
  void Add(const Record& record);
  Report Finish();

 private:
  struct State {
    FreePositions free;
    int64_t dealt_end = 0;  // no position from here on was ever dealt
  };
  struct OpenStep {
    BindingRecord binding;
    ViewRecord view;
    State before;  // what its version has: with what came back from the steps before it
    std::vector<Range> positions;
    int64_t again = 0;                                            // the first ones, dealt before
    std::map<Incarnation, std::pair<int64_t, int64_t>> returned;  // {first, count} of positions
    std::set<Incarnation> excluded;                               // since it was bound
    std::set<Incarnation> must_report;          // excluded, and its portion did not come back
    std::optional<std::set<Incarnation>> lost;  // of its line; none: not seen yet,
    bool passed_over = false;                   // and it will not come
  };

  void Take(const StartRecord& start);
  void Take(const ViewRecord& view);
  void Take(const BindingRecord& binding);
  void Take(const ExclusionRecord& exclusion);
  void Take(const StepRecord& line);

  void CheckCursor(const BindingRecord& binding);
  void CheckExclusion(const ExclusionRecord& exclusion);
  void TakeBack(OpenStep& step, size_t rank, const ExclusionRecord& exclusion);
  void CheckLost(OpenStep& step);
  void CheckCheckpoints(const OpenStep& step);
  void CloseFinished();
  enum class Outcome { kFinished, kOpen };
  void Close(const OpenStep& step, Outcome outcome);
  void EndGeneration();
  void Violated(Finding finding);

  const std::vector<StartRecord> starts_;
  std::vector<CheckpointRecord> checkpoints_;  // not compared yet
  Report report_;

  // Of this generation.
  Generation generation_;
  Step counts_until_ = kNoEnd;  // its steps from here on are undone
  Step next_step_ = 0, next_line_ = 0;
  Step committed_ = -1;  // at least
  bool closed_ = false;
  int64_t exclusions_ = 0;
  bool known_ = false;              // the state
  State state_;                     // before the next step
  ViewRecord view_, bound_view_;    // the newest record, and what the newest step was bound to
  std::set<Incarnation> excluded_;  // that were members of the view or of an open step
  std::vector<Return> since_the_binding_;  // came back
  std::map<Step, OpenStep> open_;

  ViewId last_view_;
  std::map<Step, State> start_states_;  // of versions that later generations begin with

  static constexpr Step kNoEnd = std::numeric_limits<Step>::max();
};

}  // namespace sdp::audit
