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

// Plays one worker's compute thread: takes tasks in order, starts one when all its weights are
// here, and lets what the model does happen as events over simulated time.
class SimCluster::Compute {
 public:
  Compute(SimCluster* cluster, Life* life, LocalModel* model)
      : cluster_(cluster), life_(life), model_(model) {}

  void Add(TrainTask task) {
    tasks_.push_back(std::move(task));
    Next();
  }
  void Add(EvaluateTask task) {
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
    const auto& evaluate = std::get<EvaluateTask>(tasks_.front());
    if (!wants_.has_value()) {
      wants_ = std::deque<UnitId>();
      for (const HeldUnit& unit : evaluate.units) wants_->push_back(unit.unit);
      WantNext();
      WantNext();
      return;
    }
    for (const HeldUnit& unit : evaluate.units) {
      if (!units_.contains({evaluate.step, unit.unit})) return;
    }
    busy_ = true;
    wants_.reset();
    keep_ = true;
    Recorder recorder(this, evaluate.step);
    auto result = model_->Evaluate(evaluate, recorder);
    keep_ = false;
    std::erase_if(units_, [&](const auto& unit) { return unit.first.first == evaluate.step; });
    const Step step = evaluate.step;
    Emit({}, [this, step, result] { return worker().OnEvaluated(step, result); });
  }

