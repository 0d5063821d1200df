#include "tests/cluster/sim_cluster.h"

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/model/initial_values.h"

namespace sdp {
namespace {

constexpr absl::Duration kGrace = absl::Seconds(3);

// Of what is delivered: copies of a message have what it says in common.
template <typename Deliver>
std::shared_ptr<const Deliver> Shared(Deliver deliver) {
  return std::make_shared<const Deliver>(std::move(deliver));
}

}  // namespace

// Plays one worker's compute thread: takes tasks in order, starts one when all its weights are
// here, and lets what the model does happen as events over simulated time.
class SimCluster::Compute {
 public:
  Compute(SimCluster* cluster, Life* life, LocalModel* model)
      : cluster_(cluster), life_(life), model_(model) {}

  using Task = std::variant<TrainTask, EvaluateTask, DenseTask>;
  void Add(Task task) {
    tasks_.push_back(std::move(task));
    Next();
  }
  void UnitHere(Step step, UnitId unit, std::vector<WireBuffer> fragments) {
    units_[{step, unit}] = std::move(fragments);
    if (wanted_.erase({step, unit}) > 0) WantNext();
    Next();
  }

 private:
  // Hands over what has come; remembers what the model says, in order.
  class Recorder final : public Exchange {
   public:
    Recorder(Compute* compute, Step step) : compute_(compute), step_(step) {}
    void Want(UnitId) override {}
    absl::StatusOr<std::vector<WireBuffer>> Take(UnitId unit) override {
      const auto it = compute_->units_.find({step_, unit});
      if (it == compute_->units_.end())
        return absl::InternalError(absl::StrCat("unit ", unit.value(), " is not here"));
      if (!compute_->keep_) {
        std::vector<WireBuffer> fragments = std::move(it->second);
        compute_->units_.erase(it);
        return fragments;
      }
      std::vector<WireBuffer> copy;  // an evaluation may walk several times
      for (const WireBuffer& fragment : it->second) copy.push_back(fragment.Clone());
      return copy;
    }
    void Released(UnitId unit) override {
      events.push_back([compute = compute_, step = step_, unit] {
        return compute->worker().OnReleased(step, unit);
      });
    }
    void BackwardBegins() override {
      events.push_back(
          [compute = compute_, step = step_] { return compute->worker().OnBackwardBegins(step); });
    }
    void Gradient(FragmentId fragment, WireBuffer gradient) override {
      auto shared = std::make_shared<WireBuffer>(std::move(gradient));
      events.push_back([compute = compute_, step = step_, fragment, shared] {
        return compute->worker().OnGradient(step, fragment, std::move(*shared));
      });
    }
    std::vector<std::function<WorkerActions()>> events;

   private:
    Compute* const compute_;
    const Step step_;
  };

  Worker& worker() { return *life_->worker; }

  void Next() {
    if (busy_ || tasks_.empty()) return;
    if (const auto* train = std::get_if<TrainTask>(&tasks_.front())) {
      for (const HeldUnit& unit : train->units) {
        if (!units_.contains({train->step, unit.unit})) return;
      }
      for (const UnitId unit : train->read_only) {
        if (!units_.contains({train->step, unit})) return;
      }
      busy_ = true;
      Recorder recorder(this, train->step);
      auto result = model_->Train(*train, recorder);
      const Step step = train->step;
      Emit(std::move(recorder.events),
           [this, step, result] { return worker().OnTrained(step, result, cluster_->now_); });
      return;
    }
    const auto* dense = std::get_if<DenseTask>(&tasks_.front());
    const auto* evaluate = std::get_if<EvaluateTask>(&tasks_.front());
    walked_ = dense != nullptr ? dense->step : evaluate->step;
    const std::vector<HeldUnit>& units = dense != nullptr ? dense->units : evaluate->units;
    if (!wants_.has_value()) {
      wants_ = std::deque<UnitId>();
      for (const HeldUnit& unit : units) wants_->push_back(unit.unit);
      WantNext();
      WantNext();
      return;
    }
    for (const HeldUnit& unit : units) {
      if (!units_.contains({walked_, unit.unit})) return;
    }
    busy_ = true;
    wants_.reset();
    keep_ = true;
    Recorder recorder(this, walked_);
    std::function<WorkerActions()> last;
    if (dense != nullptr) {
      last = [this, step = walked_, result = model_->DenseGradient(*dense, recorder)] {
        return worker().OnDense(step, result);
      };
    } else {
      last = [this, step = walked_, result = model_->Evaluate(*evaluate, recorder)] {
        return worker().OnEvaluated(step, result);
      };
    }
    keep_ = false;
    std::erase_if(units_, [&](const auto& unit) { return unit.first.first == walked_; });
    Emit(std::move(recorder.events), std::move(last));
  }

  void WantNext() {
    if (!wants_.has_value() || wants_->empty()) return;
    const Step step = walked_;
    const UnitId unit = wants_->front();
    wants_->pop_front();
    wanted_.insert({step, unit});
    cluster_->At(cluster_->Delay(), [=, this] {
      cluster_->In(*life_, [=, this] { cluster_->Do(*life_, worker().OnWant(step, unit)); });
    });
  }

