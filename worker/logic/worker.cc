#include "worker/logic/worker.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sdp {
namespace {

// Aborted: this incarnation is out; another one may come.
absl::Status Refused(const char* what, FragmentId fragment, Step step, Answer answer,
                     const std::string& detail) {
  const bool out = answer == Answer::kExcluded || answer == Answer::kStaleGeneration;
  return {out ? absl::StatusCode::kAborted : absl::StatusCode::kFailedPrecondition,
          absl::StrCat(what, " of fragment ", fragment.value(), " at step ", step,
                       " was refused: ", AnswerName(answer), " ", detail)};
}

}  // namespace

Worker::Worker(const Options& options, const WorkerAdmission& admission, const DataSummary& data)
    : options_(options),
      admission_(admission),
      place_(options.layout->Place(static_cast<int>(admission.shards.size()))),
      order_(options.seed, data.train_samples, options.shuffle, admission.reshuffles) {}

WorkerActions Worker::Start() {
  WorkerActions actions;
  Ask(kFirstOfMine, &actions);
  return actions;
}

void Worker::Ask(Step step, WorkerActions* actions) {
  asked_ = step;
  actions->ask.push_back({step, plan_});
}

WorkerActions Worker::OnBinding(const WorkerBinding& binding, absl::Time /*now*/) {
  WorkerActions actions;
  const bool asked = asked_ == binding.step || asked_ == kFirstOfMine;
  if (binding.generation != admission_.generation || !asked) return actions;
  asked_.reset();
  if (binding.finished) {
    end_ = binding.step <= options_.steps ? options_.left : absl::OkStatus();
    if (steps_.empty()) actions.exit = end_;
    return actions;
  }
  if (binding.units != nullptr) {
    units_ = *binding.units;
    plan_ = binding.plan;
  }
  StepState& state = steps_[binding.step];
  state.binding = binding;
  state.units = units_;
  WalkOrBegin(state, &actions);
  return actions;
}

// The training part of a step, after its walks of the full model.
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
    Expect(state.weights, unit);
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
  task.hand_out_not_finite = options_.skip_not_finite;
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
      Send(state, Purpose::kTrain, id, nullptr, actions);
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
  if (it == steps_.end()) return actions;
  const Purpose purpose = Diagnoses(step) ? Purpose::kDense : Purpose::kTrain;
  if (purpose == Purpose::kTrain && it->second.due.erase(fragment) == 0) return actions;
  Send(it->second, purpose, fragment, std::make_shared<const WireBuffer>(std::move(gradient)),
       &actions);
  return actions;
}

void Worker::Send(StepState& state, Purpose purpose, FragmentId fragment, SharedWire gradient,
                  WorkerActions* actions) const {
  state.sent(purpose)[fragment] = std::move(gradient);
  PushFragment(state, purpose, fragment, absl::ZeroDuration(), actions);
}

void Worker::PushFragment(StepState& state, Purpose purpose, FragmentId fragment,
                          absl::Duration delay, WorkerActions* actions) const {
  PushKey key;
  static_cast<RequestKey&>(key) = Key(state);
  key.fragment = fragment;
  key.terms = state.binding.samples() * options_.terms_per_sample;
  key.purpose = purpose;
  actions->pushes.push_back({PlaceOf(fragment), key, state.sent(purpose).at(fragment), delay});
}

void Worker::OnPushed(Step step, int64_t wire_bytes) {
  if (const auto it = steps_.find(step); it != steps_.end()) it->second.pushed_bytes += wire_bytes;
}

WorkerActions Worker::OnPullRefused(Step step, FragmentId fragment, Answer answer,
                                    const std::string& detail) {
  WorkerActions actions;
  const bool walks =
      walk_.has_value() && walk_->version == step && walk_->weights.asked.contains(fragment);
  const auto it = steps_.find(step);
  const bool trains = it != steps_.end() && it->second.weights.asked.contains(fragment);
  if ((!walks && !trains) || answer == Answer::kStepClosed) return actions;
  actions.exit = Refused("pull", fragment, step, answer, detail);
  return actions;
}

