// Coordinator: what people see, and what ends a run that does not go on.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/coordinator/logic/coordinator.h"

namespace sdp {
namespace {

// Of those that are waited for, so many are named.
constexpr size_t kNamed = 16;

std::string Named(const std::vector<std::string>& first, size_t all) {
  return absl::StrCat(absl::StrJoin(first, ", "),
                      all > first.size() ? absl::StrCat(" and ", all - first.size(), " more") : "");
}

}  // namespace

void Coordinator::ReportSteps(absl::Time now, CoordinatorActions* actions) {
  while (!steps_.empty()) {
    const StepState& step = steps_.begin()->second;
    const size_t owners = Owners().size();
    const bool complete = !step.binding.closing && committed_ >= step.binding.step &&
                          step.reduced.size() == owners && step.expect_reports.empty() &&
                          step.evaluated() && (!step.diagnose || step.diagnosed.size() == owners);
    if (!complete) return;
    CoordinatorActions* const then = WhenStored(actions);
    then->metrics.push_back(MetricsOf(step, now));
    const std::optional<double> loss = then->metrics.back().loss;
    last_commit_ = step.committed_at;
    if (step.binding.evaluate || step.diagnose) ReleaseEvaluation(step, then);
    const Step number = step.binding.step;
    steps_.erase(steps_.begin());
    const auto spike = loss.has_value() ? loss_watch_.Add(number, *loss) : std::nullopt;
    if (!spike.has_value() || phase_ != Phase::kTraining || stop_requested_) continue;
    spiked_ = true;
    return GoBack(absl::StrCat(*spike, "; the samples will come in a new order"), now, actions);
  }
}

StepMetrics Coordinator::MetricsOf(const StepState& step, absl::Time now) {
  StepMetrics metrics;
  metrics.generation = generation_;
  metrics.step = step.binding.step;
  metrics.steps = options_.steps;
  metrics.full_loss = step.full_loss;
  metrics.full_accuracy = step.full_accuracy;
  metrics.plan_hash = step.plan->hash;
  metrics.workers = step.view->size();
  metrics.run_time = now - first_bound_;
  for (const auto& [name, worker] : workers_) {
    metrics.max_worker_memory_bytes =
        std::max(metrics.max_worker_memory_bytes, worker.peak_memory_bytes);
    if (worker.allocated_peak_bytes <= metrics.max_worker_allocated_bytes) continue;
    metrics.max_worker_allocated_bytes = worker.allocated_peak_bytes;
    metrics.largest_worker = name;
    metrics.largest_worker_ledger = worker.ledger;
  }
  for (size_t unit = 0; unit < step.plan->holders.size(); ++unit) {
    if (options_.catalog->units[unit].shared) continue;
    const int holders = static_cast<int>(step.plan->holders[unit].size());
    metrics.min_holders =
        metrics.max_holders == 0 ? holders : std::min(metrics.min_holders, holders);
    metrics.max_holders = std::max(metrics.max_holders, holders);
  }
  if (step.binding.closing) return metrics;

  double loss_sum = 0;
  int64_t terms = 0;
  const int64_t count = static_cast<int64_t>(step.reports.size());
  for (const Incarnation member :
       step.view->members()) {  // in rank order: the sum's bits do not depend on arrival
    const auto reported = step.reports.find(member);
    if (reported == step.reports.end()) {
      if (!step.reports_gone.contains(member)) metrics.lost.push_back(member);
      continue;
    }
    const StepReport& report = reported->second;
    loss_sum += report.loss_sum;
    terms += report.terms;
    metrics.pull += report.pull / count;
    metrics.forward += report.forward / count;
    metrics.backward += report.backward / count;
    metrics.push += report.push / count;
    metrics.pulled_bytes += report.pulled_bytes;
    metrics.pushed_bytes += report.pushed_bytes;
  }
  if (terms > 0) metrics.loss = loss_sum / static_cast<double>(terms);
  last_loss_ = metrics.loss;
  metrics.gradient_norm = step.gradient_norm;
  metrics.clip_scale = step.scale;
  if (step.scaled && step.scale == 0) metrics.skipped = step.not_finite;
  metrics.uncovered = step.uncovered;
  metrics.samples = step.binding.samples;
  metrics.tokens = step.binding.samples * options_.tokens_per_sample;
  metrics.elapsed = step.committed_at - last_commit_;
  // All of it, but for a step of which a lost shard has ended the waiting.
  if (step.diagnose && step.reduced.size() == Owners().size()) metrics.blocks = BlocksOf(step);
  return metrics;
}

std::vector<BlockDiagnostics> Coordinator::BlocksOf(const StepState& step) const {
  std::vector<BlockDiagnostics> blocks;
  for (size_t unit = 0; unit < step.plan->holders.size(); ++unit) {
    HolderGradients gradients;
    for (const int rank : step.plan->holders[unit]) {
      const Incarnation member = step.view->members()[static_cast<size_t>(rank)];
      const auto reported = step.reports.find(member);
      gradients.terms.push_back(reported == step.reports.end() ? 0 : reported->second.terms);
    }
    gradients.squares.resize(gradients.terms.size());
    HolderGradients::Dense dense;
    bool whole = true;  // every fragment is compared
    const UnitId id(static_cast<int32_t>(unit));
    for (const FragmentId fragment : options_.layout->block(id)) {
      const auto f = static_cast<size_t>(fragment.value());
      gradients.mean_square += step.squares[f];
      for (size_t a = 0; a < gradients.squares.size(); ++a) {
        gradients.squares[a] += step.holder_squares[f][a];
      }
      const GradientComparison& compared = step.comparisons[f];
      if (compared.terms == 0) whole = false;
      dense.dot += compared.dot;
      dense.square += compared.square;
    }
    if (whole) gradients.dense = dense;
    blocks.push_back(Diagnose(options_.catalog->unit(id).name, gradients));
  }
  return blocks;
}

// If nobody looked for so long, this process was stopped or its machine asleep: what members sent
// meanwhile has not been read yet, and the time counts for nobody.
void Coordinator::ForgiveStall(absl::Time now, CoordinatorActions* actions) {
  const absl::Duration stall = now - std::exchange(last_tick_, now);
  if (stall <= options_.lease / 2 || stall == absl::InfiniteDuration()) return;
  for (ShardState& shard : shards_) {
    shard.heard += stall;
    shard.succeeds_since += stall;
  }
  for (auto& [name, worker] : workers_) worker.heard += stall;
  last_progress_ += stall;
  end_by_ += stall;
  drain_by_ += stall;
  actions->log.push_back(absl::StrCat("the coordinator stood still for ",
                                      absl::FormatDuration(absl::Trunc(stall, absl::Seconds(1)))));
}

CoordinatorActions Coordinator::Tick(absl::Time now) {
  CoordinatorActions actions;
  if (phase_ == Phase::kOver) return actions;
  ForgiveStall(now, &actions);
  // A checkpoint that is being written may take longer than a stop otherwise does.
  const bool writing = !checkpoints_.empty() && now - last_progress_ < options_.min_step_timeout;
  if (now > end_by_ && !writing) {
    const bool finished = phase_ == Phase::kEnding && !stop_requested_;
    End(finished ? absl::OkStatus()
                 : absl::CancelledError(absl::StrCat("stopped (", stop_reason_,
                                                     "), but not in time: ", WaitingFor())),
        &actions);
    return actions;
  }
  if (phase_ == Phase::kEnding) return actions;
  NoticeCut(now, &actions);
  LoseSilentShards(now, &actions);
  if (now > drain_by_ && (let_go_ || !writing)) EndLateDrain(now, &actions);
  if (phase_ == Phase::kOver) return actions;
  if (!shards_.empty()) ExcludeSilent(now, &actions);
  MakeView(now, &actions);
  const std::string paused = PausedBy();
  if (phase_ != Phase::kTraining || (!paused.empty() && steps_.empty())) {
    if (now - last_progress_ > options_.gather_timeout) {
      End(absl::DeadlineExceededError(absl::StrCat("nobody has come for ",
                                                   absl::FormatDuration(options_.gather_timeout),
                                                   ": ", WaitingFor())),
          &actions);
    }
    return actions;
  }
  const absl::Duration allowed = slowest_step_ == absl::ZeroDuration()
                                     ? options_.first_step_timeout
                                     : std::max(options_.min_step_timeout, 20 * slowest_step_);
  if (now - last_progress_ > allowed) {
    const size_t members = workers_.size();
    ExcludeStuck(now - last_progress_, &actions);
    if (workers_.size() < members) {
      Progress(now);
      MembersChanged(now, &actions);
      return actions;
    }
    End(absl::DeadlineExceededError(
            absl::StrCat("no progress for ", absl::FormatDuration(allowed), ": ", WaitingFor())),
        &actions);
    return actions;
  }
  MembersChanged(now, &actions);
  return actions;
}

std::string Coordinator::WaitingFor() const {
  std::vector<std::string> who;
  if (let_go_ && phase_ < Phase::kEnding)
    return absl::StrCat(absl::StrJoin(LeavingShards(), ", "), " to leave");
  switch (phase_) {
    case Phase::kShards:
      for (const auto& [name, shard] : registered_shards_) who.push_back(name);
      return absl::StrCat(who.size(), " of ", options_.shards, " shards have registered",
                          who.empty() ? "" : absl::StrCat(" (", absl::StrJoin(who, ", "), ")"));
    case Phase::kStarting:
      for (const ShardState& shard : shards_) {
        if (Loading(shard)) who.push_back(shard.registration.name);
      }
      return absl::StrCat("start values of ", absl::StrJoin(who, ", "));
    case Phase::kWorkers: {
      const auto all = static_cast<size_t>(workers_.ready());
      for (const auto& [name, worker] : workers_) {
        if (who.size() == std::min(all, kNamed)) break;
        if (worker.ready) who.push_back(name);
      }
      return absl::StrCat(all, " of ", awaited_, " workers are ready",
                          who.empty() ? "" : absl::StrCat(" (", Named(who, all), ")"),
                          no_plan_.empty() ? "" : absl::StrCat("; no plan for them: ", no_plan_));
    }
    case Phase::kTraining:
      break;
    case Phase::kEnding:
      return "the members to leave";
    case Phase::kOver:
      return "";
  }
  if (const std::string paused = PausedBy(); !paused.empty() && steps_.empty()) return paused;
  return Draining() ? absl::StrCat(WaitingForSteps(), "; then ",
                                   absl::StrJoin(LeavingShards(), ", "), " may leave")
                    : WaitingForSteps();
}

std::string Coordinator::WaitingForSteps() const {
  std::vector<std::string> who;
  size_t all = 0;
  const Step step = committed_ + 1;
  for (const auto& [version, bound] : steps_) {
    all += bound.undone.size();
    for (const auto& [evaluator, place] : bound.undone) {
      if (who.size() == kNamed) break;
      who.push_back(absl::StrCat(NameOf(evaluator), " (evaluation of version ", version, ")"));
    }
    for (const ShardId shard : Owners()) {
      if (!bound.diagnose || bound.diagnosed.contains(shard)) continue;
      ++all;
      if (who.size() == kNamed) continue;
      who.push_back(absl::StrCat(shards_[static_cast<size_t>(shard.value())].registration.name,
                                 " (the dense gradient of version ", version, ")"));
    }
  }
  if (const auto it = steps_.find(step); it != steps_.end()) {
    all += it->second.expect_reports.size();
    for (const Incarnation incarnation : it->second.expect_reports) {
      if (who.size() == kNamed) break;
      const WorkerState* const worker = workers_.Find(incarnation);
      who.push_back(
          absl::StrCat(NameOf(incarnation), " (", worker == nullptr ? "" : worker->phase, ")"));
    }
  }
  for (const ShardState& shard : shards_) {
    if (shard.fragments == 0 || shard.done >= step) continue;
    ++all;
    if (who.size() == kNamed) continue;
    who.push_back(shard.phase.empty()
                      ? shard.registration.name
                      : absl::StrCat(shard.registration.name, " (", shard.phase, ")"));
  }
  for (const auto& [number, checkpoint] : checkpoints_) {
    if (!checkpoint.expect.empty()) continue;
    ++all;
    who.push_back(absl::StrCat("the manifest of checkpoint ", number));
  }
  return absl::StrCat("step ", step, " waits for ", Named(who, all));
}

GenerationStart Coordinator::NextStart() const {
  GenerationStart next;
  next.generation = Generation(generation_.value() + 1);
  next.state.init_path = options_.start.state.init_path;
  next.init_checksum = options_.start.init_checksum;
  next.reshuffles = options_.start.reshuffles;
  next.reshuffle = spiked_;
  next.losses = loss_watch_.recent();
  next.data = data_;
  next.last_incarnation = last_incarnation_;
  next.last_view = last_view_;
  next.first_bound = first_bound_;
  next.goes_on = GoesOn();
  for (const ShardState& shard : shards_) {
    // One that was told, and is still here, will not go for being told again.
    if (shard.leaving && !shard.finished && (!let_go_ || Loading(shard)))
      next.leaving.insert(shard.registration.instance);
  }
  return next;
}

int Coordinator::members() const {
  return std::max(1, (view_ == nullptr ? awaited_ : view_->size()) - gone_);
}

int64_t Coordinator::PortionOf(const WorkerState& worker) const {
  const std::optional<int> rank =
      view_ == nullptr ? std::nullopt : view_->RankOf(worker.incarnation);
  return rank.has_value() ? view_->PortionOf(*rank).second : 0;
}

}  // namespace sdp
