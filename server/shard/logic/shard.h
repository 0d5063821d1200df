#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "common/base/float_buffer.h"
#include "common/base/ids.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "common/model/masking.h"
#include "common/protocol/messages.h"
#include "server/shard/logic/comparison.h"
#include "server/shard/logic/optimizer.h"
#include "server/shard/logic/round.h"

namespace sdp {

// Version `step` of all of a shard's fragments, for a checkpoint. Nothing in it changes, while the
// fragments go on: drop each part once it is on the disk, then say so with Written.
struct Snapshot {
  struct Part {
    FragmentId fragment;
    SharedValue value;
    std::shared_ptr<const OptimizerState> state;
  };
  Step step = 0;
  std::vector<Part> parts;  // ascending
};

// What a shard wants done after an event. Answers and deliveries go to workers, the rest to the
// coordinator.
struct ShardActions {
  std::vector<PushAnswer> answers;
  std::vector<Delivery> deliveries;
  std::vector<Reduced> reduced;
  std::vector<Diagnosed> diagnosed;
  std::vector<StepDone> done;
  std::vector<StateHashes> hashes;
  std::vector<NotFiniteReport> not_finite;
  std::vector<Snapshot> snapshots;  // to be written to the disk; then Written()
};

// Shard owns some of the model's fragments: their values, optimizer state and versions. It folds
// the holders' contributions of a step into each fragment and makes its next version. Event-driven:
// each call returns the actions to take; duplicates and any order of events are fine. Shapes: a
// fragment is [n] f32.  Threads: confined to one; no RPC, file or device work inside.
class Shard {
 public:
  struct Options {
    std::string name;
    const Catalog* catalog = nullptr;  // outlives the shard
    const Layout* layout = nullptr;    // outlives the shard
    ShardId shard;
    int shards = 1;
    Generation generation;
    Term term;
    Step first_step = 0;                  // of the generation: version of the start state
    Masking masking = Masking::kForward;  // kBackward: all members read all fragments
    OptimizerOptions optimizer;
    bool clip = false;  // updates wait for the coordinator's scale
    // What is not finite counts as without samples, and Reduced says so; needs `clip`. Else it is
    // refused and reported, which ends the run.
    bool skip_not_finite = false;
    int64_t round_bytes = 0;  // budget for sums of open rounds; 0: unlimited
    // Budget for what a checkpoint that is being written keeps of fragments that have gone on.
    // Where it is full, updates wait for the disk.
    int64_t snapshot_bytes = 0;
  };
  // Writes a fragment's version `first_step`: its value [n] f32 and, unless that is the initial
  // one, the optimizer state, which comes as a new one.
  using Load = std::function<void(FragmentId, absl::Span<float>, OptimizerState&)>;

  Shard(const Options& options, const Load& load);

  // The start state is loaded: StepDone(first_step - 1).
  ShardActions Start();
  // Repeats the last reports, to a coordinator that was started again: it may not have written what
  // they told.
  ShardActions Reconnected() const;

  ShardActions Bind(const ShardBinding& binding);
  // Delivers version `step` of each fragment as soon as it exists.
  ShardActions Pull(const PullRequest& request);
  // Adds one holder's complete contribution, mean gradient [n] over `key.terms` loss terms (empty
  // if 0). Idempotent per (generation, step, worker, fragment, purpose). The last expected holder
  // closes the round. Dense ones come from all members of a diagnosed step, and are only compared.
  ShardActions Push(const PushKey& key, FloatBuffer gradient);
  // Backward masking: ends the worker's reads. Until all members of a step's view have said so, or
  // contributed to the fragment, its version stays. One that makes no sense (another generation, a
  // step far ahead) is dropped.
  void Done(const ReadsDone& done);
  ShardActions Scale(const ClipScale& scale);
  // What the worker has contributed completely stays; for the rest, and for its reads, nobody waits
  // any more. Whatever it asks from now on is answered kExcluded.
  ShardActions Exclude(const Exclusion& exclusion);
  // The evaluation of version `step`, and its diagnosis, are complete.
  ShardActions ReleaseEvaluation(Step step);
  // A part of the snapshot of version `step` is on the disk and dropped.
  ShardActions Written(Step step, FragmentId fragment);
  // The snapshot of version `step` is on the disk, or given up, and all of it dropped.
  ShardActions Written(Step step);

