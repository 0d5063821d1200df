#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/allocated.h"
#include "common/base/float_buffer.h"
#include "common/base/ids.h"
#include "common/protocol/sample_cursor.h"

// What the roles tell each other, as plain data: the logic of each role takes and returns these;
// the services turn them into gRPC messages and frames. Delivery is at least once and in any order,
// so every receiver takes duplicates.
namespace sdp {

// ---- Between workers and shards
// -----------------------------------------------------------------------------------------

// A shard's answer to a push or a pull of one fragment.
enum class Answer {
  kReceived,         // the contribution is complete and counts
  kStepClosed,       // too late or twice: as received
  kUnknownBinding,   // the shard does not know the step yet: ask again later
  kRetryAfter,       // no memory for it now: ask again later
  kBadChecksum,      // damaged on the way: send again
  kStaleGeneration,  // the sender lives before a rollback: register again
  kStaleTerm,        // the fragment has moved: ask its new owner
  kExcluded,         // the sender is out: register again
  kNotFinite,        // NaN or infinity in the payload
  kInvalid,          // the sender is wrong; `detail` says in what
};
const char* AnswerName(Answer answer);

// What every request about a fragment carries.
struct RequestKey {
  Generation generation;
  ViewId view;
  Term term;
  Step step = 0;
  Incarnation worker;
};

// What a gradient is for.
enum class Purpose {
  kTrain,  // its holders' mean makes the next version
  kDense,  // of the full model, by all members: training's is compared with it, and nothing else
};

struct PushKey : RequestKey {
  FragmentId fragment;
  int64_t terms = 0;  // n: loss terms the mean gradient is over; 0: a header without payload
  Purpose purpose = Purpose::kTrain;
};

struct PushAnswer {
  Incarnation worker;
  Step step = 0;
  FragmentId fragment;
  Answer answer = Answer::kReceived;
  std::string detail;
  Purpose purpose = Purpose::kTrain;
};

struct PullRequest : RequestKey {
  std::vector<FragmentId> fragments;  // wanted at version `step`, most urgent first
};

// Backward masking: the worker reads no version up to and including `step` any more. It says so to
// each shard once it has all that it wants from it, at once where it has no samples; what it said
// last holds for all that it said before.
struct ReadsDone : RequestKey {};

// A fragment's value on its way to a worker, or (value null) why there is none.
struct Delivery {
  Incarnation worker;
  Step step = 0;
  FragmentId fragment;
  SharedValue value;
  Answer answer = Answer::kReceived;
  std::string detail;
};

// ---- Between shards and the coordinator
// ---------------------------------------------------------------------------------

struct ShardRegistration {
  std::string name;
  std::string address;  // where workers and the coordinator reach it
  std::string config_hash;
  uint64_t instance = 0;  // random per life: tells a repeated call from another life
  uint64_t before = 0;    // of the life that this process had before; 0: none
};

// What version `step` of every fragment is when a generation begins.
struct StartState {
  Step step = 0;           // the generation's first step
  std::string checkpoint;  // the folder of checkpoint `step`; empty at step 0
  // At step 0: a safetensors file of raw values, or the folder of a dense model, which is divided
  // by `factors`; empty: values are drawn.
  std::string init_path;
  std::vector<double> factors;  // [units] the full model's (common/plan/rescale.h)

  friend bool operator==(const StartState&, const StartState&) = default;
};

struct ShardAdmission {
  ShardId shard;
  int shards = 0;
  Generation generation;
  Term term;
  StartState start;
  std::string checkpoints;  // the folder into which checkpoints are written
  int64_t steps = 0;        // of the run: a schedule's end, which is in no config hash
};

// The holders of each unit, interned: many units have the same ones.
struct HolderSets {
  std::vector<Incarnation> members;  // of the view, in rank order
  std::vector<uint64_t> instances;   // [members] the number each registered with: proves who it is
  std::vector<std::vector<Incarnation>>
      sets;  // in rank order: the place in a set is the leaf in the sum's tree
  std::vector<int32_t> set_of_unit;  // [units]
};

// A binding as a shard needs it.
struct ShardBinding {
  Generation generation;
  ViewId view;
  Step step = 0;
  int64_t plan = 0;  // number of the plan (the rotation index)
  std::shared_ptr<const HolderSets>
      holders;              // null: those sent with an earlier binding of the same plan
  bool evaluate = false;    // version `step` stays until ReleaseEvaluation
  bool closing = false;     // no rounds; report the hashes of version `step`
  bool checkpoint = false;  // version `step` is written before any fragment goes beyond it
  // Report the holders' norms, and how the mean compares with the dense gradient, which all members
  // push. Version `step` stays until ReleaseEvaluation.
  bool diagnose = false;
};

struct NotFiniteReport {
  std::string member;  // name of the reporter
  Step step = 0;
  std::string what;    // "the loss", "the gradient of fragment 17 (layers.2.mlp)"
  Incarnation worker;  // whose it is; 0: nobody's alone
};

struct Reduced {  // all of a shard's rounds of a step are closed
  ShardId shard;
  Step step = 0;
  std::vector<double> squares;  // of the reduced gradients, per owned fragment in fragment order
  // Of each holder's gradient, fragment by fragment, in the order of its set: if asked for.
  std::vector<double> holder_squares;
  // train.on_nonfinite = "skip": the first thing that was not finite, and counts as without
  // samples. The step is to change nothing.
  std::optional<NotFiniteReport> not_finite = std::nullopt;
};

// A fragment's mean gradient m of a step beside the dense gradient d: that of the full model's mean
// loss, of which each member has pushed its samples' part. Those that were excluded before they
// pushed are in neither.
struct GradientComparison {
  int64_t terms = 0;  // loss terms that d is over; 0: m or d is missing, or d not finite
  double dot = 0;     // <m, d>
  double square = 0;  // |d|^2

