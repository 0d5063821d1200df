#include "server/shard/logic/shard.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/shard/logic/reduce.h"

namespace sdp {
namespace {

// At most two steps are in flight, and the closing binding after them: a request further ahead is
// wrong, not early.
constexpr Step kMaxStepsAhead = 3;

}  // namespace

Shard::Shard(const Options& options, const Load& load)
    : options_(options),
      optimizer_(MakeOptimizer(options.optimizer)),
      committed_(options.first_step - 1) {
  const Layout& layout = *options_.layout;
  const std::vector<ShardId> place = layout.Place(options_.shards);
  for (int f = 0; f < layout.fragments(); ++f) {
    const FragmentId id(f);
    if (place[static_cast<size_t>(f)] != options_.shard) continue;
    Owned owned;
    owned.index = owned_.size();
    owned.value = std::make_shared<FloatBuffer>(layout.fragment(id).size);
    owned.state = std::make_shared<OptimizerState>(optimizer_->NewState(layout.fragment(id).size));
    owned.version = options_.first_step;
    load(id, owned.value->span(), *owned.state);
    for (const Piece& piece : layout.pieces(id)) {
      const bool decays = options_.catalog->tensors[static_cast<size_t>(piece.tensor)].decay;
      const double decay = decays ? options_.optimizer.weight_decay : 0;
      const int64_t end = piece.fragment_offset + piece.size;
      if (!owned.ranges.empty() && owned.ranges.back().weight_decay == decay) {
        owned.ranges.back().end = end;
      } else {
        owned.ranges.push_back({piece.fragment_offset, end, decay});
      }
    }
    owned_.push_back(id);
    fragments_.emplace(id, std::move(owned));
  }
}

ShardActions Shard::Bind(const ShardBinding& binding) {
  ShardActions actions;
  const bool known =
      bindings_.contains(binding.step) || (binding.step <= committed_ && !owned_.empty());
  if (binding.generation != options_.generation || known) return actions;
  if (binding.holders != nullptr && !plans_.contains(binding.plan)) {
    auto holders = std::make_shared<Holders>();
    holders->sets = binding.holders;
    for (const auto& set : binding.holders->sets) {
      auto& leaves = holders->leaves.emplace_back();
      for (const Incarnation worker : set) leaves.emplace(worker, static_cast<int>(leaves.size()));
    }
    for (const Incarnation member : binding.holders->members)
      holders->members.emplace(member, static_cast<int>(holders->members.size()));
    plans_[binding.plan] = std::move(holders);
  }
  unplanned_.emplace(binding.step, binding);
  for (auto it = unplanned_.begin(); it != unplanned_.end();) {
    if (plans_.contains(it->second.plan)) {
      const ShardBinding ready = it->second;
      it = unplanned_.erase(it);
      Activate(ready, &actions);
    } else {
      ++it;
    }
  }
  return actions;
}

void Shard::Activate(const ShardBinding& binding, ShardActions* actions) {
  const Step step = binding.step;
  Bound& bound = bindings_[step];
  bound.binding = binding;
  bound.binding.holders = nullptr;
  bound.holders = plans_.at(binding.plan);
  bound.evaluating = binding.evaluate || binding.diagnose;
  bound.snapshot_due = binding.checkpoint;
  if (options_.masking == Masking::kBackward && !binding.closing) {
    for (const auto& [member, rank] : bound.holders->members) {
      const auto done = done_.find(member);
      if (done == done_.end() || done->second < step) bound.reading.insert(member);
    }
  }
  if (binding.diagnose) {
    bound.to_compare = owned_.size();
    const int members = static_cast<int>(bound.holders->members.size());
    for (auto& [id, owned] : fragments_) owned.comparisons.emplace(step, members);
  }
  // Bindings may come in another order than they were made: the plan before the newest may still be
  // needed.
  std::erase_if(plans_, [&](const auto& plan) { return plan.first < binding.plan - 1; });
  if (binding.closing) {
    closing_ = step;
    ReportHashes(actions);
  }
  TakeSnapshot(actions);
  for (const Incarnation member : bound.holders->sets->members) {
    if (excluded_.contains(member)) LeaveOut(step, member, actions);
  }
  if (auto pulls = early_pulls_.extract(step); !pulls.empty()) {
    for (const auto& [who, request] : pulls.mapped())
      PullKnown(request, who.second, bound, actions);
  }
  if (auto headers = early_headers_.extract(step); !headers.empty()) {
    for (const auto& [who, key] : headers.mapped()) PushKnown(key, FloatBuffer(), actions);
  }
}

const absl::flat_hash_map<Incarnation, int>& Shard::Leaves(const Bound& bound,
                                                           FragmentId id) const {
  const size_t unit = static_cast<size_t>(options_.layout->fragment(id).unit.value());
  return bound.holders->leaves[static_cast<size_t>(bound.holders->sets->set_of_unit[unit])];
}

Answer Shard::Check(const RequestKey& key, FragmentId id, std::string* detail) const {
  if (key.generation != options_.generation) {
    *detail = absl::StrCat("generation ", key.generation.value(), ", ours is ",
                           options_.generation.value());
    return Answer::kStaleGeneration;
  }
  if (excluded_.contains(key.worker)) {
    *detail = absl::StrCat("worker incarnation ", key.worker.value(), " is out of the run");
    return Answer::kExcluded;
  }
  if (!fragments_.contains(id)) {
    *detail = absl::StrCat("fragment ", id.value(), " is not on ", options_.name);
    return key.term != options_.term ? Answer::kStaleTerm : Answer::kInvalid;
  }
  if (key.step < 0 || key.step > committed_ + 1 + kMaxStepsAhead) {
    *detail = absl::StrCat("step ", key.step, ", allowed are 0..", committed_ + 1 + kMaxStepsAhead);
    return Answer::kInvalid;
  }
  return Answer::kReceived;
}

Answer Shard::Admit(const PushKey& key, int64_t elements, std::string* detail) const {
  if (const Answer answer = Check(key, key.fragment, detail); answer != Answer::kReceived)
    return answer;
  const int64_t size = options_.layout->fragment(key.fragment).size;
  if (key.terms < 0 || elements != (key.terms == 0 ? 0 : size)) {
    *detail = absl::StrCat(Describe(key.fragment), " with ", elements, " elements over ", key.terms,
                           " loss terms; a fragment has ", size, ", a header over 0 terms none");
    return Answer::kInvalid;
  }
  const auto bound = bindings_.find(key.step);
  if (bound == bindings_.end()) {
    if (key.step < fragments_.at(key.fragment).version) return Answer::kStepClosed;
    if (key.terms == 0) return Answer::kReceived;  // a header is kept until the binding comes
    *detail = absl::StrCat("step ", key.step, " is not bound here yet");
    return Answer::kUnknownBinding;
  }
  if (key.view != bound->second.binding.view) {
    *detail = absl::StrCat("view ", key.view.value(), ", step ", key.step, " has view ",
                           bound->second.binding.view.value());
    return Answer::kInvalid;
  }
  if (key.purpose == Purpose::kDense) {
    if (bound->second.binding.diagnose && bound->second.holders->members.contains(key.worker))
      return Answer::kReceived;
    *detail =
        absl::StrCat("a dense gradient of ", Describe(key.fragment), " of worker incarnation ",
                     key.worker.value(), ", which step ", key.step, " does not ask for");
    return Answer::kInvalid;
  }
  if (bound->second.binding.closing || !Leaves(bound->second, key.fragment).contains(key.worker)) {
    *detail = absl::StrCat("worker incarnation ", key.worker.value(), " does not hold ",
                           Describe(key.fragment), " in step ", key.step);
    return Answer::kInvalid;
  }
  return Answer::kReceived;
}

ShardActions Shard::Pull(const PullRequest& request) {
  ShardActions actions;
  std::string detail;
  for (const FragmentId id : request.fragments) {
    if (const Answer answer = Check(request, id, &detail); answer != Answer::kReceived) {
      actions.deliveries.push_back({request.worker, request.step, id, nullptr, answer, detail});
      return actions;
    }
  }
  if (const auto bound = bindings_.find(request.step); bound != bindings_.end()) {
    for (const FragmentId id : request.fragments) PullKnown(request, id, bound->second, &actions);
  } else if (request.step > committed_) {
    for (const FragmentId id : request.fragments)
      early_pulls_[request.step].insert_or_assign({request.worker, id}, request);
  } else {
    for (const FragmentId id : request.fragments) {
      actions.deliveries.push_back(
          {request.worker, request.step, id, nullptr, Answer::kStepClosed, ""});
    }
  }
  return actions;
}

void Shard::PullKnown(const RequestKey& request, FragmentId id, const Bound& bound,
                      ShardActions* actions) {
  const bool all = bound.binding.evaluate || bound.binding.diagnose ||
                   (options_.masking == Masking::kBackward && !bound.binding.closing);
  const bool reads = all ? bound.holders->members.contains(request.worker)
                         : Leaves(bound, id).contains(request.worker);
  if (request.view == bound.binding.view && reads)
    return Deliver(request, id, fragments_.at(id), actions);
  actions->deliveries.push_back({request.worker, request.step, id, nullptr, Answer::kInvalid,
                                 absl::StrCat("worker incarnation ", request.worker.value(),
                                              " of view ", request.view.value(), " does not read ",
                                              Describe(id), " in step ", request.step)});
}

void Shard::Deliver(const RequestKey& key, FragmentId id, Owned& owned, ShardActions* actions) {
  Delivery delivery{key.worker, key.step, id, nullptr, Answer::kReceived, ""};
  if (key.step > owned.version) {
    const bool twice =
        std::any_of(owned.waiting.begin(), owned.waiting.end(), [&](const RequestKey& other) {
          return other.worker == key.worker && other.step == key.step;
        });
    if (!twice) owned.waiting.push_back(key);
    return;
  }
  if (key.step == owned.version) {
    delivery.value = owned.value;
  } else if (const auto kept = owned.retained.find(key.step); kept != owned.retained.end()) {
    delivery.value = kept->second;
  } else {
    delivery.answer = Answer::kStepClosed;
  }
  actions->deliveries.push_back(std::move(delivery));
}

void Shard::Done(const ReadsDone& done) {
  if (options_.masking != Masking::kBackward || done.generation != options_.generation ||
      done.step > committed_ + 1 + kMaxStepsAhead) {
    return;
  }
  Step& last = done_.try_emplace(done.worker, done.step).first->second;
  last = std::max(last, done.step);
  std::vector<Step> ended;
  for (auto& [step, bound] : bindings_) {
    if (step <= done.step && bound.reading.erase(done.worker) > 0) ended.push_back(step);
  }
  for (const Step step : ended) Forget(step);
}

ShardActions Shard::Push(const PushKey& key, FloatBuffer gradient) {
  ShardActions actions;
  std::string detail;
  const Answer answer = Admit(key, gradient.size(), &detail);
  if (answer != Answer::kReceived) {
    actions.answers.push_back({key.worker, key.step, key.fragment, answer, detail, key.purpose});
    return actions;
  }
  if (bindings_.contains(key.step)) {
    PushKnown(key, std::move(gradient), &actions);
  } else {
    early_headers_[key.step].insert_or_assign({key.worker, key.fragment, key.purpose}, key);
  }
  return actions;
}

void Shard::PushKnown(const PushKey& key, FloatBuffer gradient, ShardActions* actions) {
  Owned& owned = fragments_.at(key.fragment);
  const auto answer = [&](Answer code, std::string detail = "") {
    actions->answers.push_back(
        {key.worker, key.step, key.fragment, code, std::move(detail), key.purpose});
  };
  // A header that waited for its binding is checked only here.
  std::string detail;
  if (const Answer admitted = Admit(key, gradient.size(), &detail); admitted != Answer::kReceived) {
    return answer(admitted, detail);
  }
  if (key.purpose == Purpose::kDense) return answer(AddDense(key, std::move(gradient), actions));
  if (key.step < owned.version) return answer(Answer::kStepClosed);
  const auto& leaves = Leaves(bindings_.at(key.step), key.fragment);
  Round& round = owned.rounds.try_emplace(key.step, static_cast<int>(leaves.size())).first->second;
  const int leaf = leaves.at(key.worker);
  if (round.closed || round.sum.has(leaf)) return answer(Answer::kReceived);  // twice
  if (key.terms > 0 && key.step > owned.version) {
    return answer(Answer::kInvalid, absl::StrCat(Describe(key.fragment), ": a gradient of version ",
                                                 key.step, ", which does not exist yet"));
  }
  int64_t terms = key.terms;
  if (!AllFinite(gradient.span())) {
    if (!SkipsNotFinite(key.step, absl::StrCat("the gradient of ", Describe(key.fragment)),
                        key.worker, actions)) {
      return answer(Answer::kNotFinite);
    }
    gradient = FloatBuffer();
    terms = 0;
  }
  if (OverBudget(key, gradient.bytes())) return answer(Answer::kRetryAfter);
  if (bindings_.at(key.step).binding.diagnose) {
    round.squares.resize(leaves.size());
    round.squares[static_cast<size_t>(leaf)] = SumOfSquares(gradient.span());
  }
  round_bytes_ -= round.bytes();
  round.sum.Add(leaf, std::move(gradient), terms);
  round_bytes_ += round.bytes();
  answer(Answer::kReceived);
  CloseReady(key.fragment, actions);
}

std::string Shard::Describe(FragmentId id) const {
  const UnitId unit = options_.layout->fragment(id).unit;
  return absl::StrCat("fragment ", id.value(), " (", options_.catalog->unit(unit).name, ")");
}

bool Shard::WaitsForDisk() const {
  return !held_back_.empty() && !MayAdvance(fragments_.at(held_back_.begin()->second));
}

Shard::Counts Shard::counts() const {
  Counts counts;
  counts.round_bytes = round_bytes_;
  counts.snapshot_bytes = snapshot_bytes_;
  counts.uncovered_fragment_steps = uncovered_;
  counts.oldest_version = committed_ + 1;
  for (const auto& [id, owned] : fragments_) {
    counts.value_bytes += owned.value->bytes();
    for (const FloatBuffer& moment : owned.state->moments) counts.optimizer_bytes += moment.bytes();
    for (const auto& [version, value] : owned.retained) counts.retained_bytes += value->bytes();
    for (const auto& [step, comparison] : owned.comparisons)
      counts.round_bytes += comparison.bytes();
    counts.open_rounds += static_cast<int64_t>(owned.rounds.size());
    counts.pending_pulls += static_cast<int64_t>(owned.waiting.size());
    const auto round = owned.rounds.find(owned.version);
    const bool closed = round != owned.rounds.end() && round->second.closed;
    if (closed && !MayAdvance(owned)) ++counts.waiting_for_disk;
  }
  return counts;
}

}  // namespace sdp
