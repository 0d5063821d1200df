// Coordinator: shards that leave. Nobody else has their parameters, so the generation ends with
// them, at a checkpoint that is taken for them: its closing step has no samples, and no step is
// done again.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/coordinator/logic/coordinator.h"

namespace sdp {

CoordinatorActions Coordinator::LeaveShard(ShardId shard, absl::Time now) {
  CoordinatorActions actions;
  const auto number = static_cast<size_t>(shard.value());
  if (number >= shards_.size() || shards_[number].leaving || phase_ >= Phase::kEnding)
    return actions;
  ShardState& leaver = shards_[number];
  leaver.heard = now;
  const Step at = closing_.value_or(next_step_);
  if (stop_requested_ || at >= options_.steps || (closing_.has_value() && !Draining())) {
    actions.log.push_back(
        absl::StrCat("already finishing: ", leaver.registration.name, " leaves with the others"));
    return actions;
  }
  leaver.leaving = true;
  if (!Draining()) drain_by_ = now + StopTime();
  Persist(ShardLeaveRecord{generation_, shard}, {}, &actions);
  Tell({.kind = RunEvent::Kind::kLeave, .step = at, .shard = leaver.registration.name}, &actions);
  if (let_go_) {
    WhenStored(&actions)->finish_shards.push_back(shard);
  } else if (at == options_.start.state.step) {  // of which there is a checkpoint, or it is drawn
    LetShardsGo(now, &actions);
  } else {
    TryBind(now, &actions);
  }
  return actions;
}

CoordinatorActions Coordinator::Drain(const std::string& name, absl::Time now,
                                      absl::Status* error) {
  *error = absl::OkStatus();
  if (phase_ == Phase::kOver) {
    *error = absl::FailedPreconditionError(
        "the run goes back to a checkpoint just now: ask again when it trains");
    return {};
  }
  for (size_t s = 0; s < shards_.size(); ++s) {
    if (shards_[s].registration.name == name)
      return LeaveShard(ShardId(static_cast<int32_t>(s)), now);
  }
  if (const WorkerState* const worker = workers_.Find(name); worker != nullptr)
    return Leave(worker->incarnation, now);
  *error =
      registered_shards_.contains(name)
          ? absl::FailedPreconditionError(
                absl::StrCat(name, " has no parameters yet (", WaitingFor(), "): end it"))
          : absl::NotFoundError(absl::StrCat("no member of the name ", name, " is in the run"));
  return {};
}

// The closing step is not the run's: the next generation goes on from it.
bool Coordinator::ClosesGeneration() const {
  return closing_.has_value() && *closing_ < options_.steps && Draining() && !stop_requested_;
}

std::vector<std::string> Coordinator::LeavingShards() const {
  std::vector<std::string> names;
  for (const ShardState& shard : shards_) {
    if (shard.leaving) names.push_back(shard.registration.name);
  }
  return names;
}

// Their parameters are in a checkpoint, or will not be.
void Coordinator::LetShardsGo(absl::Time now, CoordinatorActions* actions) {
  if (std::exchange(let_go_, true)) return;
  drain_by_ = now + options_.stop_timeout;
  Progress(now);
  for (size_t s = 0; s < shards_.size(); ++s) {
    if (shards_[s].leaving)
      WhenStored(actions)->finish_shards.push_back(ShardId(static_cast<int32_t>(s)));
  }
}

void Coordinator::ShardsAreGone(absl::Time now, CoordinatorActions* actions) {
  const bool gone = std::all_of(shards_.begin(), shards_.end(), [](const ShardState& shard) {
    return shard.finished || !shard.leaving;
  });
  if (!let_go_ || stop_requested_ || !gone) return;
  const std::vector<std::string> names = LeavingShards();
  GoBack(absl::StrCat(absl::StrJoin(names, ", "), names.size() == 1 ? " has left" : " have left"),
         now, actions);
}

// No wait is without an end: they go without the checkpoint, or are held to be gone.
void Coordinator::EndLateDrain(absl::Time now, CoordinatorActions* actions) {
  if (phase_ >= Phase::kEnding || stop_requested_) return;
  const std::string who = absl::StrJoin(LeavingShards(), ", ");
  const bool loading = std::any_of(shards_.begin(), shards_.end(), [this](const ShardState& shard) {
    return shard.leaving && Loading(shard);  // and hears nothing meanwhile; its lease counts
  });
  if (let_go_ && loading) {
    drain_by_ = now + options_.stop_timeout;
    return;
  }
  if (let_go_) return GoBack(absl::StrCat(who, ": told to leave, and still here"), now, actions);
  actions->log.push_back(
      absl::StrCat(who, ": there was no checkpoint in time to leave with: ", WaitingForSteps()));
  LetShardsGo(now, actions);
}

}  // namespace sdp
