#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "common/plan/coverage.h"
#include "common/plan/memory.h"
#include "common/plan/plan.h"
#include "common/plan/rescale.h"
#include "common/protocol/messages.h"
#include "server/coordinator/logic/actions.h"
#include "server/coordinator/logic/loss_watch.h"
#include "server/coordinator/logic/records.h"
#include "server/coordinator/logic/roster.h"
#include "server/coordinator/logic/run_status.h"
#include "server/coordinator/logic/states.h"
#include "server/coordinator/logic/step_metrics.h"
#include "server/coordinator/logic/view.h"

namespace sdp {

// What a generation of a run begins with. The defaults are a run's first start.
struct GenerationStart {
  Generation generation{1};
  StartState state;
  SampleCursor cursor;              // before the first step
  std::vector<int64_t> reshuffles;  // of the sample order (common/data/sample_order.h)
  bool reshuffle = false;      // once more, from the cursor on: who reads the checkpoint does it
  std::vector<double> losses;  // of the last steps before, a spike's measure (loss_watch.h)
  std::optional<DataSummary> data;  // that workers must have; none: the first worker's counts
  uint64_t init_checksum = 0;       // of state.init_path
  std::vector<std::string> notes;   // for people: what was found, and set aside for it
  // Instances of shards that were to leave when the generation ended otherwise; they come back as
  // others, and are let go of as soon as they have the start values. Not stored: a coordinator that
  // is lost before they have come back forgets it.
  absl::flat_hash_set<uint64_t> leaving;
  // Numbers that earlier generations have used: never again.
  Incarnation last_incarnation;
  ViewId last_view;
  absl::Time first_bound = absl::InfinitePast();  // of the run, if this process has seen it
  bool goes_on = false;  // the run has been training: without a plan it waits for others
};

// Coordinator is the one process that knows the members, the plan, the step and the data cursor. It
// binds steps, collects the shards' and workers' reports and decides when a step is committed.
// Event-driven: each call returns the actions to take; duplicates and any order of events are fine.
// Threads: confined to one; no RPC, file or device work inside. Time comes in with the events.
class Coordinator {
 public:
  struct Options {
    const Catalog* catalog = nullptr;  // outlives the coordinator
    const Layout* layout = nullptr;    // outlives the coordinator
    std::string config_hash;
    int shards = 1;
    int workers = 1;               // N of the first view, at least
    int min_workers = 1;           // with fewer no step is bound
    int max_workers = 0;           // with as many nobody is let in; 0: no limit
    std::vector<double> coverage;  // [units] c_j
    std::vector<CoveragePhase> phases;
    Rescale rescale = Rescale::kEval;
    Assignment assignment = Assignment::kResolvable;
    uint64_t seed = 0;
    int64_t rotate_every = 0;
    int64_t steps = 1;
    int64_t global_batch = 1;
    int64_t worker_batch = 0;  // samples of every member, whatever their number; 0: global_batch
    // kMeasured: so that all members compute about as long, by what their steps have shown.
    enum class Portions { kEqual, kMeasured } portions = Portions::kEqual;
    int64_t micro_batch = 0;
    // What units take on a worker. Outlives the coordinator; null: that is not looked at.
    const MemoryModel* memory = nullptr;
    int64_t tokens_per_sample = 0;  // for throughput; 0: not text
    int64_t eval_every = 0;
    int64_t eval_samples = 0;       // 0: all
    bool validation = false;        // there is validation data
    int64_t diagnostics_every = 0;  // steps; 0: never
    double clip_norm = 0;
    double spike_factor = 0;       // of the median loss: what is above is a spike; 0: nothing is
    int64_t checkpoint_every = 0;  // steps, and always at the end; 0: only there
    absl::Duration checkpoint_after = absl::InfiniteDuration();  // and so long after the last one
    std::string checkpoints;                                     // the folder, as shards see it
    std::string config;                                          // resolved, for the manifests
    GenerationStart start;
    absl::Duration lease = absl::Seconds(20);  // silence after which a member is lost
    // The same of a shard under whose name another process wants to come.
    absl::Duration lease_of_replaced = absl::Seconds(5);
    // After which the first view is made with fewer than `workers`, at least `min_workers`, if no
    // more come.
    absl::Duration view_timeout = absl::Minutes(1);
    absl::Duration first_step_timeout = absl::Minutes(15);
    absl::Duration min_step_timeout =
        absl::Minutes(2);                             // then: 20 x the slowest step, at least this
    absl::Duration gather_timeout = absl::Hours(1);   // for the next member, until all are here
    absl::Duration stop_timeout = absl::Seconds(30);  // for a stop, at least
  };

