#include "deploy/audit/logic/sample_audit.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sdp::audit {
namespace {

// Rank `rank`'s part of a step's samples, as {first, count}: floor(B / N), the first B mod N ranks
// one more.
std::pair<int64_t, int64_t> PortionOf(const ViewRecord& view, size_t rank) {
  const auto of_rank = view.portions.begin() + static_cast<std::ptrdiff_t>(rank);
  return {std::accumulate(view.portions.begin(), of_rank, int64_t{0}), *of_rank};
}

std::optional<size_t> RankOf(Incarnation worker, const ViewRecord& view) {
  const auto found = std::find(view.members.begin(), view.members.end(), worker);
  if (found == view.members.end()) return std::nullopt;
  return static_cast<size_t>(found - view.members.begin());
}

bool Contains(const std::vector<Step>& steps, Step step) {
  return std::find(steps.begin(), steps.end(), step) != steps.end();
}

}  // namespace

SampleAudit::SampleAudit(std::vector<StartRecord> starts, std::vector<CheckpointRecord> checkpoints)
    : starts_(std::move(starts)), checkpoints_(std::move(checkpoints)) {}

void SampleAudit::Add(const Record& record) {
  std::visit([this](const auto& one) { Take(one); }, record);
}

void SampleAudit::Violated(Finding finding) {
  if (finding.generation == Generation()) finding.generation = generation_;
  ++report_.violations;
  if (report_.first_findings.size() < Report::kListed)
    report_.first_findings.push_back(std::move(finding));
}

void SampleAudit::Take(const StartRecord& start) {
  EndGeneration();
  ++report_.generations;
  if (start.generation <= generation_) {
    Violated({.generation = start.generation,
              .what = absl::StrCat("it begins after generation ", generation_.value())});
  }
  generation_ = start.generation;
  counts_until_ = kNoEnd;
  for (const StartRecord& later : starts_) {
    if (later.generation > generation_) counts_until_ = std::min(counts_until_, later.step);
  }
  next_step_ = next_line_ = start.step;
  committed_ = start.step - 1;
  closed_ = false;
  exclusions_ = 0;
  view_ = bound_view_ = {};
  excluded_.clear();
  since_the_binding_.clear();
  // Of what was done from here on nothing is left.
  start_states_.erase(start_states_.upper_bound(start.step), start_states_.end());
  known_ = true;
  state_ = State();
  if (start.step == 0) return;
  const auto found = start_states_.find(start.step);
  known_ = found != start_states_.end();
  if (known_) {
    state_ = found->second;
  } else {
    Violated({.step = start.step,
              .what = "the generation begins with this version, which the ones before have not "
                      "reached"});
  }
}

void SampleAudit::Take(const ViewRecord& view) {
  ++report_.views;
  const auto what = [&view](const char* text) {
    return absl::StrCat("view ", view.view.value(), " ", text);
  };
  if (view.view <= last_view_) Violated({.step = next_step_, .what = what("is not a new number")});
  std::set<Incarnation> members;
  for (const Incarnation member : view.members) {
    if (!members.insert(member).second)
      Violated({.step = next_step_, .worker = member, .what = what("has it twice")});
    if (excluded_.contains(member))
      Violated(
          {.step = next_step_, .worker = member, .what = what("has it though it is excluded")});
  }
  last_view_ = std::max(last_view_, view.view);
  view_ = view;
  if (view.portions.size() != view.members.size()) {
    Violated({.step = next_step_, .what = what("has not one portion for each member")});
    view_.portions.resize(view.members.size());
  }
  std::erase_if(excluded_, [this](Incarnation worker) {  // of no consequence any more
    return std::none_of(open_.begin(), open_.end(), [worker](const auto& step) {
      return RankOf(worker, step.second.view).has_value();
    });
  });
}

void SampleAudit::Take(const BindingRecord& binding) {
  ++report_.bindings;
  const Step t = binding.step;
  const auto at = [&](std::string what) {
    Violated({.generation = binding.generation, .step = t, .what = std::move(what)});
  };
  if (binding.generation != generation_) return at("it is bound outside of its generation");
  if (t < next_step_) return at("it is bound a second time in its generation");
  if (t > next_step_) at(absl::StrCat("the step before it, ", next_step_, ", was never bound"));
  if (closed_) at("it is bound after the closing step");
  // The coordinator that made a newer one was lost before it bound a step to it.
  if (binding.view == bound_view_.view) view_ = bound_view_;
  if (binding.view != view_.view || view_.members.empty())
    at(absl::StrCat("view ", binding.view.value(), " is not the newest one"));
  const int64_t portions =
      std::accumulate(view_.portions.begin(), view_.portions.end(), int64_t{0});
  if (!binding.closing && binding.samples != portions)
    at(absl::StrCat("it has ", binding.samples, " samples, its members' portions are ", portions));
  CheckCursor(binding);
  OpenStep& step = open_[t];
  step.binding = binding;
  step.view = bound_view_ = view_;
  step.before = state_;
  step.positions = state_.free.TakeLowest(binding.samples);
  for (const Range& range : step.positions) {
    step.again += std::clamp<int64_t>(state_.dealt_end - range.begin, 0, range.end - range.begin);
  }
  if (!step.positions.empty())
    state_.dealt_end = std::max(state_.dealt_end, step.positions.back().end);
  closed_ = closed_ || binding.closing;
  next_step_ = t + 1;
  // At most two steps are in flight.
  committed_ = std::max(committed_, t - 2);
  CloseFinished();
}