WorkerActions Worker::OnPushAnswer(const PushAnswer& answer, absl::Time now) {
  WorkerActions actions;
  const auto it = steps_.find(answer.step);
  if (it == steps_.end() || !it->second.sent(answer.purpose).contains(answer.fragment))
    return actions;
  StepState& state = it->second;
  switch (answer.answer) {
    case Answer::kReceived:
    case Answer::kStepClosed:
      state.sent(answer.purpose).erase(answer.fragment);
      PullWalked(&actions);
      TryComplete(state, now, &actions);
      PullFree(&actions);
      return actions;
    case Answer::kUnknownBinding:
    case Answer::kRetryAfter:
    case Answer::kBadChecksum:
      PushFragment(state, answer.purpose, answer.fragment, options_.retry_delay, &actions);
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
      actions.exit = Refused("push", answer.fragment, answer.step, answer.answer, answer.detail);
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
  if (!computed || !state.due.empty() || !state.acknowledged()) return;
  StepReport report;
  report.worker = admission_.incarnation;
  report.step = state.binding.step;
  if (state.result.has_value()) {
    report.loss_sum = state.result->loss.loss_sum;
    report.terms = state.result->loss.terms;
    report.pull = state.result->wait;
    report.forward = state.result->forward - state.result->wait;
    report.backward = state.result->backward;
    report.push = now - state.trained_at;
  }
  report.pulled_bytes = state.pulled_bytes;
  report.pushed_bytes = state.pushed_bytes;
  actions->reports.push_back(report);
  last_reports_.push_back(report);
  if (last_reports_.size() > size_t{kStepsRepeated}) last_reports_.pop_front();
  steps_.erase(report.step);
  if (end_.has_value() && steps_.empty()) actions->exit = end_;
}

WorkerActions Worker::Reconnected(ShardId shard) {
  WorkerActions actions;
  const auto there = [&](FragmentId id) { return PlaceOf(id) == shard; };
  if (const auto done = done_.find(shard); done != done_.end())
    actions.done.push_back({shard, done->second});
  const auto ask_again = [&](const RequestKey& key, const Weights& weights) {
    std::vector<FragmentId> wanted;
    for (const FragmentId id : weights.asked) {
      if (there(id)) wanted.push_back(id);
    }
    PullFragments(key, wanted, &actions);
  };
  if (walk_.has_value()) ask_again(Key(walk_->view, walk_->version), walk_->weights);
  for (auto& [step, state] : steps_) {
    ask_again(Key(state), state.weights);
    for (const Purpose purpose : {Purpose::kTrain, Purpose::kDense}) {
      for (const auto& [id, gradient] : state.sent(purpose)) {
        if (there(id)) PushFragment(state, purpose, id, absl::ZeroDuration(), &actions);
      }
    }
  }
  return actions;
}

WorkerActions Worker::CoordinatorRestarted() const {
  WorkerActions actions;
  actions.reports.assign(last_reports_.begin(), last_reports_.end());
  actions.evaluations.assign(last_evaluations_.begin(), last_evaluations_.end());
  return actions;
}

bool Worker::waits() const {
  if (steps_.empty()) return true;
  const auto& [step, state] = *steps_.begin();
  if (walk_.has_value() && walk_->step == step)
    return !walk_->weights.asked.empty() || !walk_->unasked.empty();
  return !state.weights.asked.empty() || !state.unasked.empty() || state.due.empty();
}

Step Worker::step() const { return steps_.empty() ? asked_.value_or(0) : steps_.rbegin()->first; }

std::map<ShardId, Worker::Awaited> Worker::awaited() const {
  std::map<ShardId, Awaited> awaited;
  if (walk_.has_value()) {
    for (const FragmentId id : walk_->weights.asked) ++awaited[PlaceOf(id)].fragments;
  }
  for (const auto& [step, state] : steps_) {
    for (const FragmentId id : state.weights.asked) ++awaited[PlaceOf(id)].fragments;
    for (const Gradients* sent : {&state.unacknowledged, &state.unacknowledged_dense}) {
      for (const auto& [id, gradient] : *sent) ++awaited[PlaceOf(id)].acknowledgements;
    }
  }
  return awaited;
}

std::string Worker::phase() const {
  if (steps_.empty()) return absl::StrCat("step ", step(), ": waiting for its binding");
  const auto& [step, state] = *steps_.begin();
  if (walk_.has_value() && walk_->step == step) {
    return absl::StrCat("step ", walk_->version, ": ",
                        walk_->first_sample.has_value() ? "evaluating " : "dense gradient, at ",
                        options_.catalog->unit(walk_->last_wanted).name);
  }
  const size_t missing = state.weights.asked.size() + state.unasked.size();
  if (missing > 0) return absl::StrCat("step ", step, ": waiting for ", missing, " fragments");
  if (!state.due.empty())
    return absl::StrCat("step ", step, ": computing, ", state.due.size(), " gradients to go");
  return absl::StrCat("step ", step, ": ",
                      state.unacknowledged.size() + state.unacknowledged_dense.size(),
                      " gradients not acknowledged");
}

}  // namespace sdp
