#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/base/wire_buffer.h"
#include "common/data/sample_order.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "common/model/masking.h"
#include "common/plan/rescale.h"
#include "common/protocol/messages.h"
#include "worker/logic/local_model.h"

namespace sdp {

// What a worker wants done after an event.
struct WorkerActions {
  struct Ask {
    Step step;
    int64_t known_plan;
  };  // BeginStep
  struct Pull {
    ShardId shard;
    PullRequest request;
  };
  struct Push {
    ShardId shard;
    PushKey key;
    SharedWire gradient;
    absl::Duration delay;
  };  // gradient null: header only
  struct Done {
    ShardId shard;
    ReadsDone reads;
  };
  struct UnitHere {
    Step step;
    UnitId unit;
    std::vector<WireBuffer> fragments;
  };  // for Exchange::Take

  std::vector<Ask> ask;
  std::vector<Pull> pulls;
  std::vector<Push> pushes;
  std::vector<Done> done;
  std::vector<UnitHere> units;
  std::vector<EvaluateTask> evaluate;  // to the compute thread, which works in order
  std::vector<DenseTask> dense;
  std::vector<TrainTask> train;
  std::vector<StepReport> reports;  // repeat until acknowledged
  std::vector<EvaluationReport> evaluations;
  std::vector<NotFiniteReport> not_finite;
  std::optional<absl::Status> exit;  // OK: the run is finished, or Options::left
};

// Worker is the life of a training step on one worker: ask for the binding, pull the subnetwork
// (with backward masking: the model), compute, push each gradient as it is ready, report. Before
// that, where the binding says so, walks of the full model: evaluation, and its gradient.
// Event-driven; the computation itself, sockets and files are outside. Threads: confined to one.
class Worker {
 public:
  struct Options {
    std::string name;
    const Catalog* catalog = nullptr;  // outlives the worker
    const Layout* layout = nullptr;    // outlives the worker
    Masking masking = Masking::kForward;
    Rescale rescale = Rescale::kEval;
    uint64_t seed = 0;  // of the sample order
    bool shuffle = true;
    int64_t terms_per_sample = 1;  // loss terms
    // A loss that is not finite reaches the shards as such gradients, and they skip the step.
    bool skip_not_finite = false;
    // What it ends with when it has left before the run's end, which is after step `steps`.
    absl::Status left;
    Step steps = 0;
    absl::Duration retry_delay = absl::Milliseconds(100);
  };

  Worker(const Options& options, const WorkerAdmission& admission, const DataSummary& data);

  WorkerActions Start();  // Ready was accepted
  WorkerActions OnBinding(const WorkerBinding& binding, absl::Time now);
  WorkerActions OnValue(Step step, FragmentId fragment, WireBuffer value, int64_t wire_bytes,
                        absl::Time now);
  WorkerActions OnPullRefused(Step step, FragmentId fragment, Answer answer,
                              const std::string& detail);
  WorkerActions OnPushAnswer(const PushAnswer& answer, absl::Time now);
  // From the compute thread, in its order.
  WorkerActions OnWant(Step step, UnitId unit);
  WorkerActions OnBackwardBegins(Step step);
  WorkerActions OnReleased(Step step, UnitId unit);
  WorkerActions OnGradient(Step step, FragmentId fragment, WireBuffer gradient);
  WorkerActions OnEvaluated(Step step, const absl::StatusOr<LossSum>& result);
  WorkerActions OnDense(Step step, const absl::Status& result);
  WorkerActions OnTrained(Step step, const absl::StatusOr<TrainResult>& result, absl::Time now);
  // A stream to this shard was opened anew: asks again for what has not come, sends again what is
  // not acknowledged.
  WorkerActions Reconnected(ShardId shard);
  void OnPushed(Step step, int64_t wire_bytes);  // bytes of a push, to train, that left
  // The coordinator is another process now: repeats the last reports, which it may have had and not
  // written.
  WorkerActions CoordinatorRestarted() const;

  // Where it is, for heartbeats and status: "step 12: waiting for weights of layers.3.mlp from
  // shard 1 since ...".
  std::string phase() const;
  // Whether it can do nothing until others have done theirs.
  bool waits() const;
  Step step() const;                                               // the newest step it knows of
  const std::vector<UnitFactor>& units() const { return units_; }  // the newest plan's
  // What it waits for, by shard: fragments that it has asked for, gradients that are not
  // acknowledged. A look at all of these, so not for every event.
  struct Awaited {
    int64_t fragments = 0, acknowledgements = 0;
  };
  std::map<ShardId, Awaited> awaited() const;

