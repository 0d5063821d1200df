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
  Compute(SimCluster* cluster, size_t worker, LocalModel* model)
      : cluster_(cluster), worker_(worker), model_(model) {}

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

  Worker& worker() { return *cluster_->workers_[worker_]; }

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
    cluster_->At(cluster_->Delay(),
                 [=, this] { cluster_->Do(worker_, worker().OnWant(step, unit)); });
  }

  // The events happen one after another, then `last`, then the next task.
  void Emit(std::vector<std::function<WorkerActions()>> events,
            std::function<WorkerActions()> last) {
    absl::Duration at;
    for (auto& event : events) {
      at += cluster_->Delay() / 8;
      cluster_->At(at, [=, this] { cluster_->Do(worker_, event()); });
    }
    cluster_->At(at + cluster_->Delay() / 8, [=, this] {
      busy_ = false;
      tasks_.pop_front();
      cluster_->Do(worker_, last());
      Next();
    });
  }

  SimCluster* const cluster_;
  const size_t worker_;
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
      workers_(static_cast<size_t>(options.run.workers)),
      delivered_bytes_(workers_.size()),
      pushed_bytes_(workers_.size()),
      disk_(options.disk != nullptr ? *options.disk : own_disk_) {
  for (size_t worker = 0; worker < workers_.size(); ++worker) {
    models_.push_back(make_model(static_cast<int>(worker)));
    computes_.push_back(std::make_unique<Compute>(this, worker, models_.back().get()));
  }
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
  for (size_t w = 0; w < workers_.size(); ++w) {
    Send([=, this] {
      Do(coordinator_->RegisterWorker({absl::StrCat("worker-", w), options_.run.config_hash, w + 1},
                                      now_));
    });
  }
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

size_t SimCluster::WorkerOf(Incarnation incarnation) const { return incarnations_.at(incarnation); }

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

void SimCluster::StartWorker(size_t w, const WorkerAdmission& admission) {
  if (workers_[w] != nullptr) return;
  incarnations_[admission.incarnation] = w;
  Worker::Options options;
  options.name = absl::StrCat("worker-", w);
  options.catalog = options_.run.catalog;
  options.layout = options_.run.layout;
  options.masking = options_.masking;
  options.rescale = options_.run.rescale;
  options.seed = options_.seed;
  options.shuffle = options_.shuffle;
  options.terms_per_sample = options_.terms_per_sample;
  workers_[w] = std::make_unique<Worker>(options, admission, options_.data);
  const Incarnation me = admission.incarnation;
  Send([=, this] {
    absl::Status error;
    Do(coordinator_->Ready(me, options_.data, now_, &error));
    if (!error.ok()) end_ = error;
  });
  // Start comes with the answer to Ready, which a duplicate does not repeat.
  At(2 * options_.max_delay, [=, this] { Do(w, workers_[w]->Start()); });
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
    if (!admit.admission.ok()) {
      end_ = admit.admission.status();
      return;
    }
    const size_t w = std::stoul(admit.name.substr(7));
    Send([=, this] { StartWorker(w, *admit.admission); });
  }
  for (const auto& bind : actions.bind_shards) {
    const size_t s = static_cast<size_t>(bind.shard.value());
    Send([=, this] { Do(s, shards_[s]->Bind(bind.binding)); });
  }
  for (const auto& bind : actions.bind_workers) {
    const size_t w = WorkerOf(bind.worker);
    Send([=, this] { Do(w, workers_[w]->OnBinding(bind.binding, now_)); });
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
  if (actions.stop.has_value() && !end_.has_value()) end_ = *actions.stop;
}

void SimCluster::Do(size_t s, ShardActions actions) {
  for (const PushAnswer& answer : actions.answers) {
    const size_t w = WorkerOf(answer.worker);
    Send([=, this] { Do(w, workers_[w]->OnPushAnswer(answer, now_)); });
  }
  for (const Delivery& delivery : actions.deliveries) {
    const size_t w = WorkerOf(delivery.worker);
    // What leaves is the version's bits at this moment: a later update in place must not reach it.
    auto copy = std::make_shared<FloatBuffer>(delivery.value == nullptr ? FloatBuffer()
                                                                        : delivery.value->Clone());
    if (delivery.value != nullptr &&
        counted_.insert({w, delivery.step, delivery.fragment}).second) {
      delivered_bytes_[w] += delivery.value->size() * BytesPerElement(options_.wire);
    }
    Send([=, this, value = delivery.value] {
      if (value == nullptr) {
        Do(w, workers_[w]->OnPullRefused(delivery.step, delivery.fragment, delivery.answer,
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
      Do(w, workers_[w]->OnValue(delivery.step, delivery.fragment, std::move(sent), bytes, now_));
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

void SimCluster::Do(size_t w, WorkerActions actions) {
  const Incarnation me = [&] {
    for (const auto& [incarnation, worker] : incarnations_) {
      if (worker == w) return incarnation;
    }
    return Incarnation();
  }();
  for (const auto& ask : actions.ask) {
    Send([=, this] {
      absl::Status error;
      Do(coordinator_->BeginStep(me, ask.step, ask.known_plan, now_, &error));
      if (!error.ok()) end_ = error;
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
    if (push.gradient != nullptr) pushed_bytes_[w] += push.gradient->bytes();
    At(push.delay, [=, this] {
      Send([=, this] {
        Do(s,
           shards_[s]->Push(push.key, push.gradient == nullptr ? FloatBuffer()
                                                               : push.gradient->Clone().Widened()));
      });
    });
  }
  for (auto& unit : actions.units)
    computes_[w]->UnitHere(unit.step, unit.unit, std::move(unit.fragments));
  for (const EvaluationReport& report : actions.evaluations) {
    Send([=, this] { Do(coordinator_->OnEvaluation(report, now_)); });
  }
  for (const StepReport& report : actions.reports) {
    Send([=, this] { Do(coordinator_->OnStepReport(report, now_)); });
  }
  for (const NotFiniteReport& report : actions.not_finite) {
    Send([=, this] { Do(coordinator_->OnNotFinite(report, now_)); });
  }
  for (EvaluateTask& task : actions.evaluate) computes_[w]->Add(std::move(task));
  for (TrainTask& task : actions.train) computes_[w]->Add(std::move(task));
  if (actions.exit.has_value() && !actions.exit->ok())
    end_ = Context(*actions.exit, absl::StrCat("worker-", w));
}

const FloatBuffer& SimCluster::value(FragmentId fragment) const {
  for (const auto& shard : shards_) {
    if (shard->owns(fragment)) return *shard->value(fragment);
  }
  std::abort();
}

}  // namespace sdp