  // The events happen one after another, then `last`, then the next task.
  void Emit(std::vector<std::function<WorkerActions()>> events,
            std::function<WorkerActions()> last) {
    absl::Duration at;
    for (auto& event : events) {
      at += cluster_->Delay() / 8;
      cluster_->At(
          at, [=, this] { cluster_->In(*life_, [=, this] { cluster_->Do(*life_, event()); }); });
    }
    cluster_->At(at + cluster_->Delay() / 8, [=, this] {
      cluster_->In(*life_, [=, this] {
        busy_ = false;
        tasks_.pop_front();
        cluster_->Do(*life_, last());
        Next();
      });
    });
  }

  SimCluster* const cluster_;
  Life* const life_;
  LocalModel* const model_;
  std::deque<Task> tasks_;
  std::map<std::pair<Step, UnitId>, std::vector<WireBuffer>> units_;
  Step walked_ = 0;  // the version of the full model's walk
  std::optional<std::deque<UnitId>> wants_;
  std::set<std::pair<Step, UnitId>> wanted_;
  bool busy_ = false;
  bool keep_ = false;
};

SimCluster::SimCluster(const Options& options, const MakeModel& make_model)
    : options_(options),
      random_(options.schedule_seed, 0x51),
      coordinator_(std::make_unique<Coordinator>(options.run)),
      generation_options_(options.run),
      generation_(options.run.start.generation),
      shards_(static_cast<size_t>(options.run.shards)),
      disk_(options.disk != nullptr ? *options.disk : own_disk_) {
  int names = options.run.workers;
  for (const Change& change : options.changes) {
    if (change.what < Change::What::kKillShard) names = std::max(names, change.number + 1);
  }
  for (int name = 0; name < names; ++name) models_.push_back(make_model(name));
  delivered_bytes_.resize(models_.size());
  pushed_bytes_.resize(models_.size());
}

SimCluster::~SimCluster() = default;

absl::Duration SimCluster::Delay() {
  // Mostly short, sometimes long, so that messages overtake each other.
  const double u = static_cast<double>(random_.Below(1 << 20)) / (1 << 20);
  return options_.max_delay * (u * u * u);
}

void SimCluster::At(absl::Duration delay, std::function<void()> run) {
  events_.push_back({now_ + delay, next_event_++, std::move(run)});
  std::push_heap(events_.begin(), events_.end());
}

void SimCluster::Send(std::function<void()> deliver) {
  if (options_.duplicates > 0 &&
      static_cast<double>(random_.Below(1000)) < options_.duplicates * 1000) {
    At(Delay() + Delay(), deliver);
  }
  At(Delay(), std::move(deliver));
}

absl::Status SimCluster::Run() {
  Do(coordinator_->Start(now_));
  for (size_t s = 0; s < shards_.size(); ++s) StartShardLife(s, 0);
  for (size_t w = 0; w < static_cast<size_t>(options_.run.workers); ++w) StartLife(w, 0);
  for (const Change& change : options_.changes) At(change.at, [=, this] { Make(change); });
  if (!options_.changes.empty()) Tick();
  const absl::Time limit = now_ + options_.limit;
  while (!end_.has_value() && !events_.empty() && now_ < limit) {
    if (options_.max_events > 0 && events_done_ == options_.max_events)
      return absl::AbortedError("killed");
    ++events_done_;
    std::pop_heap(events_.begin(), events_.end());
    const Event event = std::move(events_.back());
    events_.pop_back();
    now_ = event.at;
    event.run();
  }
  if (end_.has_value()) return *end_;
  return absl::DeadlineExceededError(absl::StrCat(
      "stuck with schedule ", options_.schedule_seed, " after ", metrics_.size(),
      " steps: ", coordinator_ == nullptr ? "" : coordinator_->status(now_).waiting_for));
}

void SimCluster::Tick() {
  if (coordinator_ != nullptr) Do(coordinator_->Tick(now_));
  At(options_.heartbeat, [this] { Tick(); });
}

void SimCluster::Make(const Change& change) {
  const auto name = static_cast<size_t>(change.number);
  if (change.what == Change::What::kKillCoordinator) {
    if (coordinator_ == nullptr) return;
    coordinator_ = nullptr;
    ++coordinator_life_;
    At(change.duration, [this] { RestartCoordinator(); });
    return;
  }
  if (change.what == Change::What::kDrainShard)
    return Drain(*shards_[name % shards_.size()], change.duration);
  if (change.what == Change::What::kKillShard || change.what == Change::What::kFreezeShard) {
    ShardLife& shard = *shards_[name % shards_.size()];
    if (change.what == Change::What::kFreezeShard) {
      shard.frozen_until = now_ + change.duration;
    } else if (shard.alive) {
      shard.alive = false;
      At(change.duration, [this, number = shard.name] { StartShardLife(number, 0); });
    }
    return;
  }
  Life* newest = nullptr;
  for (const auto& life : lives_) {
    if (life->name == name && life->alive) newest = life.get();
  }
  switch (change.what) {
    case Change::What::kStart:
      return StartLife(name, 0);
    case Change::What::kKill:
      if (newest != nullptr) newest->alive = false;
      return;
    case Change::What::kFreeze:
      if (newest != nullptr) newest->frozen_until = now_ + change.duration;
      return;
    case Change::What::kLeave:
      if (newest == nullptr || newest->worker == nullptr) return;
      In(*newest, [this, newest] {
        newest->leaving = true;
        SayLeave(*newest);
      });
      return;
    case Change::What::kBreakStreams:
      if (newest != nullptr) BreakStreams(*newest, name % shards_.size(), change.duration);
      return;
    case Change::What::kKillShard:
    case Change::What::kFreezeShard:
    case Change::What::kKillCoordinator:
    case Change::What::kDrainShard:
      return;  // above
  }
}

// By SIGTERM, or by a request to the coordinator, which it hears of by Finish alone.
void SimCluster::Drain(ShardLife& life, absl::Duration replaced_after) {
  if (!life.alive || life.shard == nullptr || life.leaving) return;
  life.leaving = true;
  life.replaced_after = replaced_after;
  life.says_so = random_.Below(2) == 0;
  if (life.says_so) {
    In(life, [this, &life] { SayLeave(life); });
    At(kGrace, [this, &life] { Depart(life); });
    return;
  }
  Send([this, name = life.name] {
    absl::Status error;
    if (coordinator_ != nullptr)
      Do(coordinator_->Drain(absl::StrCat("shard-", name), now_, &error));
  });
}

void SimCluster::SayLeave(ShardLife& life) {
  Tell(life, [this, &life] {
    Do(coordinator_->LeaveShard(ShardId(static_cast<int32_t>(life.name)), now_));
  });
}

// Its process ends. At the end of the run none comes after it.
void SimCluster::Depart(ShardLife& life) {
  const bool over = !disk_.metrics.empty() && disk_.metrics.back().state_hash.has_value();
  if (!std::exchange(life.alive, false) || over) return;
  At(life.replaced_after, [this, name = life.name] { StartShardLife(name, 0); });
}

void SimCluster::StartLife(size_t name, uint64_t before) {
  lives_.push_back(std::make_unique<Life>());
  Life& life = *lives_.back();
  life.name = name;
  life.instance = lives_.size();
  life.before = before;
  life.breaks.resize(shards_.size());
  life.compute = std::make_unique<Compute>(this, &life, models_[name].get());
  Register(life);
}

// Asked again until it is answered, as long polls are.
void SimCluster::Register(Life& life) {
  In(life, [this, &life] {
    if (life.worker != nullptr) return;
    Send([this, &life] {
      if (going_back_ || coordinator_ == nullptr) return;
      Do(coordinator_->RegisterWorker({absl::StrCat("worker-", life.name), options_.run.config_hash,
                                       life.instance, life.before},
                                      now_));
    });
    if (!options_.changes.empty()) At(4 * options_.heartbeat, [this, &life] { Register(life); });
  });
}

void SimCluster::StartShardLife(size_t name, uint64_t before) {
  shard_lives_.push_back(std::make_unique<ShardLife>());
  ShardLife& life = *shard_lives_.back();
  life.name = name;
  life.instance = shard_lives_.size();
  life.before = before;
  shards_[name] = &life;
  Register(life);
}

void SimCluster::Register(ShardLife& life) {
  In(life, [this, &life] {
    if (life.shard != nullptr) return;
    Send([this, &life] {
      if (going_back_ || coordinator_ == nullptr) return;
      Do(coordinator_->RegisterShard(
          {absl::StrCat("shard-", life.name), absl::StrCat("sim:", life.instance),
           options_.run.config_hash, life.instance, life.before},
          now_));
    });
    if (!options_.changes.empty()) At(4 * options_.heartbeat, [this, &life] { Register(life); });
  });
}

void SimCluster::EndLife(ShardLife& life, const absl::Status& why) {
  if (!life.alive) return;
  if (life.leaving && life.says_so && absl::IsAborted(why)) return Depart(life);
  life.alive = false;
  if (shards_[life.name] != &life) return;  // another has taken its place
  if (absl::IsAborted(why)) {
    StartShardLife(life.name, life.instance);
  } else if (!why.ok()) {
    end_ = Context(why, absl::StrCat("shard-", life.name));
  }
}

void SimCluster::EndLife(Life& life, const absl::Status& why) {
  if (!life.alive) return;
  life.alive = false;
  if (absl::IsAborted(why)) {
    StartLife(life.name, life.instance);
  } else if (!why.ok()) {
    end_ = Context(why, absl::StrCat("worker-", life.name));
  }
}

void SimCluster::In(Process& process, std::function<void()> run) {
  if (!process.alive) return;
  if (now_ >= process.frozen_until) return run();
  At(process.frozen_until - now_, [this, &process, run = std::move(run)] { In(process, run); });
}

void SimCluster::SendTo(size_t shard, std::function<void(ShardLife&)> deliver) {
  Send([this, shard, deliver = Shared(std::move(deliver))] {
    ShardLife& life = *shards_[shard];
    In(life, [&life, deliver] {
      if (life.shard != nullptr) (*deliver)(life);
    });
  });
}

void SimCluster::Control(ShardId shard, std::function<void(ShardLife&)> deliver) {
  SendTo(static_cast<size_t>(shard.value()),
         [generation = generation_, deliver = std::move(deliver)](ShardLife& life) {
           if (life.generation == generation) deliver(life);
         });
}

template <typename Member>
void SimCluster::Tell(Member& from, std::function<void()> deliver) {
  Send([this, &from, generation = from.generation, deliver = std::move(deliver)] {
    if (coordinator_ == nullptr) {  // it is tried again
      return At(options_.heartbeat, [this, &from, deliver] {
        In(from, [this, &from, deliver] { Tell(from, deliver); });
      });
    }
    if (generation == generation_) return deliver();
    In(from, [this, &from] { EndLife(from, absl::AbortedError("another generation")); });
  });
}

void SimCluster::SendTo(Incarnation worker, std::function<void(Life&)> deliver) {
  const auto life = incarnations_.find(worker);
  if (life == incarnations_.end()) return;
  Send([this, to = life->second, deliver = Shared(std::move(deliver))] {
    In(*to, [to, deliver] { (*deliver)(*to); });
  });
}

std::function<bool()> SimCluster::Streams(const Life& life, size_t shard) {
  return [&now = life.breaks[shard], sent = life.breaks[shard]] {
    return sent % 2 == 0 && now == sent;
  };
}

void SimCluster::SendToShard(Life& from, size_t shard, std::function<void(ShardLife&)> deliver) {
  SendTo(shard, [arrives = Streams(from, shard), deliver = std::move(deliver)](ShardLife& life) {
    if (arrives()) deliver(life);
  });
}

void SimCluster::SendToWorker(const ShardLife& from, Incarnation worker,
                              std::function<void(Life&)> deliver) {
  const auto life = incarnations_.find(worker);
  if (life == incarnations_.end()) return;
  SendTo(worker,
         [arrives = Streams(*life->second, from.name), deliver = std::move(deliver)](Life& to) {
           if (arrives()) deliver(to);
         });
}

void SimCluster::BreakStreams(Life& life, size_t shard, absl::Duration duration) {
  if (life.breaks[shard] % 2 == 1) return;
  ++life.breaks[shard];
  At(duration, [this, &life, shard] {
    ++life.breaks[shard];
    In(life, [this, &life, shard] {
      if (life.worker == nullptr) return;
      Do(life, life.worker->Reconnected(ShardId(static_cast<int32_t>(shard))));
    });
  });
}

void SimCluster::Beat(Life& life) {
  In(life, [this, &life] {
    Tell(life, [this, &life] {
      absl::Status error;
      Do(coordinator_->WorkerHeartbeat(life.incarnation, life.worker->phase(), life.worker->waits(),
                                       now_, &error));
      if (!error.ok()) In(life, [this, &life, error] { EndLife(life, error); });
    });
    At(options_.heartbeat, [this, &life] { Beat(life); });
  });
}

void SimCluster::Beat(ShardLife& life) {
  In(life, [this, &life] {
    Tell(life, [this, &life] {
      Do(coordinator_->ShardHeartbeat(ShardId(static_cast<int32_t>(life.name)), "", 0, now_));
    });
    At(options_.heartbeat, [this, &life] { Beat(life); });
  });
}

void SimCluster::GoBack() {
  ++times_back_;
  GenerationStart start = coordinator_->NextStart();
  generation_ = start.generation;
  going_back_ = true;
  Coordinator::Options options = options_.run;
  options.workers = coordinator_->members();
  if (!disk_.manifests.empty()) {
    const CheckpointManifest& manifest = disk_.manifests.rbegin()->second;
    start.state.step = manifest.step;
    start.state.checkpoint = "simulated";
    start.cursor = manifest.cursor;
  }
  if (std::exchange(start.reshuffle, false)) start.reshuffles.push_back(start.cursor.next());
  options.start = start;
  At(4 * Delay(), [this, options, life = coordinator_life_] {
    if (life == coordinator_life_) BeginAgain(options);
  });
}

// As a process does that finds the store of one before it.
void SimCluster::RestartCoordinator() {
  Coordinator::Options options = generation_options_;
  options.start.state.step = 0;
  options.start.state.checkpoint = "";
  options.start.cursor = SampleCursor();
  bool begun = false;
  for (const Record& record : disk_.records) {
    if (const auto* generation = std::get_if<GenerationRecord>(&record)) {
      begun = true;
      options.start.generation = generation->generation;
      options.start.state.step = generation->step;
      options.start.reshuffles = generation->reshuffles;
    } else if (const auto* member = std::get_if<MemberRecord>(&record)) {
      options.start.last_incarnation =
          std::max(options.start.last_incarnation, member->incarnation);
    } else if (const auto* view = std::get_if<ViewRecord>(&record)) {
      options.start.last_view = std::max(options.start.last_view, view->view);
    }
  }
  if (options.start.state.step > 0) {
    options.start.state.checkpoint = "simulated";
    const auto manifest = disk_.manifests.find(options.start.state.step);
    if (manifest != disk_.manifests.end()) options.start.cursor = manifest->second.cursor;
  }
  going_back_ = false;
  generation_ = options.start.generation;
  options.start.losses.clear();
  for (const StepMetrics& line : disk_.metrics) {
    if (line.loss.has_value()) options.start.losses.push_back(*line.loss);
  }
  generation_options_ = options;
  coordinator_ = std::make_unique<Coordinator>(options);
  if (!begun) return Do(coordinator_->Start(now_));
  Coordinator::Written written;
  if (!disk_.metrics.empty() && disk_.metrics.back().generation == generation_) {
    written.line = disk_.metrics.back().step;
    if (disk_.metrics.back().state_hash.has_value()) {  // only members may not know that it is over
      end_ = absl::OkStatus();
      return;
    }
  }
  for (const auto& [step, manifest] : disk_.manifests) written.checkpoints.insert(step);
  Do(coordinator_->Restore(disk_.records, written, now_));
  // The transport asks again at once; members notice another process by their next heartbeat, or by
  // its first binding.
  for (const auto& life : lives_) {
    if (life->worker == nullptr || life->generation != generation_) continue;
    At(2 * Delay(), [this, &life = *life] {
      In(life, [this, &life] {
        if (life.asking.has_value()) Ask(life);
      });
    });
    At(Delay() + random_.Below(4) * options_.heartbeat,
       [this, &life = *life] { In(life, [this, &life] { Notice(life); }); });
  }
  for (ShardLife* shard : shards_) {
    if (shard->shard == nullptr || shard->generation != generation_) continue;
    At(Delay() + random_.Below(4) * options_.heartbeat,
       [this, shard] { In(*shard, [this, shard] { Notice(*shard); }); });
  }
}

void SimCluster::Notice(Life& life) {
  if (std::exchange(life.coordinator, coordinator_life_) == coordinator_life_) return;
  if (life.ready) SayReady(life);
  if (life.leaving) SayLeave(life);
  Do(life, life.worker->CoordinatorRestarted());
}

void SimCluster::Notice(ShardLife& life) {
  if (std::exchange(life.coordinator, coordinator_life_) == coordinator_life_) return;
  Do(life, life.shard->Reconnected());
  if (life.says_so) SayLeave(life);
  for (const CheckpointPart& part : life.parts)
    Tell(life, [=, this] { Do(coordinator_->OnCheckpointPart(part, now_)); });
}

void SimCluster::SayReady(Life& life) {
  life.ready = true;
  Tell(life, [this, &life] {
    absl::Status error;
    Do(coordinator_->Ready(life.incarnation, options_.data, now_, &error));
    if (!error.ok()) In(life, [this, &life, error] { EndLife(life, error); });
  });
}

void SimCluster::SayLeave(Life& life) {
  Tell(life, [this, &life] { Do(coordinator_->Leave(life.incarnation, now_)); });
}

void SimCluster::Ask(Life& life) {
  Tell(life, [this, &life, ask = *life.asking] {
    absl::Status error;
    Do(coordinator_->BeginStep(life.incarnation, ask.step, ask.known_plan, now_, &error));
    if (absl::IsUnavailable(error)) {  // it is tried again
      At(options_.heartbeat, [this, &life] {
        In(life, [this, &life] {
          if (life.asking.has_value()) Ask(life);
        });
      });
    } else if (!error.ok()) {
      In(life, [this, &life, error] { EndLife(life, error); });
    }
  });
}

void SimCluster::BeginAgain(const Coordinator::Options& options) {
  generation_options_ = options;
  coordinator_ = std::make_unique<Coordinator>(options);
  going_back_ = false;
  Do(coordinator_->Start(now_));
}

// A generation has begun: what came after its checkpoint is void.
void SimCluster::Void(Step step) {
  std::erase_if(bindings_, [&](const auto& one) { return one.first.first >= step; });
  std::erase_if(contributions_, [&](const auto& one) { return one.first.first >= step; });
  std::erase_if(dense_contributions_, [&](const auto& one) { return one.first.first >= step; });
  std::erase_if(metrics_, [&](const StepMetrics& one) { return one.step >= step; });
}

void SimCluster::Remember(Life& life, const WorkerBinding& binding) {
  if (binding.finished) return;
  WorkerBinding whole = binding;
  if (binding.units != nullptr) {
    life.units[binding.plan] = *binding.units;
  } else if (life.units.contains(binding.plan)) {
    whole.units = std::make_shared<const std::vector<UnitFactor>>(life.units.at(binding.plan));
  }
  bindings_.emplace(std::pair{binding.step, life.incarnation}, std::move(whole));
}

void SimCluster::StartShard(ShardLife& life, const ShardAdmission& admission) {
  if (life.shard != nullptr) return;
  life.generation = admission.generation;
  life.coordinator = coordinator_life_;
  Shard::Options options;
  options.name = absl::StrCat("shard-", life.name);
  options.catalog = options_.run.catalog;
  options.layout = options_.run.layout;
  options.shard = admission.shard;
  options.shards = admission.shards;
  options.generation = admission.generation;
  options.term = admission.term;
  options.optimizer = options_.optimizer;
  options.clip = options_.run.clip_norm > 0;
  options.skip_not_finite = options_.skip_not_finite;
  options.round_bytes = options_.round_bytes;
  options.snapshot_bytes = options_.snapshot_bytes;
  options.first_step = admission.start.step;
  options.masking = options_.masking;
  life.shard = std::make_unique<Shard>(
      options, [&](FragmentId id, absl::Span<float> values, OptimizerState& state) {
        if (admission.start.checkpoint.empty()) {
          return FillInitialValues(*options_.run.catalog, *options_.run.layout, id, options_.seed,
                                   values);
        }
        const SimDisk::Part& part = disk_.fragments.at(admission.start.step).at(id);
        std::copy(part.value.span().begin(), part.value.span().end(), values.begin());
        state = part.state.Clone();
      });
  Do(life, life.shard->Start());
  if (!options_.changes.empty()) Beat(life);
}

void SimCluster::StartWorker(Life& life, const WorkerAdmission& admission) {
  if (life.worker != nullptr) return;
  life.incarnation = admission.incarnation;
  life.generation = admission.generation;
  life.coordinator = coordinator_life_;
  incarnations_[admission.incarnation] = &life;
  Worker::Options options;
  options.name = absl::StrCat("worker-", life.name);
  options.catalog = options_.run.catalog;
  options.layout = options_.run.layout;
  options.masking = options_.masking;
  options.rescale = options_.run.rescale;
  options.seed = options_.seed;
  options.shuffle = options_.shuffle;
  options.terms_per_sample = options_.terms_per_sample;
  options.skip_not_finite = options_.skip_not_finite;
  life.worker = std::make_unique<Worker>(options, admission, options_.data);
  SayReady(life);
  // Start comes with the answer to Ready, which a duplicate does not repeat.
  At(2 * options_.max_delay,
     [this, &life] { In(life, [this, &life] { Do(life, life.worker->Start()); }); });
  if (!options_.changes.empty()) Beat(life);
}

void SimCluster::Do(CoordinatorActions actions) {
  if (actions.go_back.has_value()) {
    log_.push_back(*actions.go_back);
    GoBack();
  }
  for (const auto& store : actions.store) {
    // In order, as they are; what is not stored when the process dies is lost.
    store_free_at_ = std::max(store_free_at_, now_) + Delay() / 4;
    At(store_free_at_ - now_, [=, this, generation = generation_, life = coordinator_life_] {
      if (life != coordinator_life_) return;
      disk_.records.push_back(store.record);
      if (const auto* begun = std::get_if<GenerationRecord>(&store.record)) Void(begun->step);
      if (generation == generation_) Do(coordinator_->Stored(store.id, now_));
    });
  }
  for (const auto& admit : actions.admit_shards) {
    if (!admit.admission.ok()) {
      if (options_.changes.empty()) end_ = admit.admission.status();
      shard_lives_[admit.instance - 1]->alive = false;
      continue;
    }
    ShardLife* const life = shard_lives_[admit.instance - 1].get();
    Send([=, this] { In(*life, [=, this] { StartShard(*life, *admit.admission); }); });
  }
  for (const auto& admit : actions.admit_workers) {
    Life* const life = lives_[admit.instance - 1].get();
    if (!admit.admission.ok()) {  // it says so and leaves
      life->alive = false;
      continue;
    }
    Send([=, this] { In(*life, [=, this] { StartWorker(*life, *admit.admission); }); });
  }
  for (const auto& bind : actions.bind_shards) {
    Control(bind.shard, [this, bind](ShardLife& life) {
      Notice(life);
      Do(life, life.shard->Bind(bind.binding));
    });
  }
  for (const auto& out : actions.exclude) {
    Control(out.shard,
            [this, out](ShardLife& life) { Do(life, life.shard->Exclude(out.exclusion)); });
  }
  for (const auto& bind : actions.bind_workers) {
    SendTo(bind.worker, [this, binding = bind.binding](Life& life) {
      Notice(life);
      Remember(life, binding);
      if (life.asking.has_value() &&
          (life.asking->step == binding.step || life.asking->step == kFirstOfMine)) {
        life.asking.reset();
      }
      Do(life, life.worker->OnBinding(binding, now_));
    });
  }
  for (const auto& scale : actions.scales) {
    Control(scale.shard,
            [this, scale](ShardLife& life) { Do(life, life.shard->Scale(scale.scale)); });
  }
  for (const auto& release : actions.releases) {
    Control(release.shard, [this, release](ShardLife& life) {
      Do(life, life.shard->ReleaseEvaluation(release.step));
    });
  }
  for (const CheckpointManifest& manifest : actions.manifests) {
    disk_.manifests[manifest.step] = manifest;
    if (!options_.changes.empty() && disk_.manifests.size() > 2)  // keep_last
      disk_.manifests.erase(disk_.manifests.begin());
    At(Delay(), [=, this, generation = generation_, life = coordinator_life_] {
      if (generation == generation_ && life == coordinator_life_)
        Do(coordinator_->CheckpointStored(manifest.step, absl::OkStatus(), now_));
    });
  }
  for (const StepMetrics& metrics : actions.metrics) {
    // A coordinator that comes after the last line was written ends the run once more.
    if (!metrics_.empty() && metrics_.back().step == metrics.step) continue;
    metrics_.push_back(metrics);
    disk_.metrics.push_back(metrics);
    if (stop_after_ == metrics.step) {
      Send([this] {
        if (coordinator_ != nullptr) Do(coordinator_->Stop("test", now_));
      });
    }
  }
  for (const ShardId shard : actions.finish_shards) {
    Control(shard, [=, this](ShardLife& life) {
      Tell(life, [=, this] { Do(coordinator_->ShardFinished(shard, now_)); });
      if (life.leaving) Depart(life);
    });
  }
  log_.insert(log_.end(), actions.log.begin(), actions.log.end());
  if (actions.stop.has_value() && !end_.has_value()) end_ = *actions.stop;
}

void SimCluster::Do(ShardLife& from, ShardActions actions) {
  const bool counts = from.generation == generation_;  // else all that it does is void
  for (const PushAnswer& answer : actions.answers) {
    if (answer.answer == Answer::kReceived && counts) {
      auto& counted = answer.purpose == Purpose::kTrain ? contributions_ : dense_contributions_;
      counted[{answer.step, answer.fragment}].insert(answer.worker);
    }
    SendToWorker(from, answer.worker,
                 [=, this](Life& life) { Do(life, life.worker->OnPushAnswer(answer, now_)); });
  }
  for (const Delivery& delivery : actions.deliveries) {
    if (!incarnations_.contains(delivery.worker)) continue;
    const size_t w = incarnations_.at(delivery.worker)->name;
    // What leaves is the version's bits at this moment: a later update in place must not reach it.
    auto copy = std::make_shared<FloatBuffer>(delivery.value == nullptr ? FloatBuffer()
                                                                        : delivery.value->Clone());
    if (delivery.value != nullptr &&
        counted_.insert({w, delivery.step, delivery.fragment}).second) {
      delivered_bytes_[w] += delivery.value->size() * BytesPerElement(options_.wire);
    }
    SendToWorker(from, delivery.worker, [=, this, value = delivery.value](Life& life) {
      if (value == nullptr) {
        Do(life, life.worker->OnPullRefused(delivery.step, delivery.fragment, delivery.answer,
                                            delivery.detail));
        return;
      }
      if (!std::equal(copy->span().begin(), copy->span().end(), value->span().begin())) {
        end_ = absl::InternalError(absl::StrCat("version ", delivery.step, " of fragment ",
                                                delivery.fragment.value(),
                                                " changed while it was being sent"));
        return;
      }
      WireBuffer sent = WireBuffer::Rounded(options_.wire, value->span());
      const int64_t bytes = sent.bytes();
      Do(life,
         life.worker->OnValue(delivery.step, delivery.fragment, std::move(sent), bytes, now_));
    });
  }
  for (const Reduced& reduced : actions.reduced) {
    Tell(from, [=, this] { Do(coordinator_->OnReduced(reduced, now_)); });
  }
  for (const Diagnosed& diagnosed : actions.diagnosed) {
    Tell(from, [=, this] { Do(coordinator_->OnDiagnosed(diagnosed, now_)); });
  }
  for (const StepDone& done : actions.done) {
    if (done.step > from.reported) {  // else it is repeated
      from.reported = done.step;
      for (const FragmentId id : from.shard->owned()) {
        const Step version = from.shard->version(id);
        if (version < done.step + 1 || version > done.step + 2) ++version_jumps_;
      }
    }
    Tell(from, [=, this] { Do(coordinator_->OnStepDone(done, now_)); });
  }
  for (const StateHashes& hashes : actions.hashes) {
    Tell(from, [=, this] { Do(coordinator_->OnStateHashes(hashes, now_)); });
  }
  for (const NotFiniteReport& report : actions.not_finite) {
    Tell(from, [=, this] { Do(coordinator_->OnNotFinite(report, now_)); });
  }
  for (Snapshot& snapshot : actions.snapshots) {
    Write(from, std::make_shared<Snapshot>(std::move(snapshot)));
  }
}

// The disk takes its time, and reads each of the snapshot's values at the end of it.
void SimCluster::Write(ShardLife& life, std::shared_ptr<Snapshot> snapshot) {
  absl::Duration at;
  for (size_t i = 0; i < snapshot->parts.size(); ++i) {
    at += 4 * Delay() / static_cast<double>(snapshot->parts.size());
    At(at, [=, this, &life] {
      if (!life.alive) return;
      Snapshot::Part& part = snapshot->parts[i];
      // A file of an earlier generation has another name, and no manifest will have it.
      if (life.generation == generation_ && !disk_.full.contains(snapshot->step)) {
        SimDisk::Part& saved = disk_.fragments[snapshot->step][part.fragment];
        saved.value = part.value->Clone();
        saved.state = part.state->Clone();
      }
      const FragmentId fragment = part.fragment;
      part.value = nullptr;
      part.state = nullptr;
      Do(life, life.shard->Written(snapshot->step, fragment));
    });
  }
  At(at, [=, this, &life] {
    if (!life.alive) return;
    CheckpointPart part;
    part.shard = ShardId(static_cast<int32_t>(life.name));
    part.step = snapshot->step;
    if (disk_.full.contains(snapshot->step)) part.error = "no space";
    for (const Snapshot::Part& one : snapshot->parts) {
      const int64_t size = options_.run.layout->fragment(one.fragment).size;
      part.file.fragments.push_back({one.fragment, size, 0, 0, {}});
    }
    life.parts.push_back(part);
    if (life.parts.size() > 2) life.parts.pop_front();
    Tell(life, [=, this] { Do(coordinator_->OnCheckpointPart(part, now_)); });
    Do(life, life.shard->Written(part.step));
  });
}

Generation SimDisk::NextGeneration() const {
  int64_t last = 0;
  for (const Record& record : records) {
    if (const auto* generation = std::get_if<GenerationRecord>(&record))
      last = std::max(last, generation->generation.value());
  }
  return Generation(last + 1);
}

GenerationStart SimDisk::Newest(Generation generation) const {
  GenerationStart start;
  start.generation = generation;
  start.last_incarnation = Incarnation(100 * generation.value());
  start.last_view = ViewId(10 * generation.value());
  for (const Record& record : records) {
    if (const auto* member = std::get_if<MemberRecord>(&record)) {
      start.last_incarnation = std::max(start.last_incarnation, member->incarnation);
    } else if (const auto* view = std::get_if<ViewRecord>(&record)) {
      start.last_view = std::max(start.last_view, view->view);
    }
  }
  if (manifests.empty()) return start;
  const CheckpointManifest& manifest = manifests.rbegin()->second;
  start.state.step = manifest.step;
  start.state.checkpoint = "simulated";
  start.cursor = manifest.cursor;
  start.data = manifest.data;
  return start;
}

void SimCluster::Do(Life& life, WorkerActions actions) {
  for (const auto& ask : actions.ask) {
    life.asking = ask;
    Ask(life);
  }
  for (const auto& pull : actions.pulls) {
    const size_t s = static_cast<size_t>(pull.shard.value());
    SendToShard(life, s,
                [this, pull](ShardLife& shard) { Do(shard, shard.shard->Pull(pull.request)); });
  }
  for (const auto& done : actions.done) {
    const size_t s = static_cast<size_t>(done.shard.value());
    SendToShard(life, s, [this, done](ShardLife& shard) {
      most_retained_bytes_ = std::max(most_retained_bytes_, shard.shard->counts().retained_bytes);
      shard.shard->Done(done.reads);
    });
  }
  for (const auto& push : actions.pushes) {
    const size_t s = static_cast<size_t>(push.shard.value());
    if (push.gradient != nullptr && push.key.purpose == Purpose::kTrain)
      pushed_bytes_[life.name] += push.gradient->bytes();
    At(push.delay, [=, this, &life] {
      SendToShard(life, s, [this, push](ShardLife& shard) {
        FloatBuffer gradient;
        if (push.gradient != nullptr) gradient = push.gradient->Clone().Widened();
        Do(shard, shard.shard->Push(push.key, std::move(gradient)));
      });
    });
  }
  for (auto& unit : actions.units)
    life.compute->UnitHere(unit.step, unit.unit, std::move(unit.fragments));
  for (const EvaluationReport& report : actions.evaluations) {
    Tell(life, [=, this] { Do(coordinator_->OnEvaluation(report, now_)); });
  }
  for (const StepReport& report : actions.reports) {
    Tell(life, [=, this] { Do(coordinator_->OnStepReport(report, now_)); });
  }
  for (const NotFiniteReport& report : actions.not_finite) {
    Tell(life, [=, this] { Do(coordinator_->OnNotFinite(report, now_)); });
  }
  for (EvaluateTask& task : actions.evaluate) life.compute->Add(std::move(task));
  for (DenseTask& task : actions.dense) life.compute->Add(std::move(task));
  for (TrainTask& task : actions.train) life.compute->Add(std::move(task));
  if (actions.exit.has_value()) EndLife(life, *actions.exit);
}

const FloatBuffer& SimCluster::value(FragmentId fragment) const {
  // Another process may have come after the end: one that has nothing.
  for (auto life = shard_lives_.rbegin(); life != shard_lives_.rend(); ++life) {
    const Shard* const shard = (*life)->shard.get();
    if (shard != nullptr && shard->owns(fragment)) return *shard->value(fragment);
  }
  std::abort();
}

}  // namespace sdp