 private:
  struct Weights {  // on their way to a computation
    absl::flat_hash_set<FragmentId> asked;
    absl::flat_hash_map<UnitId, std::vector<WireBuffer>> parts;  // of units that are not complete
    absl::flat_hash_map<UnitId, size_t> missing;  // fragments of a unit that have not come
  };
  // Of the full model, at `version`.
  struct FullWalk {
    Step step = 0;  // that is bound to it, and trains afterwards
    Step version = 0;
    ViewId view;                          // of step `version`
    std::optional<int64_t> first_sample;  // of an evaluation's part; none: the dense gradient
    UnitId last_wanted = UnitId(0);
    std::vector<FragmentId> unasked = {};  // wanted
    Weights weights = {};
  };
  using Gradients = absl::flat_hash_map<FragmentId, SharedWire>;  // null: a header
  struct StepState {
    WorkerBinding binding;
    std::vector<UnitFactor> units;
    size_t evaluated = 0;    // of the binding's evaluations, the one under way too
    bool diagnosed = false;  // likewise
    Weights weights;
    absl::flat_hash_set<FragmentId> unasked;
    absl::flat_hash_map<ShardId, int> awaited;  // backward masking: fragments to come from it
    // Gradients. due: not computed yet; unacknowledged: kept until the shard has them. in_use:
    // there will be none, as the unit is not held, and the weights are not released yet.
    absl::flat_hash_set<FragmentId> due, in_use;
    Gradients unacknowledged, unacknowledged_dense;
    std::optional<TrainResult> result;
    absl::Time trained_at;
    int64_t pulled_bytes = 0, pushed_bytes = 0;

    bool acknowledged() const { return unacknowledged.empty() && unacknowledged_dense.empty(); }
    Gradients& sent(Purpose purpose) {
      return purpose == Purpose::kTrain ? unacknowledged : unacknowledged_dense;
    }
  };

  RequestKey Key(ViewId view, Step step) const {
    return {admission_.generation, view, admission_.term, step, admission_.incarnation};
  }
  RequestKey Key(const StepState& state) const {
    return Key(state.binding.view, state.binding.step);
  }
  // The next of the step's walks; after them it trains.
  void WalkOrBegin(StepState& state, WorkerActions* actions);
  std::vector<HeldUnit> AllUnits() const;  // with their evaluation factors
  void PullWalked(WorkerActions* actions);
  bool Diagnoses(Step step) const {  // that walk is under way
    return walk_.has_value() && walk_->version == step && !walk_->first_sample.has_value();
  }
  ShardId PlaceOf(FragmentId fragment) const {
    return place_[static_cast<size_t>(fragment.value())];
  }
  void Ask(Step step, WorkerActions* actions);
  void Begin(StepState& state, WorkerActions* actions);
  TrainTask TaskOf(const StepState& state) const;
  void PushHeaders(StepState& state, WorkerActions* actions);
  void Expect(Weights& weights, UnitId unit) const;
  void Arrived(Step step, FragmentId fragment, WireBuffer value, Weights& weights,
               WorkerActions* actions) const;
  void SayDone(const StepState& state, ShardId shard, WorkerActions* actions);
  bool Busy(Step before, FragmentId fragment) const;
  void PullFree(WorkerActions* actions);
  void PullFragments(const RequestKey& key, const std::vector<FragmentId>& fragments,
                     WorkerActions* actions) const;
  // `gradient` is kept until it is acknowledged; null: a header alone.
  void Send(StepState& state, Purpose purpose, FragmentId fragment, SharedWire gradient,
            WorkerActions* actions) const;
  void PushFragment(StepState& state, Purpose purpose, FragmentId fragment, absl::Duration delay,
                    WorkerActions* actions) const;
  void TryComplete(StepState& state, absl::Time now, WorkerActions* actions);

  // A step's line is written when all have reported and evaluated it; an evaluation that is done
  // again for a lost worker may take some steps.
  static constexpr Step kStepsRepeated = 8;

  const Options options_;
  const WorkerAdmission admission_;
  const std::vector<ShardId> place_;  // [fragments]
  const SampleOrder order_;
  int64_t plan_ = -1;  // number of the plan whose units we know
  std::vector<UnitFactor> units_;
  std::optional<Step> asked_;          // the step whose binding is awaited
  std::map<ShardId, ReadsDone> done_;  // backward masking: what it was told last
  std::map<Step, StepState> steps_;    // bound, until reported; at most two
  std::optional<FullWalk> walk_;       // under way
  std::optional<absl::Status> end_;    // there will be no more steps
  std::deque<StepReport> last_reports_;
  std::vector<EvaluationReport> last_evaluations_;  // of these steps, whosever part it was
  Step newest_evaluated_ = 0;
};

}  // namespace sdp
