#include "tests/cluster/sim_cluster.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/cluster/sim_compute.h"

namespace sdp {

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

const FloatBuffer& SimCluster::value(FragmentId fragment) const {
  // Another process may have come after the end: one that has nothing.
  for (auto life = shard_lives_.rbegin(); life != shard_lives_.rend(); ++life) {
    const Shard* const shard = (*life)->shard.get();
    if (shard != nullptr && shard->owns(fragment)) return *shard->value(fragment);
  }
  std::abort();
}

}  // namespace sdp
