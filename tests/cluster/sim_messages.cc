// SimCluster: the network between its processes, and what each of them wants done.
#include <algorithm>
#include <utility>
#include <variant>

#include "tests/cluster/sim_cluster.h"
#include "tests/cluster/sim_compute.h"

namespace sdp {
namespace {

// Of what is delivered: copies of a message have what it says in common.
template <typename Deliver>
std::shared_ptr<const Deliver> Shared(Deliver deliver) {
  return std::make_shared<const Deliver>(std::move(deliver));
}

}  // namespace

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

template void SimCluster::Tell(Life& from, std::function<void()> deliver);
template void SimCluster::Tell(ShardLife& from, std::function<void()> deliver);

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

}  // namespace sdp
