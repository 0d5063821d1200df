#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/dtype.h"
#include "common/base/random.h"
#include "server/coordinator/logic/coordinator.h"
#include "server/shard/logic/shard.h"
#include "worker/logic/local_model.h"
#include "worker/logic/worker.h"

namespace sdp {

// The run folder of a simulated cluster, which outlives it: checkpoints, and what the coordinator
// has made durable.
struct SimDisk {
  struct Part {
    FloatBuffer value;
    OptimizerState state;
  };
  std::map<Step, CheckpointManifest> manifests;          // complete ones
  std::map<Step, std::map<FragmentId, Part>> fragments;  // also of incomplete ones
  std::set<Step> full;                                   // writing these fails
  std::vector<Record> records;
  std::vector<StepMetrics> metrics;  // of all generations

  // What a generation begins with that goes on from the newest complete checkpoint.
  GenerationStart Newest(Generation generation) const;
  // That no generation so far has had.
  Generation NextGeneration() const;
};

// A whole cluster in one process and one thread: coordinator, shards and workers as objects over a
// simulated network, store and clock. Messages take random times, overtake each other and come
// twice; nothing is lost while both ends live, as the transport repeats until it is answered, but
// for what is on a worker's streams to a shard when these break.
// Worker processes may come and go, shard processes may be lost and come back without their state,
// whereupon the run goes back to its newest checkpoint, the coordinator may be lost and come back
// with what it has stored; a process that is told to register again does. A schedule is a pure
// function of `schedule_seed`.
class SimCluster {
 public:
  // What happens to the processes.
  struct Change {
    enum class What {
      kStart,            // a worker of this name begins, whatever became of the one before
      kKill,             // a worker, without a word
      kFreeze,           // a worker does nothing and hears nothing for `duration`
      kLeave,            // a worker asks to leave
      kBreakStreams,     // a worker's to shard `number` modulo shards; open again after `duration`
      kKillShard,        // without a word; `duration` later another process comes as the same shard
      kFreezeShard,      // for `duration`
      kKillCoordinator,  // `duration` later another process takes up what it has stored
      kDrainShard,       // asks to leave, or somebody asks for it; `duration` after its end another
                         // process comes as the same shard
    };
    absl::Duration at;
    What what = What::kKill;
    int number = 0;  // of the worker or shard
    absl::Duration duration;
  };

  struct Options {
    Coordinator::Options run;  // catalog, layout, shards, workers, ...
    OptimizerOptions optimizer;
    uint64_t seed = 0;  // of initial values and the sample order
    bool shuffle = true;
    int64_t terms_per_sample = 1;
    DataSummary data;
    int64_t round_bytes = 0;
    int64_t snapshot_bytes = 0;
    bool skip_not_finite = false;
    Masking masking = Masking::kForward;
    WireType wire = WireType::kF32;  // of values; gradients come as the model gives them
    uint64_t schedule_seed = 0;
    double duplicates = 0.1;  // share of messages that come twice
    absl::Duration max_delay = absl::Milliseconds(20);
    absl::Duration limit = absl::Hours(1);  // of simulated time: beyond it the run is stuck
    SimDisk* disk = nullptr;                // null: one of its own
    int64_t max_events = 0;                 // everything is killed after so many; 0: never
    // With changes there are heartbeats and ticks, at this distance.
    std::vector<Change> changes;
    absl::Duration heartbeat = absl::Milliseconds(50);
  };
  using MakeModel = std::function<std::unique_ptr<LocalModel>(int worker)>;

  SimCluster(const Options& options, const MakeModel& make_model);
  ~SimCluster();

  // Runs to the end. OK - finished; else why it stopped. DeadlineExceeded - stuck, with what the
  // coordinator waits for. Aborted - killed.
  absl::Status Run();
  // The user asks to stop once this step is committed.
  void StopAfter(Step step) { stop_after_ = step; }

  // Those of each step's newest generation.
  const std::vector<StepMetrics>& metrics() const { return metrics_; }
  // Of the sample order, in the newest generation.
  const std::vector<int64_t>& reshuffles() const { return generation_options_.start.reshuffles; }
  // How often the run went back to a checkpoint.
  int times_back() const { return times_back_; }
  // How often the coordinator's process was another one.
  int restarts() const { return static_cast<int>(coordinator_life_); }
  // The value of a fragment on the shard that owns it.
  const FloatBuffer& value(FragmentId fragment) const;
  // Bytes of values delivered to and gradients to train taken from a worker, by step.
  int64_t delivered_bytes(int worker) const {
    return delivered_bytes_[static_cast<size_t>(worker)];
  }
  int64_t pushed_bytes(int worker) const { return pushed_bytes_[static_cast<size_t>(worker)]; }
  // Fragments for which the version did not advance by exactly one at a time.
  int version_jumps() const { return version_jumps_; }
  // The most that a shard kept of older versions when a reader said that it is done.
  int64_t most_retained_bytes() const { return most_retained_bytes_; }
  const Coordinator& coordinator() const { return *coordinator_; }
  int64_t events() const { return events_done_; }

  // What happened, to be checked against the method: what each worker was bound to (with its
  // units), and whose contribution to a fragment of a step counts. What a step back has made void
  // is not in it.
  const std::map<std::pair<Step, Incarnation>, WorkerBinding>& bindings() const {
    return bindings_;
  }
  using Contributions = std::map<std::pair<Step, FragmentId>, std::set<Incarnation>>;
  const Contributions& contributions() const { return contributions_; }
  const Contributions& dense_contributions() const { return dense_contributions_; }
  const std::vector<std::string>& log() const { return log_; }
  const SimDisk& disk() const { return disk_; }