void SampleAudit::CheckCursor(const BindingRecord& binding) {
  const std::vector<Range> lost = state_.free.Minus(binding.free);
  const std::vector<Range> doubled = binding.free.Minus(state_.free);
  const std::vector<Return> came_back = std::exchange(since_the_binding_, {});
  state_.free = binding.free;
  if (!std::exchange(known_, true)) {
    state_.dealt_end = binding.free.tail();
    return;
  }
  const bool counts = binding.step < counts_until_;
  if (!lost.empty()) {
    if (counts) report_.lost += Count(lost);
    Finding finding{.step = binding.step, .positions = lost, .what = "they are passed over"};
    for (const Return& portion : came_back) {
      if (!Overlap(portion.positions, lost)) continue;
      finding.worker = portion.worker;
      finding.what = absl::StrCat("its portion of step ", portion.step, " did not come back");
      break;
    }
    Violated(std::move(finding));
  }
  if (doubled.empty()) return;
  if (counts) report_.doubled += Count(doubled);
  Violated({.step = binding.step,
            .positions = doubled,
            .what = "they were dealt before, and did not come back"});
}

void SampleAudit::Take(const ExclusionRecord& exclusion) {
  ++report_.exclusions;
  CheckExclusion(exclusion);
  excluded_.insert(exclusion.worker);
  for (auto& [number, step] : open_) {
    const std::optional<size_t> rank = RankOf(exclusion.worker, step.view);
    if (!rank.has_value()) continue;
    step.excluded.insert(exclusion.worker);
    if (Contains(exclusion.returned, number)) {
      TakeBack(step, *rank, exclusion);
    } else if (number > exclusion.committed && !step.binding.closing) {
      step.must_report.insert(exclusion.worker);
    }
    CheckLost(step);
  }
  for (const Step returned : exclusion.returned) {
    const auto step = open_.find(returned);
    if (step != open_.end() && RankOf(exclusion.worker, step->second.view).has_value()) continue;
    Violated({.step = returned,
              .worker = exclusion.worker,
              .what = "its portion came back, but it had none that was still open"});
  }
  committed_ = std::max(committed_, exclusion.committed);
  CloseFinished();
}

void SampleAudit::CheckExclusion(const ExclusionRecord& exclusion) {
  const auto at = [&](std::string what) {
    Violated({.generation = exclusion.generation,
              .step = next_step_,
              .worker = exclusion.worker,
              .what = std::move(what)});
  };
  if (exclusion.generation != generation_) at("it is excluded outside of its generation");
  if (exclusion.number != ++exclusions_) {
    at(absl::StrCat("its exclusion has number ", exclusion.number, ", the next one is ",
                    exclusions_));
    exclusions_ = exclusion.number;
  }
  if (excluded_.contains(exclusion.worker)) at("it is excluded a second time");
  if (exclusion.committed < committed_ || exclusion.committed >= next_step_) {
    at(absl::StrCat("at its exclusion step ", exclusion.committed,
                    " was the newest committed one; ", "it can be ", committed_, " to ",
                    next_step_ - 1));
  }
}

void SampleAudit::TakeBack(OpenStep& step, size_t rank, const ExclusionRecord& exclusion) {
  const Step number = step.binding.step;
  if (number <= exclusion.committed) {
    Violated({.step = number,
              .worker = exclusion.worker,
              .what = "its portion came back though the step was committed"});
  }
  const auto portion = PortionOf(step.view, rank);
  if (!step.returned.emplace(exclusion.worker, portion).second) return;  // named already
  const std::vector<Range> positions = Slice(step.positions, portion.first, portion.second);
  state_.free.Add(positions);
  for (auto& [later, open] : open_) {
    if (later > number) open.before.free.Add(positions);
  }
  if (positions.empty()) return;
  Return returned{generation_, number, exclusion.worker, exclusion.reason, positions};
  since_the_binding_.push_back(returned);
  if (number >= counts_until_) return;
  ++report_.returns;
  if (report_.first_returns.size() < Report::kListed)
    report_.first_returns.push_back(std::move(returned));
}