  explicit Coordinator(const Options& options);

  CoordinatorActions Start(absl::Time now);
  // Instead of Start: goes on with the generation of options.start where a process before this one
  // has left it. `records`: all that it stored, in order. Leases begin anew; admissions in the
  // actions say who the members are, whether or not they ask. A generation whose end is stored is
  // over again, for the same reason.
  struct Written {
    Step line = -1;              // the newest step of this generation in metrics.jsonl
    std::set<Step> checkpoints;  // complete ones
  };
  CoordinatorActions Restore(const std::vector<Record>& records, const Written& written,
                             absl::Time now);
  CoordinatorActions Stored(int64_t id, absl::Time now);

  CoordinatorActions RegisterShard(const ShardRegistration& registration, absl::Time now);
  CoordinatorActions RegisterWorker(const WorkerRegistration& registration, absl::Time now);
  // FailedPrecondition in `*error` when its data is not that of the others.
  CoordinatorActions Ready(Incarnation worker, const DataSummary& data, absl::Time now,
                           absl::Status* error);
  // Asks for the binding of `step`, or of kFirstOfMine; `known_plan`: the plan whose units the
  // worker has, or -1. Answered when step - 2 is committed.
  CoordinatorActions BeginStep(Incarnation worker, Step step, int64_t known_plan, absl::Time now,
                               absl::Status* error);

  // The worker wants to go: the next step is bound without it. It is told that it may when it asks
  // for that step.
  CoordinatorActions Leave(Incarnation worker, absl::Time now);
  // The shard wants to go. A checkpoint is bound at the next unbound step, and nothing after it;
  // then the shard is told that it may end, and the next generation begins with that checkpoint.
  // Others that want to go meanwhile go with it.
  CoordinatorActions LeaveShard(ShardId shard, absl::Time now);
  // The worker or shard of this name is to leave. NotFound in `*error`: there is none.
  // FailedPrecondition: it is a shard that the run has not begun with.
  CoordinatorActions Drain(const std::string& name, absl::Time now, absl::Status* error);
  // The process of the worker or shard of this name has ended: it is lost, without waiting for its
  // lease. Before the first view one worker less is waited for, whether or not it had come.
  // NotFound in `*error`: there is none.
  CoordinatorActions ProcessEnded(const std::string& name, absl::Time now, absl::Status* error);

  CoordinatorActions OnReduced(const Reduced& reduced, absl::Time now);
  CoordinatorActions OnDiagnosed(const Diagnosed& diagnosed, absl::Time now);
  CoordinatorActions OnStepDone(const StepDone& done, absl::Time now);
  CoordinatorActions OnStateHashes(const StateHashes& hashes, absl::Time now);
  CoordinatorActions OnCheckpointPart(const CheckpointPart& part, absl::Time now);
  // A manifest of CoordinatorActions is on the disk, or why not.
  CoordinatorActions CheckpointStored(Step step, const absl::Status& status, absl::Time now);
  CoordinatorActions OnStepReport(const StepReport& report, absl::Time now);
  CoordinatorActions OnEvaluation(const EvaluationReport& report, absl::Time now);
  CoordinatorActions OnNotFinite(const NotFiniteReport& report, absl::Time now);

  // Aborted in `*error`: it is not in the run any more, and may register again.
  // `waits`: it has no work until others have done theirs.
  CoordinatorActions WorkerHeartbeat(Incarnation worker, const std::string& phase, bool waits,
                                     absl::Time now, absl::Status* error);
  CoordinatorActions ShardHeartbeat(ShardId shard, const std::string& phase,
                                    int64_t peak_memory_bytes, absl::Time now);
  CoordinatorActions ShardFinished(ShardId shard, absl::Time now);  // it was told, and ends
  // A checkpoint of the next step to be bound, at the earliest: `*step`. FailedPrecondition in
  // `*error`: the run does not train.
  CoordinatorActions TakeCheckpoint(Step* step, absl::Status* error);
  // Ends the run at the next unbound step, without evaluation (Ctrl-C).
  CoordinatorActions Stop(const std::string& reason, absl::Time now);
  // Looks at leases and deadlines. Call about once a second.
  CoordinatorActions Tick(absl::Time now);

