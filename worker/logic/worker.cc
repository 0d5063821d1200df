#include "worker/logic/worker.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sdp {

Worker::Worker(const Options& options, const WorkerAdmission& admission, const DataSummary& data)
    : options_(options),
      admission_(admission),
      place_(options.layout->Place(static_cast<int>(admission.shards.size()))),
      order_(options.seed, data.train_samples, options.shuffle) {}

WorkerActions Worker::Start() {
  WorkerActions actions;
  Ask(admission_.first_step, &actions);
  return actions;
}

void Worker::Ask(Step step, WorkerActions* actions) {
  asked_ = step;
  actions->ask.push_back({step, plan_});
}

WorkerActions Worker::OnBinding(const WorkerBinding& binding, absl::Time /*now*/) {
  WorkerActions actions;
  if (binding.generation != admission_.generation || asked_ != binding.step) return actions;
  asked_.reset();
  if (binding.finished) {
    actions.exit = absl::OkStatus();
    return actions;
  }
  if (binding.units != nullptr) {
    units_ = *binding.units;
    plan_ = binding.plan;
  }
  StepState& state = steps_[binding.step];
  state.binding = binding;
  state.units = units_;
  if (binding.evaluate && binding.validation_samples > 0) {
    state.evaluating = true;
    EvaluateTask task;
    task.step = binding.step;
    for (size_t unit = 0; unit < options_.catalog->units.size(); ++unit) {
      task.units.push_back({UnitId(static_cast<int32_t>(unit)),
                            EvaluationFactor(options_.rescale, admission_.coverage[unit])});
    }
    task.first_sample = binding.first_validation;
    task.samples = binding.validation_samples;
    task.micro_batch = binding.micro_batch;
    actions.evaluate.push_back(std::move(task));
  } else {
    Begin(state, &actions);
  }
  return actions;
}

// The training part of a step, after its evaluation.
void Worker::Begin(StepState& state, WorkerActions* actions) {
  const Step step = state.binding.step;
  if (state.binding.closing) {
    steps_.erase(step);
    return Ask(step + 1, actions);
  }
  if (state.binding.samples() == 0) {
    PushHeaders(state, actions);
    return Ask(step + 1, actions);
  }
  TrainTask task = TaskOf(state);
  const auto read = [&](UnitId unit, absl::flat_hash_set<FragmentId>& until) {
    Expect(state, unit);
    for (const FragmentId id : options_.layout->block(unit)) {
      state.unasked.insert(id);
      until.insert(id);
      if (options_.masking == Masking::kBackward) ++state.awaited[PlaceOf(id)];
    }
  };
  for (const HeldUnit& unit : task.units) read(unit.unit, state.due);
  for (const UnitId unit : task.read_only) read(unit, state.in_use);
  actions->train.push_back(std::move(task));
  PullFree(actions);
}

TrainTask Worker::TaskOf(const StepState& state) const {
  TrainTask task;
  task.step = state.binding.step;
  task.micro_batch = state.binding.micro_batch;
  std::vector<bool> held(options_.catalog->units.size());
  for (const UnitFactor& unit : state.units) {
    task.units.push_back({unit.unit, unit.factor});
    held[static_cast<size_t>(unit.unit.value())] = true;
  }
  if (options_.masking == Masking::kBackward) {
    for (size_t unit = 0; unit < held.size(); ++unit) {
      if (!held[unit]) task.read_only.emplace_back(static_cast<int32_t>(unit));
    }
  }
  for (const PositionRange& range : state.binding.portion) {
    for (int64_t position = range.first; position < range.first + range.count; ++position) {
      task.samples.push_back(order_.Sample(position));
      task.epochs.push_back(position / order_.samples());
    }
  }
  return task;
}

// Without samples there is nothing to read, and nothing but that to say.
void Worker::PushHeaders(StepState& state, WorkerActions* actions) {
  for (const UnitFactor& unit : state.units) {
    for (const FragmentId id : options_.layout->block(unit.unit)) {
      state.unacknowledged[id] = nullptr;
      PushFragment(state, id, absl::ZeroDuration(), actions);
    }
  }
  if (options_.masking == Masking::kForward) return;
  const std::set<ShardId> shards(place_.begin(), place_.end());
  for (const ShardId shard : shards) SayDone(state, shard, actions);
}

void Worker::SayDone(const StepState& state, ShardId shard, WorkerActions* actions) {
  static_cast<RequestKey&>(done_[shard]) = Key(state);
  actions->done.push_back({shard, done_[shard]});
}

void Worker::Expect(StepState& state, UnitId unit) {
  const size_t fragments = options_.layout->block(unit).size();
  state.missing[unit] = fragments;
  state.parts[unit].resize(fragments);
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
      state.asked.insert(id);
    }
    PullFragments(state, free, actions);
  }
}