  // Whether the shard would look at a push with this key, before its payload is read. kReceived: go
  // on.
  Answer Admit(const PushKey& key, int64_t elements, std::string* detail) const;

  const std::vector<FragmentId>& owned() const { return owned_; }
  bool owns(FragmentId fragment) const { return fragments_.contains(fragment); }
  // The newest version's number and value.
  Step version(FragmentId fragment) const { return fragments_.at(fragment).version; }
  SharedValue value(FragmentId fragment) const { return fragments_.at(fragment).value; }

  struct Counts {
    int64_t value_bytes = 0, optimizer_bytes = 0, retained_bytes = 0, round_bytes = 0;
    int64_t snapshot_bytes = 0;
    int64_t waiting_for_disk = 0;  // fragments whose update waits for a checkpoint's file
    int64_t open_rounds = 0, pending_pulls = 0, uncovered_fragment_steps = 0;
    Step oldest_version = 0;
  };
  Counts counts() const;      // walks all fragments
  bool WaitsForDisk() const;  // an update does

  // What is owned of one unit's block, and how far the round is that has fewest contributions.
  struct BlockState {
    UnitId unit;
    int64_t fragments = 0, value_bytes = 0;
    Step oldest_version = 0, newest_version = 0;
    int64_t open_rounds = 0;                 // of fragments at their version
    int64_t contributions = 0, holders = 0;  // of the one with fewest; without an open one 0
    std::vector<Incarnation> missing;        // of that one
  };
  // Of the units [first, first + count) of which something is owned, in order.
  std::vector<BlockState> blocks(UnitId first, int64_t count) const;
  // Who has not contributed to a round that is open at the oldest version, ascending; so many at
  // most.
  std::vector<Incarnation> awaited(size_t most) const;

 private:
  struct Range {  // of a fragment's elements
    int64_t begin = 0, end = 0;
    double weight_decay = 0;
  };
  struct Owned {
    size_t index = 0;  // in owned_
    std::shared_ptr<FloatBuffer> value;
    std::shared_ptr<OptimizerState> state;
    Step version = 0;
    std::vector<Range> ranges;
    std::map<Step, Round> rounds;            // of `version`, and the next one's headers
    std::map<Step, SharedValue> retained;    // older versions that somebody still reads
    std::map<Step, Comparison> comparisons;  // of steps that are diagnosed
    std::vector<RequestKey> waiting;         // pulls of versions that do not exist yet
  };
  // A plan's holders with the leaf of each in its set's sum.
  struct Holders {
    std::shared_ptr<const HolderSets> sets;
    std::vector<absl::flat_hash_map<Incarnation, int>> leaves;  // [sets]
    absl::flat_hash_map<Incarnation, int> members;              // with the rank
  };
  struct Bound {
    ShardBinding binding;
    std::shared_ptr<const Holders> holders;
    bool evaluating = false;                   // any member may read all fragments
    absl::flat_hash_set<Incarnation> reading;  // backward masking: members that are not done
    bool snapshot_due = false;                 // and not taken yet: no fragment goes beyond it
    std::optional<double> scale;               // of clipping, once it has come
    std::vector<GradientComparison> compared;  // [owned], in a step that is diagnosed
    size_t to_compare = 0;
  };
  struct Progress {  // of a step over the owned fragments
    size_t closed = 0, done = 0;
    int64_t uncovered = 0;
    std::vector<double> squares;
    std::vector<std::vector<double>> holder_squares;  // [owned], if they are wanted
    std::optional<NotFiniteReport> not_finite;        // the first, in a step that is skipped for it
  };

