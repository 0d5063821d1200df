// SimCluster: processes that begin, register, change, and end.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/model/initial_values.h"
#include "tests/cluster/sim_cluster.h"
#include "tests/cluster/sim_compute.h"

namespace sdp {
namespace {

constexpr absl::Duration kGrace = absl::Seconds(3);

}  // namespace

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

}  // namespace sdp