  // Names no more than `most_workers` of the workers.
  RunStatus status(absl::Time now, size_t most_workers = kMostWorkersShown) const;
  static constexpr size_t kMostWorkersShown = 256;
  UnitStatus unit_status(UnitId unit) const;
  // Of its subnetwork in the newest view, shared ones too, ascending; none if it is not in it.
  std::vector<UnitId> UnitsOf(Incarnation worker) const;
  // What the generation after this one begins with, but for the checkpoint: the initial values.
  GenerationStart NextStart() const;
  // Who or what the run waits for now, and why; of many the first few.
  std::string WaitingFor() const;
  // Of the newest view; the workers to begin with before the first one. Less those whose processes
  // have ended since the generation is over.
  int members() const;
  // The plan of the newest binding; null before the first view.
  const Plan* plan() const { return plan_.get(); }
  // What the plan of a step is made of: its phase and rotation, and the ranks of the view.
  PlanInput PlanInputAt(Step step) const;

 private:
  enum class Phase { kShards, kStarting, kWorkers, kTraining, kEnding, kOver };

  // registration.cc
  void AdmitShards(absl::Time now, CoordinatorActions* actions);
  void AdmitShard(ShardId shard, CoordinatorActions* actions);
  ShardAdmission AdmissionOf(ShardId shard) const;
  void FillAdmission(WorkerAdmission& admission) const;
  void RegisterSuccessor(ShardState& shard, const ShardRegistration& registration, absl::Time now,
                         CoordinatorActions* actions);
  void AdmitWorker(const WorkerState& worker, CoordinatorActions* actions);
  absl::Status CheckMemory(const WorkerRegistration& registration) const;
  static absl::Status NotInTheRun(Incarnation incarnation);
  std::string NameOf(Incarnation worker) const;
  bool Loading(const ShardState& shard) const {  // the start values
    return shard.fragments > 0 && shard.done < options_.start.state.step - 1;
  }
  bool GoesOn() const;  // the run has been training
  // Of the generation's first plan. A closing step makes none of its own.
  Step FirstPlanned() const { return std::min(options_.start.state.step, options_.steps - 1); }
  absl::Status PlanFirstView(std::vector<Incarnation> members);
  void MakeView(absl::Time now, CoordinatorActions* actions);
  bool EnoughForAView(absl::Time now) const;

  // membership.cc
  enum class Joiners { kIn, kWait };
  std::vector<Incarnation> NextView(Joiners joiners) const;
  // The least number of workers with which the step can be bound; and why so many.
  int LeastWorkers(Step step) const;
  std::string WhyLeast(Step step) const;
  // Why no step can be bound; empty: it can.
  std::string PausedBy() const;
  std::string TooFew() const;
  void TellNoPlan(size_t workers, Step step, CoordinatorActions* actions) const;
  void TellPlan(Step from, const std::string& reason, CoordinatorActions* actions) const;
  std::shared_ptr<const View> ViewOf(std::vector<Incarnation> members) const;  // the next one
  absl::Status ChangeView(Step step, CoordinatorActions* actions);
  void LevelPortions(Step step, CoordinatorActions* actions);
  void AdoptView(Step step, const std::string& reason, CoordinatorActions* actions);
  void EnterView(Step step);
  void ForgetQuestions(Incarnation worker);
  void Exclude(const std::string& name, const std::string& reason, CoordinatorActions* actions);
  void SendExclusion(Incarnation worker, CoordinatorActions* actions) const;
  bool TakeBack(StepState& step, Incarnation worker);  // true: its samples come back
  void ReturnPortion(Step step, const std::vector<PositionRange>& portion);
  void MembersChanged(absl::Time now, CoordinatorActions* actions);
  void ForgetLeft();
  bool Busy(Incarnation worker) const;  // with what it is bound to

  // silence.cc
  bool NearlySilent(absl::Time heard, absl::Time now) const;
  bool MayHaveLeft(const WorkerState& worker) const;
  void NoticeCut(absl::Time now, CoordinatorActions* actions);
  void ExcludeSilent(absl::Time now, CoordinatorActions* actions);
  void ExcludeStuck(absl::Duration idle, CoordinatorActions* actions);
  void LoseSilentShards(absl::Time now, CoordinatorActions* actions);
  void GoBack(const std::string& why, absl::Time now, CoordinatorActions* actions);
  void EndGeneration(const std::string& why, absl::Time now, CoordinatorActions* then);