void SampleAudit::Take(const StepRecord& line) {
  const auto found = open_.find(line.step);
  if (line.generation != generation_ || found == open_.end() || found->second.lost.has_value()) {
    return Violated({.generation = line.generation,
                     .step = line.step,
                     .what = "metrics.jsonl has it, but it was not bound, or it has it twice"});
  }
  if (line.step != next_line_) {
    Violated({.step = next_line_, .what = "metrics.jsonl passes over it"});
    for (auto& [number, step] : open_) {
      if (number < line.step) step.passed_over = !step.lost.has_value();
    }
  }
  next_line_ = line.step + 1;
  OpenStep& step = found->second;
  step.lost.emplace(line.lost.begin(), line.lost.end());
  for (const Incarnation worker : line.lost) {
    if (RankOf(worker, step.view).has_value()) continue;
    Violated({.step = line.step, .worker = worker, .what = "it is lost, but was no member"});
    step.lost->erase(worker);
  }
  CheckLost(step);
  CloseFinished();
}

// What the exclusions say against what the line says; each disagreement is named once.
void SampleAudit::CheckLost(OpenStep& step) {
  if (!step.lost.has_value()) return;
  for (const Incarnation worker : *step.lost) {
    if (step.must_report.erase(worker) == 0) continue;
    const auto portion = PortionOf(step.view, *RankOf(worker, step.view));
    Violated({.step = step.binding.step,
              .worker = worker,
              .positions = Slice(step.positions, portion.first, portion.second),
              .what = "it was lost without a report, and its portion did not come back"});
  }
}

void SampleAudit::CloseFinished() {
  while (!open_.empty()) {
    const OpenStep& step = open_.begin()->second;
    if (step.binding.step > committed_) return;  // Something of it may come back.
    const bool complete =
        step.passed_over ||
        (step.lost.has_value() && std::includes(step.excluded.begin(), step.excluded.end(),
                                                step.lost->begin(), step.lost->end()));
    if (!complete) return;
    Close(step, Outcome::kFinished);
    open_.erase(open_.begin());
  }
}

void SampleAudit::Close(const OpenStep& step, Outcome outcome) {
  const Step number = step.binding.step;
  CheckCheckpoints(step);
  for (const StartRecord& later : starts_) {
    if (later.generation > generation_ && later.step == number) start_states_[number] = step.before;
  }
  if (step.lost.has_value()) {
    for (const auto& [worker, portion] : step.returned) {
      if (step.lost->contains(worker)) continue;
      Violated({.step = number,
                .worker = worker,
                .positions = Slice(step.positions, portion.first, portion.second),
                .what = "its portion came back though it has reported"});
    }
  }
  if (step.binding.closing) return;
  if (number >= counts_until_) {
    ++report_.undone;
    return;
  }
  int64_t used = Count(step.positions), again = step.again;
  for (const auto& [worker, portion] : step.returned) {
    used -= portion.second;
    again -= std::clamp<int64_t>(step.again - portion.first, 0, portion.second);
  }
  if (outcome == Outcome::kOpen) {
    ++report_.open;
    report_.in_open_steps += used;
    return;
  }
  ++report_.steps;
  report_.used_once += used - again;
  report_.used_again += again;
}

void SampleAudit::CheckCheckpoints(const OpenStep& step) {
  std::erase_if(checkpoints_, [&](const CheckpointRecord& checkpoint) {
    if (checkpoint.generation != generation_ || checkpoint.step != step.binding.step) return false;
    ++report_.checkpoints;
    std::vector<Range> differ = step.before.free.Minus(checkpoint.free);
    const std::vector<Range> more = checkpoint.free.Minus(step.before.free);
    differ.insert(differ.end(), more.begin(), more.end());
    if (!differ.empty()) {
      Violated({.step = checkpoint.step,
                .positions = std::move(differ),
                .what = absl::StrCat("the cursor of ", checkpoint.name, " is another one")});
    }
    return true;
  });
}

// A step without a line is committed if a later generation begins behind it.
void SampleAudit::EndGeneration() {
  for (const auto& [number, step] : open_) {
    if (step.lost.has_value()) {
      for (const Incarnation worker : *step.lost) {
        if (step.excluded.contains(worker)) continue;
        Violated({.step = number,
                  .worker = worker,
                  .what = "it has neither reported nor been excluded"});
      }
    }
    const bool finished = step.lost.has_value() || step.passed_over || counts_until_ != kNoEnd;
    Close(step, finished ? Outcome::kFinished : Outcome::kOpen);
  }
  open_.clear();
}

Report SampleAudit::Finish() {
  EndGeneration();
  for (const CheckpointRecord& checkpoint : checkpoints_) {
    Violated({.generation = checkpoint.generation,
              .step = checkpoint.step,
              .what = absl::StrCat(checkpoint.name, " is of a step that was not bound")});
  }
  report_.dealt = state_.dealt_end;
  report_.waiting = state_.free.CountBelow(state_.dealt_end);
  const int64_t sum =
      report_.used_once + report_.used_again + report_.waiting + report_.in_open_steps;
  if (report_.violations == 0 && sum != report_.dealt) {
    Violated({.what = absl::StrCat(report_.dealt, " positions were dealt, the steps have ", sum)});
  }
  return report_;
}

}  // namespace sdp::audit