  void WantNext() {
    if (!wants_.has_value() || wants_->empty()) return;
    const Step step = std::get<EvaluateTask>(tasks_.front()).step;
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
  std::deque<std::variant<TrainTask, EvaluateTask>> tasks_;
  std::map<std::pair<Step, UnitId>, std::vector<WireBuffer>> units_;
  std::optional<std::deque<UnitId>> wants_;
  std::set<std::pair<Step, UnitId>> wanted_;
  bool busy_ = false;
  bool keep_ = false;
};

SimCluster::SimCluster(const Options& options, const MakeModel& make_model)
    : options_(options),
      random_(options.schedule_seed, 0x51),
      coordinator_(std::make_unique<Coordinator>(options.run)),
      shards_(static_cast<size_t>(options.run.shards)),
      disk_(options.disk != nullptr ? *options.disk : own_disk_) {
  int names = options.run.workers;
  for (const Change& change : options.changes) names = std::max(names, change.worker + 1);
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
  events_.push({now_ + delay, next_event_++, std::move(run)});
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
  for (size_t s = 0; s < shards_.size(); ++s) {
    Send([=, this] {
      Do(coordinator_->RegisterShard(
          {absl::StrCat("shard-", s), absl::StrCat("sim:", s), options_.run.config_hash, s + 1},
          now_));
    });
  }
  for (size_t w = 0; w < static_cast<size_t>(options_.run.workers); ++w) StartLife(w, Origin::kNew);
  for (const Change& change : options_.changes) At(change.at, [=, this] { Make(change); });
  if (!options_.changes.empty()) Tick();
  const absl::Time limit = now_ + options_.limit;
  while (!end_.has_value() && !events_.empty() && now_ < limit) {
    if (options_.max_events > 0 && events_done_ == options_.max_events)
      return absl::AbortedError("killed");
    ++events_done_;
    Event event = events_.top();
    events_.pop();
    now_ = event.at;
    event.run();
  }
  if (end_.has_value()) return *end_;
  return absl::DeadlineExceededError(
      absl::StrCat("stuck with schedule ", options_.schedule_seed, " after ", metrics_.size(),
                   " steps: ", coordinator_->status(now_).waiting_for));
}

void SimCluster::Tick() {
  for (size_t s = 0; s < shards_.size(); ++s) {
    if (shards_[s] != nullptr)
      Do(coordinator_->ShardHeartbeat(ShardId(static_cast<int32_t>(s)), "", 0, now_));
  }
  Do(coordinator_->Tick(now_));
  At(options_.heartbeat, [this] { Tick(); });
}

void SimCluster::Make(const Change& change) {
  const auto name = static_cast<size_t>(change.worker);
  Life* newest = nullptr;
  for (const auto& life : lives_) {
    if (life->name == name && life->alive) newest = life.get();
  }
  switch (change.what) {
    case Change::What::kStart:
      return StartLife(name, Origin::kNew);
    case Change::What::kKill:
      if (newest != nullptr) newest->alive = false;
      return;
    case Change::What::kFreeze:
      if (newest != nullptr) newest->frozen_until = now_ + change.duration;
      return;
    case Change::What::kLeave:
      if (newest == nullptr || newest->worker == nullptr) return;
      In(*newest, [this, newest] {
        Send([=, this] { Do(coordinator_->Leave(newest->incarnation, now_)); });
      });
  }
}

void SimCluster::StartLife(size_t name, Origin origin) {
  lives_.push_back(std::make_unique<Life>());
  Life& life = *lives_.back();
  life.name = name;
  life.compute = std::make_unique<Compute>(this, &life, models_[name].get());
  const uint64_t instance = lives_.size();
  Send([=, this] {
    Do(coordinator_->RegisterWorker({absl::StrCat("worker-", name), options_.run.config_hash,
                                     instance, origin == Origin::kAgain},
                                    now_));
  });
}

void SimCluster::EndLife(Life& life, const absl::Status& why) {
  if (!life.alive) return;
  life.alive = false;
  if (absl::IsAborted(why)) {
    StartLife(life.name, Origin::kAgain);
  } else if (!why.ok()) {
    end_ = Context(why, absl::StrCat("worker-", life.name));
  }
}

void SimCluster::In(Life& life, std::function<void()> run) {
  if (!life.alive) return;
  if (now_ >= life.frozen_until) return run();
  At(life.frozen_until - now_, [this, &life, run = std::move(run)] { In(life, run); });
}

void SimCluster::SendTo(Incarnation worker, std::function<void(Life&)> deliver) {
  const auto life = incarnations_.find(worker);
  if (life == incarnations_.end()) return;
  Send([this, to = life->second, deliver = std::move(deliver)] {
    In(*to, [to, deliver] { deliver(*to); });
  });
}

void SimCluster::Beat(Life& life) {
  In(life, [this, &life] {
    Send([this, &life] {
      absl::Status error;
      Do(coordinator_->WorkerHeartbeat(life.incarnation, life.worker->phase(), life.worker->waits(),
                                       now_, &error));
      if (!error.ok()) In(life, [this, &life, error] { EndLife(life, error); });
    });
    At(options_.heartbeat, [this, &life] { Beat(life); });
  });
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

void SimCluster::StartShard(size_t s, const ShardAdmission& admission) {
  if (shards_[s] != nullptr) return;
  Shard::Options options;
  options.name = absl::StrCat("shard-", s);
  options.catalog = options_.run.catalog;
  options.layout = options_.run.layout;
  options.shard = admission.shard;
  options.shards = admission.shards;
  options.generation = admission.generation;
  options.term = admission.term;
  options.optimizer = options_.optimizer;
  options.clip = options_.run.clip_norm > 0;
  options.round_bytes = options_.round_bytes;
  options.first_step = admission.start.step;
  options.masking = options_.masking;
  shards_[s] = std::make_unique<Shard>(
      options, [&](FragmentId id, absl::Span<float> values, OptimizerState& state) {
        if (admission.start.checkpoint.empty()) {
          return FillInitialValues(*options_.run.catalog, *options_.run.layout, id, options_.seed,
                                   values);
        }
        const SimDisk::Part& part = disk_.fragments.at(admission.start.step).at(id);
        std::copy(part.value.span().begin(), part.value.span().end(), values.begin());
        for (size_t m = 0; m < state.moments.size(); ++m)
          state.moments[m] = part.state.moments.at(m).Clone();
        state.updates = part.state.updates;
      });
  Do(s, shards_[s]->Start());
}

void SimCluster::StartWorker(Life& life, const WorkerAdmission& admission) {
  if (life.worker != nullptr) return;
  life.incarnation = admission.incarnation;
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
  life.worker = std::make_unique<Worker>(options, admission, options_.data);
  Send([this, &life] {
    absl::Status error;
    Do(coordinator_->Ready(life.incarnation, options_.data, now_, &error));
    if (!error.ok()) In(life, [this, &life, error] { EndLife(life, error); });
  });
  // Start comes with the answer to Ready, which a duplicate does not repeat.
  At(2 * options_.max_delay,
     [this, &life] { In(life, [this, &life] { Do(life, life.worker->Start()); }); });
  if (!options_.changes.empty()) Beat(life);
}

void SimCluster::Do(CoordinatorActions actions) {
  for (const auto& store : actions.store) {
    At(Delay(), [=, this] { Do(coordinator_->Stored(store.id, now_)); });
  }
  for (const auto& admit : actions.admit_shards) {
    if (!admit.admission.ok()) {
      end_ = admit.admission.status();
      return;
    }
    const size_t s = std::stoul(admit.name.substr(6));
    Send([=, this] { StartShard(s, *admit.admission); });
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
    const size_t s = static_cast<size_t>(bind.shard.value());
    Send([=, this] { Do(s, shards_[s]->Bind(bind.binding)); });
  }
  for (const auto& out : actions.exclude) {
    const size_t s = static_cast<size_t>(out.shard.value());
    Send([=, this] { Do(s, shards_[s]->Exclude(out.exclusion)); });
  }
  for (const auto& bind : actions.bind_workers) {
    SendTo(bind.worker, [this, binding = bind.binding](Life& life) {
      Remember(life, binding);
      Do(life, life.worker->OnBinding(binding, now_));
    });
  }
  for (const auto& scale : actions.scales) {
    const size_t s = static_cast<size_t>(scale.shard.value());
    Send([=, this] { Do(s, shards_[s]->Scale(scale.scale)); });
  }
  for (const auto& release : actions.releases) {
    const size_t s = static_cast<size_t>(release.shard.value());
    Send([=, this] { Do(s, shards_[s]->ReleaseEvaluation(release.step)); });
  }
  for (const CheckpointManifest& manifest : actions.manifests) {
    At(Delay(), [=, this] {
      disk_.manifests[manifest.step] = manifest;
      Do(coordinator_->CheckpointStored(manifest.step, absl::OkStatus(), now_));
    });
  }
  for (const StepMetrics& metrics : actions.metrics) {
    metrics_.push_back(metrics);
    if (stop_after_ == metrics.step) Send([this] { Do(coordinator_->Stop("test", now_)); });
  }
  for (const ShardId shard : actions.finish_shards) {
    Send([=, this] { Do(coordinator_->ShardFinished(shard, now_)); });
  }
  log_.insert(log_.end(), actions.log.begin(), actions.log.end());
  if (actions.stop.has_value() && !end_.has_value()) end_ = *actions.stop;
}

void SimCluster::Do(size_t s, ShardActions actions) {
  for (const PushAnswer& answer : actions.answers) {
    if (answer.answer == Answer::kReceived)
      contributions_[{answer.step, answer.fragment}].insert(answer.worker);
    SendTo(answer.worker,
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
    SendTo(delivery.worker, [=, this, value = delivery.value](Life& life) {
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
    Send([=, this] { Do(coordinator_->OnReduced(reduced, now_)); });
  }
  for (const StepDone& done : actions.done) {
    for (const FragmentId id : shards_[s]->owned()) {
      const auto [it, first] = versions_.emplace(std::pair{s, id}, 0);
      if (shards_[s]->version(id) < done.step + 1 || shards_[s]->version(id) > done.step + 2)
        ++version_jumps_;
      it->second = shards_[s]->version(id);
    }
    Send([=, this] { Do(coordinator_->OnStepDone(done, now_)); });
  }
  for (const StateHashes& hashes : actions.hashes) {
    Send([=, this] { Do(coordinator_->OnStateHashes(hashes, now_)); });
  }
  for (const NotFiniteReport& report : actions.not_finite) {
    Send([=, this] { Do(coordinator_->OnNotFinite(report, now_)); });
  }
  for (Snapshot& snapshot : actions.snapshots) {
    Write(s, std::make_shared<Snapshot>(std::move(snapshot)));
  }
}

// The disk takes its time, and reads the snapshot's values at the very end of it.
void SimCluster::Write(size_t s, std::shared_ptr<Snapshot> snapshot) {
  At(4 * Delay(), [=, this] {
    CheckpointPart part;
    part.shard = ShardId(static_cast<int32_t>(s));
    part.step = snapshot->step;
    if (disk_.full.contains(snapshot->step)) {
      part.error = "no space";
    } else {
      for (const Snapshot::Part& fragment : snapshot->parts) {
        SimDisk::Part& saved = disk_.fragments[snapshot->step][fragment.fragment];
        saved.value = fragment.value->Clone();
        saved.state.moments.clear();
        for (const FloatBuffer& moment : fragment.state->moments)
          saved.state.moments.push_back(moment.Clone());
        saved.state.updates = fragment.state->updates;
        part.file.fragments.push_back(
            {fragment.fragment, fragment.value->size(), fragment.state->updates, 0, {}});
      }
    }
    snapshot->parts.clear();
    Send([=, this] { Do(coordinator_->OnCheckpointPart(part, now_)); });
    Do(s, shards_[s]->Written(part.step));
  });
}

GenerationStart SimDisk::Newest(Generation generation) const {
  GenerationStart start;
  start.generation = generation;
  start.last_incarnation = Incarnation(100 * generation.value());
  start.last_view = ViewId(10 * generation.value());
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
    Send([=, this, &life] {
      absl::Status error;
      Do(coordinator_->BeginStep(life.incarnation, ask.step, ask.known_plan, now_, &error));
      if (!error.ok()) In(life, [this, &life, error] { EndLife(life, error); });
    });
  }
  for (const auto& pull : actions.pulls) {
    const size_t s = static_cast<size_t>(pull.shard.value());
    Send([=, this] { Do(s, shards_[s]->Pull(pull.request)); });
  }
  for (const auto& done : actions.done) {
    const size_t s = static_cast<size_t>(done.shard.value());
    Send([=, this] {
      most_retained_bytes_ = std::max(most_retained_bytes_, shards_[s]->counts().retained_bytes);
      shards_[s]->Done(done.reads);
    });
  }
  for (const auto& push : actions.pushes) {
    const size_t s = static_cast<size_t>(push.shard.value());
    if (push.gradient != nullptr) pushed_bytes_[life.name] += push.gradient->bytes();
    At(push.delay, [=, this] {
      Send([=, this] {
        Do(s,
           shards_[s]->Push(push.key, push.gradient == nullptr ? FloatBuffer()
                                                               : push.gradient->Clone().Widened()));
      });
    });
  }
  for (auto& unit : actions.units)
    life.compute->UnitHere(unit.step, unit.unit, std::move(unit.fragments));
  for (const EvaluationReport& report : actions.evaluations) {
    Send([=, this] { Do(coordinator_->OnEvaluation(report, now_)); });
  }
  for (const StepReport& report : actions.reports) {
    Send([=, this] { Do(coordinator_->OnStepReport(report, now_)); });
  }
  for (const NotFiniteReport& report : actions.not_finite) {
    Send([=, this] { Do(coordinator_->OnNotFinite(report, now_)); });
  }
  for (EvaluateTask& task : actions.evaluate) life.compute->Add(std::move(task));
  for (TrainTask& task : actions.train) life.compute->Add(std::move(task));
  if (actions.exit.has_value()) EndLife(life, *actions.exit);
}

const FloatBuffer& SimCluster::value(FragmentId fragment) const {
  for (const auto& shard : shards_) {
    if (shard->owns(fragment)) return *shard->value(fragment);
  }
  std::abort();
}

}  // namespace sdp
