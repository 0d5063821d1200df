#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <queue>
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

// The folder of checkpoints of a simulated cluster, which outlives it.
struct SimDisk {
  struct Part {
    FloatBuffer value;
    OptimizerState state;
  };
  std::map<Step, CheckpointManifest> manifests;          // complete ones
  std::map<Step, std::map<FragmentId, Part>> fragments;  // also of incomplete ones
  std::set<Step> full;                                   // writing these fails

  // What a generation begins with that goes on from the newest complete checkpoint.
  GenerationStart Newest(Generation generation) const;
};

// A whole cluster in one process and one thread: coordinator, shards and workers as objects over a
// simulated network, store and clock. Messages take random times, overtake each other and come
// twice; nothing is lost while both ends live, as the transport repeats until it is answered.
// Worker processes may come and go; one that is told to register again does. A schedule is a pure
// function of `schedule_seed`.
class SimCluster {
 public:
  // What happens to the worker processes.
  struct Change {
    enum class What {
      kStart,   // one of this name begins, whatever became of the one before
      kKill,    // without a word
      kFreeze,  // it does nothing and hears nothing for `duration`
      kLeave,   // it asks to leave
    };
    absl::Duration at;
    What what = What::kKill;
    int worker = 0;
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

  const std::vector<StepMetrics>& metrics() const { return metrics_; }
  // The value of a fragment on the shard that owns it.
  const FloatBuffer& value(FragmentId fragment) const;
  // Bytes of values delivered to and gradients taken from a worker, by step.
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
  // units), and whose contribution to a fragment of a step counts.
  const std::map<std::pair<Step, Incarnation>, WorkerBinding>& bindings() const {
    return bindings_;
  }
  const std::map<std::pair<Step, FragmentId>, std::set<Incarnation>>& contributions() const {
    return contributions_;
  }
  const std::vector<std::string>& log() const { return log_; }

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
  // A worker process.
  struct Life {
    size_t name = 0;
    Incarnation incarnation;
    std::unique_ptr<Worker> worker;  // null: not admitted yet
    std::unique_ptr<Compute> compute;
    std::map<int64_t, std::vector<UnitFactor>> units;  // by plan
    bool alive = true;
    absl::Time frozen_until = absl::InfinitePast();
  };

  void At(absl::Duration delay, std::function<void()> run);
  void Send(std::function<void()> deliver);
  absl::Duration Delay();
  void Do(CoordinatorActions actions);
  void Do(size_t shard, ShardActions actions);
  void Do(Life& life, WorkerActions actions);
  // In the process, once it is not frozen; never, if it is gone by then.
  void In(Life& life, std::function<void()> run);
  void SendTo(Incarnation worker, std::function<void(Life&)> deliver);
  enum class Origin { kNew, kAgain };
  void StartLife(size_t name, Origin origin);
  void EndLife(Life& life, const absl::Status& why);
  void Beat(Life& life);
  void Tick();
  void Make(const Change& change);
  void Remember(Life& life, const WorkerBinding& binding);
  void Write(size_t shard, std::shared_ptr<Snapshot> snapshot);
  void StartShard(size_t shard, const ShardAdmission& admission);
  void StartWorker(Life& life, const WorkerAdmission& admission);

  const Options options_;
  RandomStream random_;
  absl::Time now_ = absl::UnixEpoch();
  int64_t next_event_ = 0;
  std::priority_queue<Event> events_;
  std::unique_ptr<Coordinator> coordinator_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::vector<std::unique_ptr<LocalModel>> models_;  // by name
  std::vector<std::unique_ptr<Life>> lives_;         // by instance number, from 1
  std::map<Incarnation, Life*> incarnations_;
  std::map<std::pair<Step, Incarnation>, WorkerBinding> bindings_;
  std::map<std::pair<Step, FragmentId>, std::set<Incarnation>> contributions_;
  std::vector<std::string> log_;
  std::vector<StepMetrics> metrics_;
  std::optional<absl::Status> end_;
  std::optional<Step> stop_after_;
  std::vector<int64_t> delivered_bytes_, pushed_bytes_;
  std::map<std::pair<size_t, FragmentId>, Step> versions_;
  std::set<std::tuple<size_t, Step, FragmentId>> counted_;
  int version_jumps_ = 0;
  int64_t most_retained_bytes_ = 0;
  SimDisk own_disk_;
  SimDisk& disk_;
  int64_t events_done_ = 0;
};

}  // namespace sdp
