// Worker: weights on their way, to a training step as their buffers become free, to a walk of the
// full model as it wants them.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/logic/worker.h"

namespace sdp {

void Worker::Expect(Weights& weights, UnitId unit) const {
  const size_t fragments = options_.layout->block(unit).size();
  weights.missing[unit] = fragments;
  weights.parts[unit].resize(fragments);
}

// Whether an earlier step still needs the fragment's buffers.
bool Worker::Busy(Step before, FragmentId fragment) const {
  for (const auto& [step, state] : steps_) {
    if (step >= before) break;
    if (state.due.contains(fragment) || state.in_use.contains(fragment) ||
        state.unacknowledged.contains(fragment)) {
      return true;
    }
  }
  return false;
}

// Asks for all weights whose buffers are free.
void Worker::PullFree(WorkerActions* actions) {
  for (auto& [step, state] : steps_) {
    if (state.unasked.empty()) continue;
    std::vector<FragmentId> free;
    for (const FragmentId id : state.unasked) {
      if (!Busy(step, id)) free.push_back(id);
    }
    for (const FragmentId id : free) {
      state.unasked.erase(id);
      state.weights.asked.insert(id);
    }
    PullFragments(Key(state), free, actions);
  }
}

// Weights come as fast as the gradients of what was there before leave: the worker never has more
// of the full model than a walk needs, however slow its link is.
void Worker::PullWalked(WorkerActions* actions) {
  if (!walk_.has_value() || !steps_.at(walk_->step).unacknowledged_dense.empty()) return;
  const std::vector<FragmentId> wanted = std::exchange(walk_->unasked, {});
  walk_->weights.asked.insert(wanted.begin(), wanted.end());
  PullFragments(Key(walk_->view, walk_->version), wanted, actions);
}

void Worker::PullFragments(const RequestKey& key, const std::vector<FragmentId>& fragments,
                           WorkerActions* actions) const {
  std::map<ShardId, std::vector<FragmentId>> by_shard;
  for (const FragmentId id : fragments) by_shard[PlaceOf(id)].push_back(id);
  for (auto& [shard, wanted] : by_shard) {
    std::sort(wanted.begin(), wanted.end());  // forward order: first layers are the most urgent
    PullRequest request;
    static_cast<RequestKey&>(request) = key;
    request.fragments = std::move(wanted);
    actions->pulls.push_back({shard, std::move(request)});
  }
}

WorkerActions Worker::OnValue(Step step, FragmentId fragment, WireBuffer value, int64_t wire_bytes,
                              absl::Time /*now*/) {
  WorkerActions actions;
  // A walk's traffic is not the step's: the full model passes by.
  if (walk_.has_value() && walk_->version == step && walk_->weights.asked.contains(fragment)) {
    Arrived(step, fragment, std::move(value), walk_->weights, &actions);
    return actions;
  }
  const auto it = steps_.find(step);
  if (it == steps_.end() || !it->second.weights.asked.contains(fragment)) return actions;  // twice
  StepState& state = it->second;
  state.pulled_bytes += wire_bytes;
  if (const auto from = state.awaited.find(PlaceOf(fragment));
      from != state.awaited.end() && --from->second == 0) {
    SayDone(state, from->first, &actions);
  }
  Arrived(step, fragment, std::move(value), state.weights, &actions);
  return actions;
}

void Worker::Arrived(Step step, FragmentId fragment, WireBuffer value, Weights& weights,
                     WorkerActions* actions) const {
  weights.asked.erase(fragment);
  const Fragment& spec = options_.layout->fragment(fragment);
  if (value.size() != spec.size) {
    actions->exit = absl::InternalError(absl::StrCat("fragment ", fragment.value(), " of step ",
                                                     step, " came with ", value.size(),
                                                     " elements, it has ", spec.size));
    return;
  }
  const FragmentId first = options_.layout->block(spec.unit).front();
  std::vector<WireBuffer>& parts = weights.parts[spec.unit];
  parts[static_cast<size_t>(fragment.value() - first.value())] = std::move(value);
  if (--weights.missing[spec.unit] > 0) return;
  actions->units.push_back({step, spec.unit, std::move(parts)});
  weights.parts.erase(spec.unit);
  weights.missing.erase(spec.unit);
}

}  // namespace sdp
