// Coordinator: its picture of the run, for people. Pure looking; what it costs is bounded.
#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/coordinator/logic/coordinator.h"

namespace sdp {
namespace {

// Of the holders of a unit, so many are named.
constexpr size_t kNamedHolders = 16;

void CountIn(const std::string& state, absl::Duration silence, RunStatus::Count* count) {
  ++count->states[state];
  count->longest_silence = std::max(count->longest_silence, silence);
}

}  // namespace

int64_t RunStatus::Count::all() const {
  return std::accumulate(states.begin(), states.end(), int64_t{0},
                         [](int64_t sum, const auto& state) { return sum + state.second; });
}

RunStatus::Member Coordinator::MemberOf(const ShardState& shard, int64_t number,
                                        absl::Time now) const {
  RunStatus::Member member{"shard", shard.registration.name, number, shard.registration.address};
  member.silence = now - shard.heard;
  if (number < 0) {
    member.state = member.phase = "registered";
    return member;
  }
  member.phase = shard.finished ? "finished" : "serving";
  member.state = Loading(shard)                     ? "starting"
                 : shard.leaving && !shard.finished ? "leaving"
                                                    : member.phase;
  member.peak_memory_bytes = shard.peak_memory_bytes;
  member.step = shard.done;
  return member;
}

std::string Coordinator::StateOf(const WorkerState& worker) const {
  if (worker.leaving) return "leaving";
  if (!worker.ready) return "preparing";
  return worker.first_step.has_value() ? "training" : "waiting to join";
}

RunStatus Coordinator::status(absl::Time now, size_t most_workers) const {
  static constexpr const char* kPhases[] = {
      "waiting for shards", "starting shards", "waiting for workers", "training", "ending", "over"};
  RunStatus status;
  status.phase = kPhases[static_cast<size_t>(phase_)];
  if (!PausedBy().empty()) status.phase = "paused";
  status.waiting_for = WaitingFor();
  status.generation = generation_;
  status.step = next_step_;
  status.committed = committed_;
  status.steps = options_.steps;
  status.loss = last_loss_;
  status.full_loss = last_full_loss_;
  status.plan_hash = plan_ == nullptr ? 0 : plan_->hash;
  status.checkpoint = last_checkpoint_;
  if (last_checkpoint_.has_value()) status.checkpoint_age = now - last_checkpoint_at_;
  status.checkpoint_error = checkpoint_error_;
  status.samples_dealt = cursor_.next();
  status.samples_returned = CountOf(cursor_.returned());
  if (data_.has_value()) status.train_samples = data_->train_samples;
  if (view_ != nullptr) status.view = view_->id();
  for (size_t s = 0; s < shards_.size(); ++s)
    status.members.push_back(MemberOf(shards_[s], static_cast<int64_t>(s), now));
  for (const auto& [name, shard] : registered_shards_)
    status.members.push_back(MemberOf(shard, -1, now));
  for (const RunStatus::Member& shard : status.members)
    CountIn(shard.state, shard.silence, &status.shards);
  for (const auto& [name, worker] : workers_) {
    const std::string state = StateOf(worker);
    CountIn(state, now - worker.heard, &status.workers);
    if (most_workers == 0) continue;
    --most_workers;
    RunStatus::Member member{"worker", name, worker.incarnation.value(), ""};
    member.phase = worker.phase.empty()
                       ? (worker.ready ? "ready" : "registered")
                       : absl::StrCat(worker.leaving ? "leaving, " : "", worker.phase);
    member.silence = now - worker.heard;
    member.peak_memory_bytes = worker.peak_memory_bytes;
    member.step = worker.reported;
    member.ledger = worker.ledger;
    member.samples = PortionOf(worker);
    member.state = state;
    member.units = static_cast<int64_t>(UnitsOf(worker.incarnation).size());
    status.members.push_back(std::move(member));
  }
  return status;
}

std::vector<UnitId> Coordinator::UnitsOf(Incarnation worker) const {
  if (view_ == nullptr || plan_ == nullptr) return {};
  const std::optional<int> rank = view_->RankOf(worker);
  // A plan may be of other members than the view that follows it.
  if (!rank.has_value() || static_cast<size_t>(*rank) >= plan_->units.size()) return {};
  return plan_->units[static_cast<size_t>(*rank)];
}

UnitStatus Coordinator::unit_status(UnitId unit) const {
  UnitStatus status;
  for (const FragmentId fragment : options_.layout->block(unit)) {
    const ShardId shard = place_[static_cast<size_t>(fragment.value())];
    if (std::find(status.shards.begin(), status.shards.end(), shard) == status.shards.end())
      status.shards.push_back(shard);
  }
  std::sort(status.shards.begin(), status.shards.end());
  if (view_ == nullptr || plan_ == nullptr) return status;
  const auto& holders = plan_->holders[static_cast<size_t>(unit.value())];
  status.holders = static_cast<int64_t>(holders.size());
  if (options_.catalog->unit(unit).shared) return status;
  for (const int rank : holders) {
    if (status.names.size() == kNamedHolders) break;
    // A plan may be of more members than the view that follows it.
    if (rank < view_->size())
      status.names.push_back(NameOf(view_->members()[static_cast<size_t>(rank)]));
  }
  return status;
}

}  // namespace sdp