  // drain.cc
  bool Draining() const { return drain_by_ != absl::InfiniteFuture(); }
  bool ClosesGeneration() const;
  std::vector<std::string> LeavingShards() const;  // names
  void LetShardsGo(absl::Time now, CoordinatorActions* actions);
  void ShardsAreGone(absl::Time now, CoordinatorActions* actions);
  void EndLateDrain(absl::Time now, CoordinatorActions* actions);

  // binding.cc
  void TryBind(absl::Time now, CoordinatorActions* actions);
  void BindStep(absl::Time now, CoordinatorActions* actions);
  StepState& OpenStep(const BindingRecord& binding, std::vector<PositionRange> positions);
  void BindShards(const StepState& step, CoordinatorActions* actions);
  bool DiagnoseAt(Step step) const;
  absl::Status MakePlanAt(Step step);  // for the view
  absl::Status ChangePlan(Step step, CoordinatorActions* actions);
  PlanKey PlanKeyAt(Step step) const;
  const std::vector<double>& CoverageAt(Step step) const;  // [units]
  void AnswerAll(CoordinatorActions* actions);
  void AnswerAsked(Step step, CoordinatorActions* actions);
  bool AnswerUnbound(Incarnation worker, Step step, CoordinatorActions* actions);
  bool Unbound(Step step) const;
  void TellFinished(Incarnation worker, Step step, CoordinatorActions* actions);
  WorkerBinding BindingFor(const StepState& step, int rank, int64_t known_plan) const;

  // checkpoints.cc
  bool CheckpointDue(Step step, bool closing, absl::Time now) const;
  void ExpectCheckpoint(const StepState& step);
  void WriteIfWhole(Step checkpoint, CoordinatorActions* actions);
  void FailCheckpoint(Step step, const std::string& why, CoordinatorActions* actions);

  // restore.cc
  struct Restoring;
  // DataLoss: it does not fit the records before it.
  absl::Status RestoreRecord(const Record& record, Restoring& restoring,
                             CoordinatorActions* actions);
  absl::Status RestoreShard(const ShardRecord& record, absl::Time now);
  absl::Status RestoreLeave(const ShardLeaveRecord& record, absl::Time now);
  bool HasShards() const;
  void RestoreWorker(const MemberRecord& record, absl::Time now, CoordinatorActions* actions);
  void RestoreLeft(Incarnation worker, CoordinatorActions* actions);
  absl::Status RestoreView(const ViewRecord& record, Restoring& restoring);
  void EnterRestoredView(Step step);
  absl::Status MakeRestoredPlan(const Restoring& restoring);
  absl::Status RestoreBinding(const BindingRecord& record, Restoring& restoring);
  absl::Status RestoreExclusion(const ExclusionRecord& record, const Restoring& restoring,
                                CoordinatorActions* actions);
  void TellRestored(const Restoring& restoring, CoordinatorActions* actions);
  CoordinatorActions RestoreEnd(const std::string& why, absl::Time now);

  // evaluation.cc
  void Evaluate(StepState& step);
  void FinishEvaluation(StepState& step, CoordinatorActions* actions);
  // To others of the step's view, what the worker has left undone of it.
  void GiveEvaluationsAway(StepState& step, Incarnation worker, CoordinatorActions* actions);
  // Nobody reads its version any more, for evaluation or the dense gradient.
  void ReleaseEvaluation(const StepState& step, CoordinatorActions* actions);

  // watch.cc
  void ReportSteps(absl::Time now, CoordinatorActions* actions);
  StepMetrics MetricsOf(const StepState& step, absl::Time now);
  std::vector<BlockDiagnostics> BlocksOf(const StepState& step) const;
  std::string WaitingForSteps() const;                 // while training
  int64_t PortionOf(const WorkerState& worker) const;  // of the newest view
  // status.cc
  RunStatus::Member MemberOf(const ShardState& shard, int64_t number, absl::Time now) const;
  std::string StateOf(const WorkerState& worker) const;

  // reduction.cc
  void FinishReduction(StepState& step, CoordinatorActions* actions);
  void CountSkipped(const ScaleRecord& record);
  void SendScale(const StepState& step, CoordinatorActions* actions) const;
  std::string NotFiniteText(const NotFiniteReport& report) const;

