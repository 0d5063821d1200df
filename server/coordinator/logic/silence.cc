// Coordinator: members of which nothing is heard, or that do not go on. Workers are excluded; a
// shard ends the generation.
#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/coordinator/logic/coordinator.h"

namespace sdp {
namespace {

// When most fall silent together it is probably the coordinator that is cut off; after so many
// leases the members are held to be lost all the same.
constexpr int kLeasesOfPatience = 3;

std::string Seconds(absl::Duration duration) {
  return absl::FormatDuration(absl::Trunc(duration, absl::Milliseconds(100)));
}

}  // namespace

// Long enough that when the first lease of many expires, the others have nearly done so: heartbeats
// do not stop at the same moment.
bool Coordinator::NearlySilent(absl::Time heard, absl::Time now) const {
  return now - heard > options_.lease - options_.lease / 4;
}

// Of more than half of the workers, and of more than one member, nothing is heard. When they are
// heard again, those of whom this is not yet so get a new lease: all were cut off.
void Coordinator::NoticeCut(absl::Time now, CoordinatorActions* actions) {
  size_t workers = 0, all_workers = 0, shards = 0;
  for (const auto& [name, worker] : workers_) {
    if (MayHaveLeft(worker)) continue;
    ++all_workers;
    workers += NearlySilent(worker.heard, now) ? 1 : 0;
  }
  for (const ShardState& shard : shards_) shards += NearlySilent(shard.heard, now) ? 1 : 0;
  const bool cut_off = shards + workers > 1 && 2 * workers > all_workers;
  if (std::exchange(cut_off_, cut_off) == cut_off) return;
  if (cut_off) {
    actions->log.push_back(absl::StrCat("of ", workers, " of ", all_workers, " workers and ",
                                        shards, " of ", shards_.size(),
                                        " shards nothing is heard: is this host cut off?"));
    return;
  }
  actions->log.push_back("most workers are heard of again, or given up");
  for (auto& [name, worker] : workers_) {
    if (NearlySilent(worker.heard, now)) worker.heard = now;
  }
  for (ShardState& shard : shards_) {
    if (NearlySilent(shard.heard, now)) shard.heard = now;
  }
}

// Who leaves and has done all that it was bound to. Most have gone when they were told that they
// may, which is not stored: a coordinator that takes a run up knows everybody who has left in
// order.
bool Coordinator::MayHaveLeft(const WorkerState& worker) const {
  if (!worker.leaving || Busy(worker.incarnation)) return false;
  const auto bound = [&](const auto& step) {
    return step.first > committed_ && step.second.view->RankOf(worker.incarnation).has_value();
  };
  return std::none_of(steps_.begin(), steps_.end(), bound);
}

// Members that were not heard of for longer than their lease.
void Coordinator::ExcludeSilent(absl::Time now, CoordinatorActions* actions) {
  const absl::Duration allowed = cut_off_ ? kLeasesOfPatience * options_.lease : options_.lease;
  std::vector<std::string> left;
  std::vector<std::pair<std::string, absl::Duration>> silent;
  for (const auto& [name, worker] : workers_) {
    if (now - worker.heard <= options_.lease) continue;
    if (MayHaveLeft(worker)) {
      left.push_back(name);
    } else if (now - worker.heard > allowed) {
      silent.emplace_back(name, now - worker.heard);
    }
  }
  for (const std::string& name : left) {
    ForgetQuestions(workers_.Erase(name).incarnation);
    actions->log.push_back(absl::StrCat(name, " has left"));
  }
  for (const auto& [name, silence] : silent) {
    Exclude(name,
            absl::StrCat("no heartbeat for ", Seconds(silence), ", allowed are ",
                         Seconds(options_.lease)),
            actions);
    Progress(now);
  }
}

// Its part of the parameters is gone: nothing that is newer than a checkpoint can be made whole.
void Coordinator::GoBack(const std::string& why, absl::Time now, CoordinatorActions* actions) {
  if (phase_ >= Phase::kEnding) return;
  if (stop_requested_) return End(absl::UnavailableError(why), actions);
  CoordinatorActions then;
  EndGeneration(why, now, &then);
  Persist(GenerationEndRecord{generation_, why, spiked_}, std::move(then), actions);
}

// `then`: what may be told once the end is stored.
void Coordinator::EndGeneration(const std::string& why, absl::Time now, CoordinatorActions* then) {
  phase_ = Phase::kOver;
  Tell({.kind = RunEvent::Kind::kGoBack, .reason = why}, then);
  // Steps before the checkpoint are not done again: they have their lines now, with what was
  // reported of them. All that counts of a committed step has arrived: who has not reported it has
  // not lost its samples.
  for (auto& [number, step] : steps_) {
    if (number > committed_ || step.binding.closing) break;
    step.reports_gone.insert(step.expect_reports.begin(), step.expect_reports.end());
    then->metrics.push_back(MetricsOf(step, now));
    last_commit_ = step.committed_at;
  }
  then->go_back = why;
}

void Coordinator::LoseSilentShards(absl::Time now, CoordinatorActions* actions) {
  const absl::Duration lease = cut_off_ ? kLeasesOfPatience * options_.lease : options_.lease;
  for (ShardState& shard : shards_) {
    const absl::Duration silence = now - shard.heard;
    const absl::Duration allowed =
        shard.successor.has_value() ? std::min(options_.lease, options_.lease_of_replaced) : lease;
    if (silence > allowed) {
      return GoBack(
          absl::StrCat(
              shard.registration.name, " is lost: no heartbeat for ", Seconds(silence),
              ", allowed are ", absl::FormatDuration(allowed),
              shard.successor.has_value() ? " once another process comes under its name" : ""),
          now, actions);
    }
    if (!shard.successor.has_value() || now - shard.succeeds_since <= options_.lease) continue;
    const absl::Status lives = absl::FailedPreconditionError(
        absl::StrCat("a shard of the name ", shard.registration.name,
                     " is in the run and lives: its parameters are there"));
    actions->log.push_back(absl::StrCat("refused another process: ", lives.message()));
    actions->admit_shards.push_back(
        {shard.successor->name, shard.successor->instance, shard.successor->address, lives});
    shard.successor.reset();
  }
}

// Members that have all they need for the oldest step and do not go on with it. Waiting for others
// is no fault.
void Coordinator::ExcludeStuck(absl::Duration idle, CoordinatorActions* actions) {
  const auto oldest = steps_.find(committed_ + 1);
  if (oldest == steps_.end()) return;
  std::vector<std::pair<std::string, std::string>> stuck;  // with phase
  for (const auto& [name, worker] : workers_) {
    const bool computes = oldest->second.expect_reports.contains(worker.incarnation) &&
                          worker.answered > committed_ && !worker.waits;
    if (computes) stuck.emplace_back(name, worker.phase);
  }
  for (const auto& [name, phase] : stuck) {
    Exclude(name, absl::StrCat("no progress for ", Seconds(idle), " (", phase, ")"), actions);
  }
}

}  // namespace sdp