  const absl::flat_hash_map<Incarnation, int>& Leaves(const Bound& bound, FragmentId id) const;
  // Holders of the fragment that its round of `step` waits for; empty: it is closed, or the step
  // not bound.
  std::vector<Incarnation> MissingOf(FragmentId id, const Owned& owned, Step step) const;
  Answer Check(const RequestKey& key, FragmentId id, std::string* detail) const;
  void Activate(const ShardBinding& binding, ShardActions* actions);
  // Whether somebody may still ask for the fragment at the bound step's version once its round is
  // closed.
  bool Reads(const Bound& bound, FragmentId id) const;
  void PullKnown(const RequestKey& request, FragmentId id, const Bound& bound,
                 ShardActions* actions);
  void Deliver(const RequestKey& key, FragmentId id, Owned& owned, ShardActions* actions);
  void PushKnown(const PushKey& key, FloatBuffer gradient, ShardActions* actions);
  // comparison.cc
  Answer AddDense(const PushKey& key, FloatBuffer gradient, ShardActions* actions);
  void LeaveDenseOut(FragmentId id, Step step, int member, ShardActions* actions);
  void Compare(FragmentId id, Step step, ShardActions* actions);
  bool OverBudget(const PushKey& key, int64_t bytes) const;
  void TakeSnapshot(ShardActions* actions);
  bool InSnapshot(const Owned& owned) const;
  static int64_t SnapshotBytes(const Owned& owned);
  // Whether the fragment's closed round of its version may become the next one.
  bool MayAdvance(const Owned& owned) const;
  // If it waits, and may. Whether it did.
  bool AdvanceClosed(FragmentId id, ShardActions* actions);
  void AdvanceClosed(ShardActions* actions);  // all
  void LeaveOut(Step step, Incarnation worker, ShardActions* actions);
  void LeaveRoundOut(FragmentId id, Step step, Incarnation worker, const Holders& holders,
                     ShardActions* actions);
  void CloseReady(FragmentId id, ShardActions* actions);
  // False: it ends the run.
  bool SkipsNotFinite(Step step, std::string what, Incarnation worker, ShardActions* actions);
  void Advance(FragmentId id, Step step, double scale, ShardActions* actions);
  void Report(Step step, ShardActions* actions);
  void ReportHashes(ShardActions* actions);
  // Version `step` goes, and its binding once it is committed, if nobody reads it any more.
  void Forget(Step step);
  std::string Describe(FragmentId id) const;
  template <typename T>
  static void Remember(std::vector<T>& last, T report) {
    last.push_back(std::move(report));
    if (last.size() > kRepeatedReports) last.erase(last.begin());
  }

  // Of a kind. Lines of metrics wait for evaluations, some steps long.
  static constexpr size_t kRepeatedReports = 8;

  const Options options_;
  const std::unique_ptr<Optimizer> optimizer_;
  std::vector<FragmentId> owned_;  // ascending
  absl::flat_hash_map<FragmentId, Owned> fragments_;
  std::map<Step, Bound> bindings_;          // until their step is done, and read by all its readers
  std::map<Step, ShardBinding> unplanned_;  // their plan's holders have not come yet
  std::map<int64_t, std::shared_ptr<const Holders>> plans_;  // the last two
  // What came before its binding, each once, so that repeating it costs nothing.
  std::map<Step, std::map<std::pair<Incarnation, FragmentId>, RequestKey>> early_pulls_;
  std::map<Step, std::map<std::tuple<Incarnation, FragmentId, Purpose>, PushKey>> early_headers_;
  absl::flat_hash_set<Incarnation> excluded_;
  absl::flat_hash_map<Incarnation, Step> done_;  // backward masking: what each reader said last
  std::map<Step, Progress> progress_;
  // Closed rounds whose fragments wait for the clipping's scale, or for a snapshot.
  std::set<std::pair<Step, FragmentId>> held_back_;
  Step committed_;                     // the last step that all owned fragments have finished
  std::vector<Reduced> last_reduced_;  // at most eight, as the next ones
  std::vector<Diagnosed> last_diagnosed_;
  std::vector<StepDone> last_done_;
  std::optional<Step> writing_;         // version of which a snapshot is being written
  std::map<FragmentId, int64_t> kept_;  // bytes that it alone holds
  int64_t snapshot_bytes_ = 0;          // sum of these
  std::optional<Step> closing_;         // version whose hashes are wanted
  std::optional<StateHashes> hashes_;
  int64_t round_bytes_ = 0;
  int64_t uncovered_ = 0;
};

}  // namespace sdp