 private:
  struct Event {
    absl::Time at;
    int64_t number;  // ties in order of creation
    std::function<void()> run;
    bool operator<(const Event& other) const {
      return at != other.at ? at > other.at : number > other.number;  // the earliest on top
    }
  };
  class Compute;  // one worker's compute thread
  struct Process {
    size_t name = 0;  // its number
    bool alive = true;
    absl::Time frozen_until = absl::InfinitePast();
    Generation generation;  // that it was admitted to
    uint64_t instance = 0, before = 0;
    int64_t coordinator = 0;  // the process that it knows of
  };
  // A worker's life.
  struct Life : Process {
    Incarnation incarnation;
    std::unique_ptr<Worker> worker;  // null: not admitted yet
    std::unique_ptr<Compute> compute;
    std::map<int64_t, std::vector<UnitFactor>> units;  // by plan
    bool ready = false, leaving = false;               // it has said so
    std::vector<int> breaks;  // [shards] of its streams, and their ends: odd while they are broken
    std::optional<WorkerActions::Ask> asking;  // not answered yet
  };
  struct ShardLife : Process {
    std::unique_ptr<Shard> shard;      // null: not admitted yet
    std::deque<CheckpointPart> parts;  // the last two
    Step reported = -2;                // done
    bool leaving = false, says_so = false;
    absl::Duration replaced_after;  // once it has left
  };

  void At(absl::Duration delay, std::function<void()> run);
  void Send(std::function<void()> deliver);
  absl::Duration Delay();
  void Do(CoordinatorActions actions);
  void Do(ShardLife& shard, ShardActions actions);
  void Do(Life& life, WorkerActions actions);
  // In the process, once it is not frozen; never, if it is gone by then.
  void In(Process& process, std::function<void()> run);
  void SendTo(Incarnation worker, std::function<void(Life&)> deliver);
  // Between a worker and a shard, either way: what is sent on streams that break is lost.
  void SendToShard(Life& from, size_t shard, std::function<void(ShardLife&)> deliver);
  void SendToWorker(const ShardLife& from, Incarnation worker, std::function<void(Life&)> deliver);
  // Whether what is sent on them now arrives.
  static std::function<bool()> Streams(const Life& life, size_t shard);
  void BreakStreams(Life& life, size_t shard, absl::Duration duration);
  // To the process that is this shard now; what comes before it has its state is lost.
  void SendTo(size_t shard, std::function<void(ShardLife&)> deliver);
  // From the coordinator: a shard of another generation does not listen.
  void Control(ShardId shard, std::function<void(ShardLife&)> deliver);
  // To the coordinator, which tells a member of another generation to register again.
  template <typename Member>
  void Tell(Member& from, std::function<void()> deliver);
  // `before`: the instance of the life that the process had before; 0: none.
  void StartLife(size_t name, uint64_t before);
  void EndLife(Life& life, const absl::Status& why);
  void StartShardLife(size_t shard, uint64_t before);
  void EndLife(ShardLife& life, const absl::Status& why);
  void Register(Life& life);
  void Register(ShardLife& life);
  void Beat(Life& life);
  void Beat(ShardLife& life);
  void Tick();
  void GoBack();
  void RestartCoordinator();
  // What a member does when it hears from another coordinator process than before.
  void Notice(Life& life);
  void Notice(ShardLife& life);
  void SayReady(Life& life);
  void SayLeave(Life& life);
  void SayLeave(ShardLife& life);
  void Drain(ShardLife& life, absl::Duration replaced_after);
  void Depart(ShardLife& life);
  void Ask(Life& life);
  void BeginAgain(const Coordinator::Options& options);
  void Void(Step step);
  void Make(const Change& change);
  void Remember(Life& life, const WorkerBinding& binding);
  void Write(ShardLife& shard, std::shared_ptr<Snapshot> snapshot);
  void StartShard(ShardLife& shard, const ShardAdmission& admission);
  void StartWorker(Life& life, const WorkerAdmission& admission);

  const Options options_;
  RandomStream random_;
  absl::Time now_ = absl::UnixEpoch();
  int64_t next_event_ = 0;
  std::vector<Event> events_;  // a heap
  std::unique_ptr<Coordinator> coordinator_;
  // Of the current process: what an earlier one was about to do is not done.
  int64_t coordinator_life_ = 0;
  Coordinator::Options generation_options_;
  absl::Time store_free_at_ = absl::InfinitePast();
  Generation generation_;
  bool going_back_ = false;
  int times_back_ = 0;
  std::vector<std::unique_ptr<ShardLife>> shard_lives_;  // by instance number, from 1
  std::vector<ShardLife*> shards_;                       // the newest of each name
  std::vector<std::unique_ptr<LocalModel>> models_;      // by name
  std::vector<std::unique_ptr<Life>> lives_;             // by instance number, from 1
  std::map<Incarnation, Life*> incarnations_;
  std::map<std::pair<Step, Incarnation>, WorkerBinding> bindings_;
  Contributions contributions_, dense_contributions_;
  std::vector<std::string> log_;
  std::vector<StepMetrics> metrics_;
  std::optional<absl::Status> end_;
  std::optional<Step> stop_after_;
  std::vector<int64_t> delivered_bytes_, pushed_bytes_;
  std::set<std::tuple<size_t, Step, FragmentId>> counted_;
  int version_jumps_ = 0;
  int64_t most_retained_bytes_ = 0;
  SimDisk own_disk_;
  SimDisk& disk_;
  int64_t events_done_ = 0;
};

}  // namespace sdp