void Worker::PullFragments(const StepState& state, const std::vector<FragmentId>& fragments,
                           WorkerActions* actions) const {
  std::map<ShardId, std::vector<FragmentId>> by_shard;
  for (const FragmentId id : fragments) by_shard[PlaceOf(id)].push_back(id);
  for (auto& [shard, wanted] : by_shard) {
    std::sort(wanted.begin(), wanted.end());  // forward order: first layers are the most urgent
    PullRequest request;
    static_cast<RequestKey&>(request) = Key(state);
    request.fragments = std::move(wanted);
    actions->pulls.push_back({shard, std::move(request)});
  }
}

RequestKey Worker::Key(const StepState& state) const {
  return {admission_.generation, state.binding.view, admission_.term, state.binding.step,
          admission_.incarnation};
}

WorkerActions Worker::OnValue(Step step, FragmentId fragment, WireBuffer value, int64_t wire_bytes,
                              absl::Time /*now*/) {
  WorkerActions actions;
  const auto it = steps_.find(step);
  if (it == steps_.end()) return actions;
  StepState& state = it->second;
  if (state.asked.erase(fragment) == 0) return actions;  // twice
  const Fragment& spec = options_.layout->fragment(fragment);
  if (value.size() != spec.size) {
    actions.exit = absl::InternalError(absl::StrCat("fragment ", fragment.value(), " of step ",
                                                    step, " came with ", value.size(),
                                                    " elements, it has ", spec.size));
    return actions;
  }
  // An evaluation's traffic is not the step's: the full model passes by.
  if (!state.evaluating) {
    state.pulled_bytes += wire_bytes;
    if (const auto from = state.awaited.find(PlaceOf(fragment));
        from != state.awaited.end() && --from->second == 0) {
      SayDone(state, from->first, &actions);
    }
  }
  const FragmentId first = options_.layout->block(spec.unit).front();
  state.parts[spec.unit][static_cast<size_t>(fragment.value() - first.value())] = std::move(value);
  if (--state.missing[spec.unit] == 0) {
    actions.units.push_back({step, spec.unit, std::move(state.parts[spec.unit])});
    state.parts.erase(spec.unit);
    state.missing.erase(spec.unit);
  }
  return actions;
}

WorkerActions Worker::OnPullRefused(Step step, FragmentId fragment, Answer answer,
                                    const std::string& detail) {
  WorkerActions actions;
  const auto it = steps_.find(step);
  if (it == steps_.end() || !it->second.asked.contains(fragment) || answer == Answer::kStepClosed)
    return actions;
  actions.exit = absl::FailedPreconditionError(
      absl::StrCat("pull of fragment ", fragment.value(), " at step ", step,
                   " was refused: ", AnswerName(answer), " ", detail));
  return actions;
}

WorkerActions Worker::OnWant(Step step, UnitId unit) {
  WorkerActions actions;
  const auto it = steps_.find(step);
  if (it == steps_.end() || !it->second.evaluating || it->second.missing.contains(unit))
    return actions;
  StepState& state = it->second;
  state.last_wanted = unit;
  Expect(state, unit);
  const std::vector<FragmentId>& block = options_.layout->block(unit);
  state.asked.insert(block.begin(), block.end());
  PullFragments(state, block, &actions);
  return actions;
}

WorkerActions Worker::OnEvaluated(Step step, const absl::StatusOr<LossSum>& result) {
  WorkerActions actions;
  const auto it = steps_.find(step);
  if (it == steps_.end() || !it->second.evaluating) return actions;
  if (!result.ok()) {
    if (absl::IsOutOfRange(result.status())) {
      actions.not_finite.push_back(
          {options_.name, step, "the validation loss", admission_.incarnation});
    } else {
      actions.exit = result.status();
    }
    return actions;
  }
  StepState& state = it->second;
  state.evaluating = false;
  state.asked.clear();
  state.parts.clear();
  state.missing.clear();
  actions.evaluations.push_back(
      {admission_.incarnation, step, result->loss_sum, result->terms, result->correct});
  Begin(state, &actions);
  return actions;
}

WorkerActions Worker::OnBackwardBegins(Step step) {
  WorkerActions actions;
  Ask(step + 1, &actions);
  return actions;
}

WorkerActions Worker::OnReleased(Step step, UnitId unit) {
  WorkerActions actions;
  const auto it = steps_.find(step);
  if (it == steps_.end()) return actions;
  for (const FragmentId id : options_.layout->block(unit)) it->second.in_use.erase(id);
  PullFree(&actions);
  return actions;
}

WorkerActions Worker::OnGradient(Step step, FragmentId fragment, WireBuffer gradient) {
  WorkerActions actions;
  const auto it = steps_.find(step);
  if (it == steps_.end() || it->second.due.erase(fragment) == 0) return actions;
  StepState& state = it->second;
  state.unacknowledged[fragment] = std::make_shared<const WireBuffer>(std::move(gradient));
  PushFragment(state, fragment, absl::ZeroDuration(), &actions);
  return actions;
}

