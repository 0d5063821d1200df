// Shard: closing rounds, making versions, and telling the coordinator.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/hash.h"
#include "server/shard/logic/reduce.h"
#include "server/shard/logic/shard.h"

namespace sdp {

ShardActions Shard::Start() {
  ShardActions actions;
  StepDone done{options_.shard, committed_, 0};
  Remember(last_done_, done);
  actions.done.push_back(done);
  return actions;
}

ShardActions Shard::Reconnected() const {
  ShardActions actions;
  actions.reduced = last_reduced_;
  actions.diagnosed = last_diagnosed_;
  actions.done = last_done_;
  if (hashes_.has_value()) actions.hashes.push_back(*hashes_);
  return actions;
}

bool Shard::OverBudget(const PushKey& key, int64_t bytes) const {
  if (options_.round_bytes == 0 || bytes == 0 || round_bytes_ + bytes <= options_.round_bytes)
    return false;
  // The oldest open round in (step, reverse forward order) always has its place, so something
  // always progresses.
  for (auto id = owned_.rbegin(); id != owned_.rend(); ++id) {
    const Owned& owned = fragments_.at(*id);
    if (owned.version != committed_ + 1) continue;
    const auto round = owned.rounds.find(owned.version);
    if (round == owned.rounds.end() || !round->second.closed) return *id != key.fragment;
  }
  return true;
}

void Shard::CloseReady(FragmentId id, ShardActions* actions) {
  Owned& owned = fragments_.at(id);
  const auto it = owned.rounds.find(owned.version);
  if (it == owned.rounds.end() || it->second.closed || !it->second.sum.complete()) return;
  const Step step = owned.version;
  Round& round = it->second;
  round_bytes_ -= round.bytes();
  round.Close();
  double square = SumOfSquares(round.mean.span());
  if (!std::isfinite(square)) {  // finite gradients whose sum is not
    if (!SkipsNotFinite(step, absl::StrCat("the mean gradient of ", Describe(id)), Incarnation(),
                        actions)) {
      return;
    }
    round.mean = FloatBuffer();
    square = 0;
  }
  round_bytes_ += round.bytes();
  Progress& progress = progress_[step];
  progress.squares.resize(owned_.size());
  progress.squares[owned.index] = square;
  if (const auto bound = bindings_.find(step); bound->second.binding.diagnose)
    round.squares.resize(Leaves(bound->second, id).size());  // Some have left without a word.
  progress.holder_squares.resize(owned_.size());
  progress.holder_squares[owned.index] = std::move(round.squares);
  ++progress.closed;
  if (round.mean.empty()) ++progress.uncovered;
  Report(step, actions);
  held_back_.emplace(step, id);
  if (!options_.clip) AdvanceClosed(id, actions);
}

bool Shard::SkipsNotFinite(Step step, std::string what, Incarnation worker, ShardActions* actions) {
  NotFiniteReport report{options_.name, step, std::move(what), worker};
  if (!options_.skip_not_finite) {
    actions->not_finite.push_back(std::move(report));
    return false;
  }
  std::optional<NotFiniteReport>& first = progress_[step].not_finite;
  if (!first.has_value()) first = std::move(report);
  return true;
}

ShardActions Shard::Exclude(const Exclusion& exclusion) {
  ShardActions actions;
  if (exclusion.generation != options_.generation || !excluded_.insert(exclusion.worker).second)
    return actions;
  for (auto& [id, owned] : fragments_) {
    std::erase_if(owned.waiting,
                  [&](const RequestKey& pull) { return pull.worker == exclusion.worker; });
  }
  std::vector<Step> steps;
  for (const auto& [step, bound] : bindings_) steps.push_back(step);
  for (const Step step : steps) LeaveOut(step, exclusion.worker, &actions);
  return actions;
}

// In a bound step: its leaves that are still open count as without samples, its reads as done.
void Shard::LeaveOut(Step step, Incarnation worker, ShardActions* actions) {
  const auto bound = bindings_.find(step);
  if (bound == bindings_.end() || !bound->second.holders->members.contains(worker)) return;
  const bool read = bound->second.reading.erase(worker) > 0;
  if (!bound->second.binding.closing) {
    const std::shared_ptr<const Holders> holders = bound->second.holders;
    for (const FragmentId id : owned_) {
      LeaveDenseOut(id, step, holders->members.at(worker), actions);
      LeaveRoundOut(id, step, worker, *holders, actions);
    }
  }
  if (read) Forget(step);
}

void Shard::LeaveRoundOut(FragmentId id, Step step, Incarnation worker, const Holders& holders,
                          ShardActions* actions) {
  Owned& owned = fragments_.at(id);
  if (owned.version > step) return;  // its round is over
  const size_t unit = static_cast<size_t>(options_.layout->fragment(id).unit.value());
  const auto& leaves = holders.leaves[static_cast<size_t>(holders.sets->set_of_unit[unit])];
  const auto leaf = leaves.find(worker);
  if (leaf == leaves.end()) return;
  Round& round = owned.rounds.try_emplace(step, static_cast<int>(leaves.size())).first->second;
  if (round.closed || round.sum.has(leaf->second)) return;
  round_bytes_ -= round.bytes();
  round.sum.Add(leaf->second, FloatBuffer(), 0);
  round_bytes_ += round.bytes();
  CloseReady(id, actions);
}

// The version is complete on this shard, and stays so until then. One after another: what a
// checkpoint keeps is bounded.
void Shard::TakeSnapshot(ShardActions* actions) {
  const auto bound = bindings_.find(committed_ + 1);
  if (owned_.empty() || bound == bindings_.end() || !bound->second.snapshot_due ||
      writing_.has_value()) {
    return;
  }
  bound->second.snapshot_due = false;
  writing_ = bound->first;
  Snapshot snapshot;
  snapshot.step = bound->first;
  for (const FragmentId id : owned_) {
    const Owned& owned = fragments_.at(id);
    snapshot.parts.push_back({id, owned.value, owned.state});
  }
  actions->snapshots.push_back(std::move(snapshot));
}

// Only a snapshot shares the state.
bool Shard::InSnapshot(const Owned& owned) const {
  const bool shared = writing_.has_value() && owned.state.use_count() > 1;
  std::atomic_thread_fence(std::memory_order_acquire);
  return shared;
}

int64_t Shard::SnapshotBytes(const Owned& owned) {
  int64_t bytes = owned.value->bytes();
  for (const FloatBuffer& moment : owned.state->moments) bytes += moment.bytes();
  return bytes;
}

bool Shard::MayAdvance(const Owned& owned) const {
  const auto bound = bindings_.find(owned.version);
  if (bound != bindings_.end() && bound->second.snapshot_due) return false;
  const auto round = owned.rounds.find(owned.version);
  const bool changes = round != owned.rounds.end() && !round->second.mean.empty();
  return !changes || !InSnapshot(owned) ||
         snapshot_bytes_ + SnapshotBytes(owned) <= options_.snapshot_bytes;
}

ShardActions Shard::Written(Step step, FragmentId fragment) {
  ShardActions actions;
  if (writing_ != step) return actions;
  if (const auto kept = kept_.find(fragment); kept != kept_.end()) {
    snapshot_bytes_ -= kept->second;
    kept_.erase(kept);
  }
  AdvanceClosed(fragment, &actions);
  // There is room now for the oldest of the others. Not all are looked at: as many parts are
  // written as may wait.
  while (!held_back_.empty() && AdvanceClosed(held_back_.begin()->second, &actions)) continue;
  return actions;
}

ShardActions Shard::Written(Step step) {
  ShardActions actions;
  if (writing_ != step) return actions;
  writing_.reset();
  kept_.clear();
  snapshot_bytes_ = 0;
  TakeSnapshot(&actions);
  AdvanceClosed(&actions);
  return actions;
}

ShardActions Shard::Scale(const ClipScale& scale) {
  ShardActions actions;
  const auto progress = progress_.find(scale.step);
  const bool wanted = options_.clip && scale.generation == options_.generation &&
                      progress != progress_.end() && progress->second.closed == owned_.size() &&
                      !bindings_.at(scale.step).scale.has_value();
  if (!wanted) return actions;
  bindings_.at(scale.step).scale = scale.scale;
  AdvanceClosed(&actions);
  return actions;
}

bool Shard::AdvanceClosed(FragmentId id, ShardActions* actions) {
  const Owned& owned = fragments_.at(id);
  const Step step = owned.version;
  if (!held_back_.contains({step, id}) || !MayAdvance(owned)) return false;
  const std::optional<double> scale = options_.clip ? bindings_.at(step).scale : 1;
  if (scale.has_value()) Advance(id, step, *scale, actions);
  return scale.has_value();
}

void Shard::AdvanceClosed(ShardActions* actions) {
  for (const FragmentId id : owned_) AdvanceClosed(id, actions);
}

void Shard::Advance(FragmentId id, Step step, double scale, ShardActions* actions) {
  held_back_.erase({step, id});
  Owned& owned = fragments_.at(id);
  Round& round = owned.rounds.at(step);
  const auto bound = bindings_.find(step);
  if (bound != bindings_.end() && Reads(bound->second, id)) owned.retained[step] = owned.value;
  if (!round.mean.empty() && scale != 0) {
    // In place only if nobody else holds this version: not a send under way, not an evaluation.
    std::shared_ptr<FloatBuffer> next = owned.value;
    const bool alone = owned.value.use_count() == 2;  // `next` and our own
    std::atomic_thread_fence(std::memory_order_acquire);
    if (!alone) next = std::make_shared<FloatBuffer>(owned.value->size());
    if (InSnapshot(owned)) {
      kept_[id] = SnapshotBytes(owned);
      snapshot_bytes_ += kept_[id];
      owned.state = std::make_shared<OptimizerState>(owned.state->Clone());
    }
    const size_t workers =
        bound == bindings_.end() ? 0 : bound->second.holders->sets->members.size();
    const double lr =
        LearningRate(options_.optimizer, step) * BatchFactor(options_.optimizer, workers);
    ++owned.state->updates;
    for (const Range& range : owned.ranges) {
      optimizer_->Update(owned.value->data(), round.mean.data(), next->data(), *owned.state,
                         range.begin, range.end, static_cast<float>(scale), lr, range.weight_decay,
                         owned.state->updates);
    }
    owned.value = std::move(next);
  }
  round_bytes_ -= round.bytes();
  if (const auto comparison = owned.comparisons.find(step); comparison != owned.comparisons.end())
    comparison->second.SetMean(std::move(round.mean));
  owned.rounds.erase(step);
  owned.version = step + 1;
  std::vector<RequestKey> waiting = std::exchange(owned.waiting, {});
  for (const RequestKey& key : waiting) Deliver(key, id, owned, actions);
  Compare(id, step, actions);
  ++progress_[step].done;
  Report(step, actions);
  CloseReady(id, actions);  // the next step's round may have had all its headers
}

void Shard::Report(Step step, ShardActions* actions) {
  Progress& progress = progress_[step];
  if (progress.closed == owned_.size() && !progress.squares.empty()) {
    Reduced reduced{
        options_.shard, step, std::exchange(progress.squares, {}), {}, progress.not_finite};
    for (const std::vector<double>& squares : progress.holder_squares) {
      reduced.holder_squares.insert(reduced.holder_squares.end(), squares.begin(), squares.end());
    }
    Remember(last_reduced_, reduced);
    actions->reduced.push_back(std::move(reduced));
  }
  if (progress.done == owned_.size()) {
    StepDone done{options_.shard, step, progress.uncovered};
    uncovered_ += progress.uncovered;
    Remember(last_done_, done);
    actions->done.push_back(done);
    committed_ = step;
    progress_.erase(step);
    Forget(step);
    ReportHashes(actions);
    TakeSnapshot(actions);
  }
}

void Shard::ReportHashes(ShardActions* actions) {
  if (!closing_.has_value() || hashes_.has_value() || committed_ + 1 != *closing_ || owned_.empty())
    return;
  hashes_.emplace(StateHashes{options_.shard, *closing_, {}});
  for (const FragmentId id : owned_) {
    const FloatBuffer& value = *fragments_.at(id).value;
    hashes_->hashes.push_back(
        Hash64({reinterpret_cast<const char*>(value.data()), static_cast<size_t>(value.bytes())}));
  }
  actions->hashes.push_back(*hashes_);
}

ShardActions Shard::ReleaseEvaluation(Step step) {
  if (const auto bound = bindings_.find(step); bound != bindings_.end())
    bound->second.evaluating = false;
  Forget(step);
  return {};
}

// A holder's contribution ends its reads, so only others are looked for among the readers.
bool Shard::Reads(const Bound& bound, FragmentId id) const {
  const auto& leaves = Leaves(bound, id);
  return bound.evaluating ||
         std::any_of(bound.reading.begin(), bound.reading.end(),
                     [&](Incarnation reader) { return !leaves.contains(reader); });
}

void Shard::Forget(Step step) {
  const auto bound = bindings_.find(step);
  if (bound == bindings_.end() || bound->second.evaluating || !bound->second.reading.empty())
    return;
  for (auto& [id, owned] : fragments_) {
    owned.retained.erase(step);
    owned.comparisons.erase(step);
  }
  if (step <= committed_) bindings_.erase(bound);
}

}  // namespace sdp
