// Coordinator: which bindings have a checkpoint, and what becomes of it.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/coordinator/logic/coordinator.h"

namespace sdp {

// The version that a generation starts from is on the disk already, or the initial one.
bool Coordinator::CheckpointDue(Step step, bool closing, absl::Time now) const {
  const int64_t every = options_.checkpoint_every;
  return step > options_.start.state.step &&
         (closing || checkpoint_asked_ || (every > 0 && step % every == 0) ||
          now - checkpoint_bound_at_ >= options_.checkpoint_after);
}

CoordinatorActions Coordinator::TakeCheckpoint(Step* step, absl::Status* error) {
  CoordinatorActions actions;
  *error = absl::OkStatus();
  if (phase_ != Phase::kTraining) {
    *error = absl::FailedPreconditionError(absl::StrCat("the run does not train: ", WaitingFor()));
  } else if (closing_.has_value()) {
    *step = *closing_;  // the end has one
  } else {
    checkpoint_asked_ = true;
    *step = std::max(next_step_, options_.start.state.step + 1);
    actions.log.push_back(absl::StrCat("checkpoint ", *step, " was asked for"));
  }
  return actions;
}

void Coordinator::ExpectCheckpoint(const StepState& step) {
  CheckpointState& checkpoint = checkpoints_[step.binding.step];
  CheckpointManifest& manifest = checkpoint.manifest;
  manifest.step = step.binding.step;
  manifest.generation = generation_;
  manifest.cursor = step.binding.cursor;
  manifest.config = options_.config;
  manifest.config_hash = options_.config_hash;
  manifest.coverage = options_.coverage;
  manifest.data = *data_;
  manifest.plan_hash = step.plan->hash;
  for (const ShardId shard : Owners()) checkpoint.expect.insert(shard);
}

CoordinatorActions Coordinator::OnCheckpointPart(const CheckpointPart& part, absl::Time now) {
  CoordinatorActions actions;
  const auto it = checkpoints_.find(part.step);
  if (it == checkpoints_.end() || it->second.expect.erase(part.shard) == 0) return actions;
  CheckpointState& checkpoint = it->second;
  Progress(now);
  if (part.error.empty()) {
    checkpoint.files.emplace(part.shard, part.file);
  } else if (checkpoint.error.empty()) {
    checkpoint.error = absl::StrCat(
        shards_[static_cast<size_t>(part.shard.value())].registration.name, ": ", part.error);
  }
  if (!checkpoint.expect.empty()) return actions;
  if (!checkpoint.error.empty()) {
    FailCheckpoint(part.step, checkpoint.error, &actions);
    TryFinish(now, &actions);
    return actions;
  }
  WriteIfWhole(part.step, &actions);
  return actions;
}

// All files are there, and nothing can come back any more from the steps before it: the cursor is
// fixed.
void Coordinator::WriteIfWhole(Step step, CoordinatorActions* actions) {
  const auto it = checkpoints_.find(step);
  if (it == checkpoints_.end() || !it->second.expect.empty() || committed_ < step - 1) return;
  CheckpointManifest manifest = it->second.manifest;
  for (auto& [shard, file] : it->second.files) manifest.files.push_back(std::move(file));
  WhenStored(actions)->manifests.push_back(std::move(manifest));
}

CoordinatorActions Coordinator::CheckpointStored(Step step, const absl::Status& status,
                                                 absl::Time now) {
  CoordinatorActions actions;
  if (!checkpoints_.contains(step)) return actions;
  Progress(now);
  if (status.ok()) {
    checkpoints_.erase(step);
    last_checkpoint_ = step;
    last_checkpoint_at_ = now;
    Tell({.kind = RunEvent::Kind::kCheckpoint, .step = step}, &actions);
  } else {
    FailCheckpoint(step, std::string(status.message()), &actions);
  }
  TryFinish(now, &actions);
  return actions;
}

// Training goes on: the next checkpoint may find room. The error stays for people to see.
void Coordinator::FailCheckpoint(Step step, const std::string& why, CoordinatorActions* actions) {
  checkpoint_error_ = absl::StrCat("checkpoint ", step, ": ", why);
  Tell({.kind = RunEvent::Kind::kCheckpointFailed, .step = step, .reason = why}, actions);
  checkpoints_.erase(step);  // `why` may be in it
  actions->abandoned.push_back(step);
}

}  // namespace sdp