  friend bool operator==(const GradientComparison&, const GradientComparison&) = default;
};

struct Diagnosed {  // all of a shard's fragments are compared in a step that is diagnosed
  ShardId shard;
  Step step = 0;
  std::vector<GradientComparison> fragments;  // per owned fragment in fragment order
};

struct StepDone {  // all of a shard's fragments have version step + 1
  ShardId shard;
  Step step = 0;
  int64_t uncovered = 0;          // fragments nobody had samples for
  int64_t peak_memory_bytes = 0;  // as StepReport's
  int64_t allocated_peak_bytes = 0;
};

struct StateHashes {  // of version `step`, at the closing binding
  ShardId shard;
  Step step = 0;
  std::vector<uint64_t> hashes;  // per owned fragment in fragment order
};

// A shard's file of a checkpoint, as the manifest has it (common/checkpoint/manifest.h).
struct CheckpointFile {
  struct Entry {
    FragmentId fragment;
    int64_t size = 0;     // elements
    int64_t updates = 0;  // that the optimizer has made
    uint64_t value = 0;   // checksums
    std::vector<uint64_t> moments;

    friend bool operator==(const Entry&, const Entry&) = default;
  };
  std::string name;
  int64_t bytes = 0;
  std::vector<Entry> fragments;  // ascending

  friend bool operator==(const CheckpointFile&, const CheckpointFile&) = default;
};

struct CheckpointPart {  // a shard has written its file of checkpoint `step`, or could not
  ShardId shard;
  Step step = 0;
  std::string error;  // empty: written
  CheckpointFile file;
};

// A worker is out, from this generation's step in flight on: rounds do without what it has not
// contributed, and nobody waits for its reads. Numbered from 1 in each generation, without gaps.
struct Exclusion {
  Generation generation;
  int64_t number = 0;
  Incarnation worker;
};

struct ClipScale {
  Generation generation;
  Step step = 0;
  double scale = 1;  // 0: the step changes nothing
};

// ---- Between workers and the coordinator
// --------------------------------------------------------------------------------

struct WorkerRegistration {
  std::string name;
  std::string config_hash;
  uint64_t instance = 0;
  // Of the life that this process had before, if it had one: it is out of the run. It takes the
  // place of that one, but not of another process that has come under its name meanwhile, as a new
  // one would: two of them would do so for ever.
  uint64_t before = 0;
  int64_t memory_bytes = 0;  // that it may use to train; 0: not limited
};

struct WorkerAdmission {
  Incarnation incarnation;
  Generation generation;
  Term term;
  std::vector<std::string> shards;  // addresses, by shard number
  std::vector<double> coverage;     // [units] c_j
  std::vector<int64_t> reshuffles;  // of the sample order (common/data/sample_order.h)
};

// What a worker that was not bound to any step yet asks for: the first that is bound with it.
inline constexpr Step kFirstOfMine = -1;

// What a worker found in its data files; all workers must agree.
struct DataSummary {
  int64_t train_samples = 0;
  uint64_t train_checksum = 0;
  int64_t validation_samples = 0;
  uint64_t validation_checksum = 0;

  friend bool operator==(const DataSummary&, const DataSummary&) = default;
};

struct UnitFactor {
  UnitId unit;
  double factor = 1;

  friend bool operator==(const UnitFactor&, const UnitFactor&) = default;
};

// A part of the validation samples, at one version of the full model.
struct EvaluationPart {
  Step version = 0;
  ViewId view;  // of step `version`
  int64_t first = 0;
  int64_t samples = 0;

  friend bool operator==(const EvaluationPart&, const EvaluationPart&) = default;
};

// A binding as one worker needs it: the answer to BeginStep.
struct WorkerBinding {
  Generation generation;
  ViewId view;
  Term term;
  Step step = 0;
  int64_t plan = 0;
  std::shared_ptr<const std::vector<UnitFactor>>
      units;                           // null: as in the plan the worker named in its question
  std::vector<PositionRange> portion;  // of the endless sample sequence
  int64_t micro_batch = 0;
  // Before it trains: of version `step`, and what a lost worker has left undone of earlier ones.
  std::vector<EvaluationPart> evaluations;
  // After these, and also before it trains: push the full model's gradient of the portion.
  bool diagnose = false;
  bool closing = false;   // no training in this step
  bool finished = false;  // nothing more is bound to it: leave

  int64_t samples() const { return CountOf(portion); }
};

struct StepReport {
  Incarnation worker;
  Step step = 0;
  double loss_sum = 0;  // nats, before the update
  int64_t terms = 0;
  absl::Duration pull, forward, backward,
      push;                  // where the step's time went, each once; pull: waiting for weights
  int64_t pulled_bytes = 0;  // payload and headers, as sent
  int64_t pushed_bytes = 0;
  int64_t peak_memory_bytes = 0;     // VmHWM
  int64_t allocated_peak_bytes = 0;  // tensors and buffers, a GPU's (common/base/allocated.h)
  MemoryLedger ledger;               // of these, by what they are for, as the step ends
};

struct EvaluationReport {
  Incarnation worker;
  Step step = 0;
  double loss_sum = 0;
  int64_t terms = 0;
  std::optional<int64_t> correct = std::nullopt;  // of classes: terms whose class was found
  int64_t first = 0;                              // of the part's samples
};

}  // namespace sdp
