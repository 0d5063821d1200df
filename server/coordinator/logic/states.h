#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/allocated.h"
#include "common/base/ids.h"
#include "common/plan/plan.h"
#include "common/protocol/messages.h"
#include "server/coordinator/logic/actions.h"
#include "server/coordinator/logic/portions.h"
#include "server/coordinator/logic/records.h"
#include "server/coordinator/logic/view.h"

// What the coordinator remembers of a shard, a worker, a bound step, a checkpoint: plain data,
// which only Coordinator changes.
namespace sdp {

struct ShardState {
  ShardRegistration registration;
  size_t fragments = 0;
  Step done = -2;  // all its fragments have version done + 1; the start state is one too
  bool hashed = false;
  bool leaving = false;   // on its own request, or someone's
  bool finished = false;  // it was told that it may end, and does
  absl::Time heard;
  std::string phase;
  int64_t peak_memory_bytes = 0;
  // Another process that came under its name, and when it did.
  std::optional<ShardRegistration> successor;
  absl::Time succeeds_since;
};

struct WorkerState {
  WorkerRegistration registration;
  Incarnation incarnation;
  bool ready = false;              // by Roster, which counts them; so is `leaving`
  std::optional<Step> first_step;  // the first that is bound with it; none: it waits to join
  Step answered = -1;              // the last one it was told the binding of
  bool leaving = false;            // on its own request: no new step is bound with it
  bool told_finished = false;
  // Of lost workers, to do before its next step.
  std::vector<EvaluationPart> more_evaluations;
  std::vector<EvaluationPart> last_evaluations;  // behind the closing step: the last answer's
  absl::Time heard;
  std::string phase;
  bool waits = false;  // for others, it says
  Step reported = -1;
  int64_t peak_memory_bytes = 0;
  int64_t allocated_peak_bytes = 0;
  MemoryLedger ledger;  // of its newest report
  Pace pace;
};

// Steps for which these are the same have one plan.
struct PlanKey {
  ViewId view;
  int phase = 0;
  int64_t rotation = 0;

  friend bool operator==(const PlanKey&, const PlanKey&) = default;
};

struct Evaluation {
  EvaluationPart part;
  Incarnation evaluator;
  std::optional<EvaluationReport> report;
  bool lost = false;  // nobody is left who could do it
};

struct StepState {
  BindingRecord binding;
  std::vector<PositionRange> positions;  // its samples
  std::shared_ptr<const View> view;
  std::shared_ptr<const Plan> plan;
  int64_t plan_number = 0;
  std::shared_ptr<const HolderSets> holders;  // the plan's
  bool durable = false;                       // may be told
  bool diagnose = false;
  std::vector<double> squares;                      // [fragments]
  std::vector<std::vector<double>> holder_squares;  // [fragments][holders], to diagnose
  std::vector<GradientComparison> comparisons;      // [fragments], likewise
  std::set<ShardId> reduced, diagnosed;
  std::set<Incarnation> expect_reports;
  std::map<Incarnation, StepReport> reports;
  // Members out of the run whose reports a process before this one had, and nobody can repeat.
  std::set<Incarnation> reports_gone;
  std::vector<Evaluation> evaluations;              // in the order of their samples
  std::set<std::pair<Incarnation, size_t>> undone;  // of these: evaluator and place
  // What was added to a member's own part when it was told this binding.
  std::map<Incarnation, std::vector<EvaluationPart>> more_evaluations;
  std::optional<double> full_loss, full_accuracy;
  double gradient_norm = 0, scale = 1;
  bool scaled = false;     // `scale` is stored
  std::string not_finite;  // a shard's word for it: the step is skipped, with a scale of 0
  int64_t uncovered = 0;
  absl::Time committed_at = absl::InfiniteFuture();

  bool evaluated() const { return undone.empty(); }
  // Then there is no loss of the full model. Who computes a part of it goes on all the same: what
  // it reads stays until all are done.
  bool evaluation_given_up() const {
    return std::any_of(evaluations.begin(), evaluations.end(),
                       [](const Evaluation& one) { return one.lost; });
  }
  // The first of a worker's in `undone`; those that follow have its incarnation.
  auto UndoneBy(Incarnation worker) const { return undone.lower_bound({worker, 0}); }
};

struct CheckpointState {                    // under way
  CheckpointManifest manifest;              // but for the files
  std::map<ShardId, CheckpointFile> files;  // written
  std::set<ShardId> expect;
  std::string error;  // the first shard's that failed
};

// What waits for a record to be stored; `bound`: the step that may then be told.
struct DeferredActions {
  bool stored = false;
  CoordinatorActions actions;
  std::optional<Step> bound;
};

}  // namespace sdp