void Worker::PushFragment(const StepState& state, FragmentId fragment, absl::Duration delay,
                          WorkerActions* actions) const {
  PushKey key;
  static_cast<RequestKey&>(key) = Key(state);
  key.fragment = fragment;
  key.terms = state.binding.samples() * options_.terms_per_sample;
  actions->pushes.push_back({PlaceOf(fragment), key, state.unacknowledged.at(fragment), delay});
}

void Worker::OnPushed(Step step, int64_t wire_bytes) {
  if (const auto it = steps_.find(step); it != steps_.end()) it->second.pushed_bytes += wire_bytes;
}

WorkerActions Worker::OnPushAnswer(const PushAnswer& answer, absl::Time now) {
  WorkerActions actions;
  const auto it = steps_.find(answer.step);
  if (it == steps_.end() || !it->second.unacknowledged.contains(answer.fragment)) return actions;
  StepState& state = it->second;
  switch (answer.answer) {
    case Answer::kReceived:
    case Answer::kStepClosed:
      state.unacknowledged.erase(answer.fragment);
      TryComplete(state, now, &actions);
      PullFree(&actions);
      return actions;
    case Answer::kUnknownBinding:
    case Answer::kRetryAfter:
    case Answer::kBadChecksum:
      PushFragment(state, answer.fragment, options_.retry_delay, &actions);
      return actions;
    case Answer::kNotFinite:
      actions.not_finite.push_back(
          {options_.name, answer.step,
           absl::StrCat("the gradient of fragment ", answer.fragment.value()),
           admission_.incarnation});
      return actions;
    case Answer::kStaleGeneration:
    case Answer::kStaleTerm:
    case Answer::kExcluded:
    case Answer::kInvalid:
      actions.exit = absl::FailedPreconditionError(
          absl::StrCat("push of fragment ", answer.fragment.value(), " at step ", answer.step,
                       " was refused: ", AnswerName(answer.answer), " ", answer.detail));
      return actions;
  }
  return actions;
}

WorkerActions Worker::OnTrained(Step step, const absl::StatusOr<TrainResult>& result,
                                absl::Time now) {
  WorkerActions actions;
  const auto it = steps_.find(step);
  if (it == steps_.end()) return actions;
  if (!result.ok()) {
    if (absl::IsOutOfRange(result.status())) {
      // Nothing was pushed; the coordinator ends the run and tells everyone.
      actions.not_finite.push_back({options_.name, step, "the loss", admission_.incarnation});
    } else {
      actions.exit = result.status();
    }
    return actions;
  }
  it->second.result = *result;
  it->second.trained_at = now;
  TryComplete(it->second, now, &actions);
  return actions;
}

void Worker::TryComplete(StepState& state, absl::Time now, WorkerActions* actions) {
  const bool computed = state.binding.samples() == 0 || state.result.has_value();
  if (!computed || !state.due.empty() || !state.unacknowledged.empty()) return;
  StepReport report;
  report.worker = admission_.incarnation;
  report.step = state.binding.step;
  if (state.result.has_value()) {
    report.loss_sum = state.result->loss.loss_sum;
    report.terms = state.result->loss.terms;
    report.pull = state.result->wait;
    report.forward = state.result->forward;
    report.backward = state.result->backward;
    report.push = now - state.trained_at;
  }
  report.pulled_bytes = state.pulled_bytes;
  report.pushed_bytes = state.pushed_bytes;
  actions->reports.push_back(report);
  steps_.erase(report.step);
}

WorkerActions Worker::Reconnected(ShardId shard) {
  WorkerActions actions;
  const auto there = [&](FragmentId id) { return PlaceOf(id) == shard; };
  if (const auto done = done_.find(shard); done != done_.end())
    actions.done.push_back({shard, done->second});
  for (const auto& [step, state] : steps_) {
    std::vector<FragmentId> wanted;
    for (const FragmentId id : state.asked) {
      if (there(id)) wanted.push_back(id);
    }
    PullFragments(state, wanted, &actions);
    for (const auto& [id, gradient] : state.unacknowledged) {
      if (there(id)) PushFragment(state, id, absl::ZeroDuration(), &actions);
    }
  }
  return actions;
}

Step Worker::step() const { return steps_.empty() ? asked_.value_or(0) : steps_.rbegin()->first; }

std::string Worker::phase() const {
  if (steps_.empty()) return absl::StrCat("step ", step(), ": waiting for its binding");
  const auto& [step, state] = *steps_.begin();
  if (state.evaluating) {
    return absl::StrCat("step ", step, ": evaluating ",
                        options_.catalog->unit(state.last_wanted).name);
  }
  const size_t missing = state.asked.size() + state.unasked.size();
  if (missing > 0) return absl::StrCat("step ", step, ": waiting for ", missing, " fragments");
  if (!state.due.empty())
    return absl::StrCat("step ", step, ": computing, ", state.due.size(), " gradients to go");
  return absl::StrCat("step ", step, ": ", state.unacknowledged.size(),
                      " gradients not acknowledged");
}

}  // namespace sdp