  // coordinator.cc
  // What has happened; generation, and the step where there is none yet, are filled in.
  void Tell(RunEvent event, CoordinatorActions* actions) const;
  void Persist(Record record, CoordinatorActions then, CoordinatorActions* actions,
               std::optional<Step> bound = std::nullopt);
  // Where to put what depends on all records so far, though none of them tells of it.
  CoordinatorActions* WhenStored(CoordinatorActions* actions);
  void Commit(absl::Time now, CoordinatorActions* actions);
  std::vector<ShardId> Owners() const;  // shards that have fragments
  bool ShardsHave(Step done) const;
  void TryFinish(absl::Time now, CoordinatorActions* actions);
  void End(absl::Status status, CoordinatorActions* actions);
  void Progress(absl::Time now) { last_progress_ = now; }
  void AwaitOneLess();
  void ForgiveStall(absl::Time now, CoordinatorActions* actions);
  absl::Duration StopTime() const;

  const Options options_;
  int gone_ = 0;
  int awaited_;  // workers for the first view: options_.workers, less those that are known to be
                 // gone
  bool cut_off_ = false;  // rather this process than those who are silent
  const Generation generation_;
  const Term term_;
  const std::vector<ShardId> place_;              // [fragments]
  const std::vector<std::vector<size_t>> owned_;  // [shards] fragments, ascending
  const std::vector<double> least_coverage_;      // [1 + phases] of a unit
  Phase phase_ = Phase::kShards;

  std::map<std::string, ShardState> registered_shards_;  // by name, until all are here
  // Names of nobody whose processes ended until then: of workers, or of shards that come again.
  std::set<std::string> ended_early_;
  std::vector<ShardState> shards_;  // by number
  Roster workers_;
  // Told to go, or done with something since they were: ForgetLeft looks at these alone.
  std::vector<Incarnation> perhaps_left_;
  std::set<Incarnation> untold_;  // while the run ends: those that do not know it yet
  Incarnation last_incarnation_;  // given out
  std::optional<DataSummary> data_;

  ViewId last_view_;
  std::shared_ptr<const View> view_;  // of the next step; null before the first
  std::shared_ptr<const Plan> plan_;
  PlanKey plan_key_;          // what plan_ was made of
  int64_t plan_number_ = -1;  // counts this generation's plans
  int64_t plan_sent_ = -1;    // the last plan whose holders the shards were sent
  std::shared_ptr<const HolderSets> holders_;

  SampleCursor cursor_;
  Step next_step_;                   // the first unbound
  std::optional<Step> closing_;      // once bound
  std::map<Step, StepState> steps_;  // bound, until their metrics are out
  std::map<Step, std::map<Incarnation, int64_t>>
      asked_;                     // unanswered BeginStep: the plan each knows
  Step committed_;                // start.step - 1: all shards have the start state
  std::vector<uint64_t> hashes_;  // [fragments] at the closing binding
  std::map<Step, CheckpointState> checkpoints_;
  std::optional<Step> last_checkpoint_;
  absl::Time last_checkpoint_at_;
  std::string checkpoint_error_;
  bool checkpoint_asked_ = false;
  absl::Time checkpoint_bound_at_ = absl::InfiniteFuture();  // or training began

  struct Unfit {
    std::vector<Incarnation> members;
    int phase = 0;
    std::string why;
  };
  std::array<Unfit, 2> unfit_;  // [Joiners] for whom there was no plan last
  std::string no_plan_;         // why there is none for the next step; empty: there is
  ViewId left_out_in_;          // the view in which a rotation was last left out
  Step levelled_at_ = 0;        // when portions were last thought about
  std::string paused_;          // why, as was logged
  int64_t exclusions_ = 0;      // of this generation
  int skipped_in_a_row_ = 0;    // steps that changed nothing
  LossWatch loss_watch_;
  bool spiked_ = false;  // for which this generation is over
  int64_t next_record_ = 1;
  std::map<int64_t, DeferredActions> deferred_;

  bool stop_requested_ = false;
  std::string stop_reason_;
  absl::Time end_by_ = absl::InfiniteFuture();    // of an ending run
  absl::Time drain_by_ = absl::InfiniteFuture();  // of shards that leave; none does
  bool let_go_ = false;                           // they were told that they may
  absl::Time last_tick_ = absl::InfinitePast();
  absl::Time first_bound_ = absl::InfinitePast(), last_commit_ = absl::InfinitePast();
  absl::Time last_progress_ = absl::InfinitePast();
  absl::Time last_arrival_ = absl::InfinitePast();  // of a ready worker
  absl::Duration slowest_step_;
  std::optional<double> last_loss_, last_full_loss_;
};

}  // namespace sdp
