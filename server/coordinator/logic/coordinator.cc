#include "server/coordinator/logic/coordinator.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/hash.h"

namespace sdp {
namespace {

template <typename T>
void MoveTo(std::vector<T>& to, std::vector<T>&& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

std::vector<std::vector<size_t>> Owned(const std::vector<ShardId>& place, int shards) {
  std::vector<std::vector<size_t>> owned(static_cast<size_t>(shards));
  for (size_t f = 0; f < place.size(); ++f)
    owned[static_cast<size_t>(place[f].value())].push_back(f);
  return owned;
}

std::vector<double> LeastCoverage(const Coordinator::Options& options) {
  const auto least = [](const std::vector<double>& coverage) {
    return coverage.empty() ? 1.0 : *std::min_element(coverage.begin(), coverage.end());
  };
  std::vector<double> all = {least(options.coverage)};
  for (const CoveragePhase& phase : options.phases) all.push_back(least(phase.coverage));
  return all;
}

}  // namespace

void CoordinatorActions::Append(CoordinatorActions&& more) {
  MoveTo(store, std::move(more.store));
  MoveTo(admit_shards, std::move(more.admit_shards));
  MoveTo(admit_workers, std::move(more.admit_workers));
  MoveTo(bind_shards, std::move(more.bind_shards));
  MoveTo(exclude, std::move(more.exclude));
  MoveTo(bind_workers, std::move(more.bind_workers));
  MoveTo(scales, std::move(more.scales));
  MoveTo(releases, std::move(more.releases));
  MoveTo(manifests, std::move(more.manifests));
  MoveTo(abandoned, std::move(more.abandoned));
  MoveTo(metrics, std::move(more.metrics));
  MoveTo(events, std::move(more.events));
  MoveTo(log, std::move(more.log));
  MoveTo(finish_shards, std::move(more.finish_shards));
  if (more.go_back.has_value() && !go_back.has_value()) go_back = std::move(more.go_back);
  if (more.stop.has_value() && !stop.has_value()) stop = std::move(more.stop);
}

Coordinator::Coordinator(const Options& options)
    : options_(options),
      awaited_(options.workers),
      generation_(options.start.generation),
      term_(options.start.generation.value()),
      place_(options.layout->Place(options.shards)),
      owned_(Owned(place_, options.shards)),
      least_coverage_(LeastCoverage(options)),
      last_incarnation_(options.start.last_incarnation),
      data_(options.start.data),
      last_view_(options.start.last_view),
      cursor_(options.start.cursor),
      next_step_(options.start.state.step),
      committed_(options.start.state.step - 2),
      hashes_(place_.size()),
      loss_watch_(options.spike_factor, options.start.losses),
      first_bound_(options.start.first_bound) {}

CoordinatorActions Coordinator::Start(absl::Time now) {
  Progress(now);
  CoordinatorActions actions;
  Tell({.kind = RunEvent::Kind::kStart, .reason = absl::StrJoin(options_.start.notes, "; ")},
       &actions);
  actions.log.push_back(
      absl::StrCat("waiting for ", options_.shards, " shards and ", options_.workers, " workers"));
  return actions;
}

void Coordinator::Tell(RunEvent event, CoordinatorActions* actions) const {
  event.generation = generation_;
  if (event.step < 0) event.step = next_step_;
  actions->log.push_back(EventText(event));
  actions->events.push_back(std::move(event));
}

void Coordinator::Persist(Record record, CoordinatorActions then, CoordinatorActions* actions,
                          std::optional<Step> bound) {
  const int64_t id = next_record_++;
  deferred_[id] = {false, std::move(then), bound};
  actions->store.push_back({id, std::move(record)});
}

CoordinatorActions* Coordinator::WhenStored(CoordinatorActions* actions) {
  return deferred_.empty() ? actions : &deferred_.rbegin()->second.actions;
}

CoordinatorActions Coordinator::Stored(int64_t id, absl::Time now) {
  CoordinatorActions actions;
  const auto deferred = deferred_.find(id);
  if (deferred == deferred_.end()) return actions;
  deferred->second.stored = true;
  // In order: a binding's message also depends on the records before it.
  while (!deferred_.empty() && deferred_.begin()->second.stored) {
    DeferredActions next = std::move(deferred_.begin()->second);
    deferred_.erase(deferred_.begin());
    for (auto& admit : next.actions.admit_workers) FillAdmission(*admit.admission);
    actions.Append(std::move(next.actions));
    if (next.bound.has_value()) {
      if (const auto step = steps_.find(*next.bound); step != steps_.end()) {
        step->second.durable = true;
        AnswerAsked(*next.bound, &actions);
      }
    }
  }
  TryFinish(now, &actions);
  return actions;
}

std::vector<ShardId> Coordinator::Owners() const {
  std::vector<ShardId> owners;
  for (size_t s = 0; s < shards_.size(); ++s) {
    if (shards_[s].fragments > 0) owners.push_back(ShardId(static_cast<int32_t>(s)));
  }
  return owners;
}

CoordinatorActions Coordinator::OnStepDone(const StepDone& done, absl::Time now) {
  CoordinatorActions actions;
  const size_t number = static_cast<size_t>(done.shard.value());
  if (number >= shards_.size() || done.step <= shards_[number].done) return actions;
  shards_[number].done = done.step;
  if (const auto step = steps_.find(done.step); step != steps_.end())
    step->second.uncovered += done.uncovered;
  Commit(now, &actions);
  return actions;
}

bool Coordinator::ShardsHave(Step done) const {
  return std::all_of(shards_.begin(), shards_.end(), [&](const ShardState& shard) {
    return shard.fragments == 0 || shard.done >= done;
  });
}

void Coordinator::Commit(absl::Time now, CoordinatorActions* actions) {
  while (committed_ + 1 < next_step_ && ShardsHave(committed_ + 1)) {
    ++committed_;
    Progress(now);
    if (const auto step = steps_.find(committed_); step != steps_.end()) {
      step->second.committed_at = now;
      slowest_step_ = std::max(slowest_step_, now - last_commit_);
    }
    if (phase_ == Phase::kStarting && committed_ == options_.start.state.step - 1) {
      phase_ = Phase::kWorkers;
      last_arrival_ = now;
      actions->log.push_back(absl::StrCat("all shards have their start values; waiting for ",
                                          options_.workers - workers_.ready(), " workers"));
      MakeView(now, actions);
    }
    if (asked_.contains(committed_ + 2)) AnswerAsked(committed_ + 2, actions);
    WriteIfWhole(committed_ + 1, actions);
  }
  TryBind(now, actions);
  ReportSteps(now, actions);
  TryFinish(now, actions);
}

CoordinatorActions Coordinator::OnStepReport(const StepReport& report, absl::Time now) {
  CoordinatorActions actions;
  WorkerState* const worker = workers_.Find(report.worker);
  const auto step = steps_.find(report.step);
  if (worker == nullptr || step == steps_.end() ||
      step->second.expect_reports.erase(report.worker) == 0)
    return actions;
  worker->heard = now;
  if (report.step > worker->reported) worker->ledger = report.ledger;
  worker->reported = std::max(worker->reported, report.step);
  worker->peak_memory_bytes = std::max(worker->peak_memory_bytes, report.peak_memory_bytes);
  worker->allocated_peak_bytes =
      std::max(worker->allocated_peak_bytes, report.allocated_peak_bytes);
  const View& view = *step->second.view;
  worker->pace.Add(report.forward + report.backward,
                   view.portions()[static_cast<size_t>(*view.RankOf(report.worker))]);
  step->second.reports.emplace(report.worker, report);
  perhaps_left_.push_back(report.worker);
  Progress(now);
  ForgetLeft();
  ReportSteps(now, &actions);
  TryFinish(now, &actions);
  return actions;
}

CoordinatorActions Coordinator::OnStateHashes(const StateHashes& hashes, absl::Time now) {
  CoordinatorActions actions;
  const size_t number = static_cast<size_t>(hashes.shard.value());
  if (number >= shards_.size() || shards_[number].hashed ||
      hashes.hashes.size() != shards_[number].fragments) {
    return actions;
  }
  shards_[number].hashed = true;
  size_t next = 0;
  for (const size_t f : owned_[number]) hashes_[f] = hashes.hashes[next++];
  Progress(now);
  TryFinish(now, &actions);
  return actions;
}

CoordinatorActions Coordinator::WorkerHeartbeat(Incarnation incarnation, const std::string& phase,
                                                bool waits, absl::Time now, absl::Status* error) {
  WorkerState* const worker = workers_.Find(incarnation);
  if (worker == nullptr) {
    *error = NotInTheRun(incarnation);
    return {};
  }
  *error = absl::OkStatus();
  worker->heard = now;
  // A long evaluation or first step shows itself in a changing phase.
  if (worker->phase != phase) Progress(now);
  worker->phase = phase;
  worker->waits = waits;
  return {};
}

CoordinatorActions Coordinator::ShardHeartbeat(ShardId shard, const std::string& phase,
                                               int64_t peak_memory_bytes, absl::Time now) {
  if (const size_t number = static_cast<size_t>(shard.value()); number < shards_.size()) {
    ShardState& state = shards_[number];
    state.heard = now;
    // A long checkpoint shows itself in a changing phase.
    if (state.phase != phase) Progress(now);
    state.phase = phase;
    state.peak_memory_bytes = std::max(state.peak_memory_bytes, peak_memory_bytes);
  }
  return {};
}

CoordinatorActions Coordinator::ShardFinished(ShardId shard, absl::Time now) {
  CoordinatorActions actions;
  if (const size_t number = static_cast<size_t>(shard.value()); number < shards_.size()) {
    shards_[number].finished = true;
    ShardsAreGone(now, &actions);
    TryFinish(now, &actions);
  }
  return actions;
}

CoordinatorActions Coordinator::Stop(const std::string& reason, absl::Time now) {
  CoordinatorActions actions;
  if (phase_ >= Phase::kEnding || stop_requested_) return actions;
  if (next_step_ == options_.start.state.step) {
    End(absl::CancelledError(absl::StrCat("stopped before the first step: ", reason)), &actions);
    return actions;
  }
  if (closing_.has_value() && !ClosesGeneration()) {  // all is done: the end is near, and in order
    actions.log.push_back(absl::StrCat("already finishing (", reason, ")"));
    return actions;
  }
  stop_requested_ = true;
  stop_reason_ = reason;
  end_by_ = now + StopTime();
  Tell({.kind = RunEvent::Kind::kStop, .reason = reason}, &actions);
  TryBind(now, &actions);    // if nobody is there to ask for it
  TryFinish(now, &actions);  // at the checkpoint that was taken for a shard
  return actions;
}

// To the next unbound step. Two may be in flight, and long; how long the first one takes nobody
// knows yet.
absl::Duration Coordinator::StopTime() const {
  return slowest_step_ == absl::ZeroDuration() ? options_.first_step_timeout
                                               : std::max(options_.stop_timeout, 3 * slowest_step_);
}

void Coordinator::TryFinish(absl::Time now, CoordinatorActions* actions) {
  if (phase_ == Phase::kTraining && closing_.has_value()) {
    const auto it = steps_.find(*closing_);
    const bool hashed = std::all_of(shards_.begin(), shards_.end(), [](const ShardState& shard) {
      return shard.fragments == 0 || shard.hashed;
    });
    // Only the closing binding is left: every step before it is committed and reported.
    const bool complete = it != steps_.end() && steps_.size() == 1 && it->second.durable &&
                          hashed && committed_ + 1 == *closing_ && it->second.evaluated() &&
                          checkpoints_.empty() && deferred_.empty();
    if (!complete) return;
    if (ClosesGeneration()) return LetShardsGo(now, actions);
    StepMetrics last = MetricsOf(it->second, now);
    last.state_hash =
        Hash64({reinterpret_cast<const char*>(hashes_.data()), hashes_.size() * sizeof(uint64_t)});
    actions->metrics.push_back(std::move(last));
    phase_ = Phase::kEnding;
    for (const auto& [name, worker] : workers_) {
      // Those that were about to join hear of it with their next heartbeat.
      if (worker.first_step.has_value() && !worker.told_finished)
        untold_.insert(worker.incarnation);
    }
    end_by_ = std::min(end_by_, now + options_.stop_timeout);
    for (size_t s = 0; s < shards_.size(); ++s)
      actions->finish_shards.push_back(ShardId(static_cast<int32_t>(s)));
    AnswerAll(actions);
  }
  if (phase_ != Phase::kEnding) return;
  const bool left =
      std::all_of(shards_.begin(), shards_.end(), [](const auto& s) { return s.finished; });
  if (!untold_.empty() || !left) return;
  if (!checkpoint_error_.empty()) {
    return End(absl::ResourceExhaustedError(absl::StrCat(
                   stop_requested_ ? "stopped at step " : "trained to step ", *closing_,
                   ", but a checkpoint could not be written: ", checkpoint_error_)),
               actions);
  }
  End(stop_requested_
          ? absl::CancelledError(absl::StrCat("stopped at step ", *closing_, ": ", stop_reason_))
          : absl::OkStatus(),
      actions);
}

void Coordinator::End(absl::Status status, CoordinatorActions* actions) {
  if (phase_ == Phase::kOver) return;
  phase_ = Phase::kOver;
  actions->stop = std::move(status);
}

}  // namespace sdp
