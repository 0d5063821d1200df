// Comparison, and how Shard uses it.
#include "server/shard/logic/comparison.h"

#include <cmath>
#include <utility>

#include "server/shard/logic/reduce.h"
#include "server/shard/logic/shard.h"

namespace sdp {

GradientComparison Comparison::Result() const {
  if (dense_->empty() || mean_->empty()) return {};
  const GradientComparison result{sum_.terms(), DotProduct(mean_->span(), dense_->span()),
                                  SumOfSquares(dense_->span())};
  // A full model that overflows harms no training.
  if (!std::isfinite(result.dot) || !std::isfinite(result.square)) return {};
  return result;
}

int64_t Comparison::bytes() const {
  return sum_.bytes() + (dense_.has_value() ? dense_->bytes() : 0) +
         (mean_.has_value() ? mean_->bytes() : 0);
}

// What is compared already answers like what is added: the worker may let go of it.
Answer Shard::AddDense(const PushKey& key, FloatBuffer gradient, ShardActions* actions) {
  auto& comparisons = fragments_.at(key.fragment).comparisons;
  const auto comparison = comparisons.find(key.step);
  if (comparison == comparisons.end()) return Answer::kStepClosed;
  const int member = bindings_.at(key.step).holders->members.at(key.worker);
  if (!comparison->second.has(member)) {
    comparison->second.AddDense(member, std::move(gradient), key.terms);
    Compare(key.fragment, key.step, actions);
  }
  return Answer::kReceived;
}

void Shard::LeaveDenseOut(FragmentId id, Step step, int member, ShardActions* actions) {
  auto& comparisons = fragments_.at(id).comparisons;
  const auto comparison = comparisons.find(step);
  if (comparison == comparisons.end() || comparison->second.has(member)) return;
  comparison->second.AddDense(member, FloatBuffer(), 0);
  Compare(id, step, actions);
}

void Shard::Compare(FragmentId id, Step step, ShardActions* actions) {
  Owned& owned = fragments_.at(id);
  const auto comparison = owned.comparisons.find(step);
  if (comparison == owned.comparisons.end() || !comparison->second.complete()) return;
  Bound& bound = bindings_.at(step);
  bound.compared.resize(owned_.size());
  bound.compared[owned.index] = comparison->second.Result();
  owned.comparisons.erase(comparison);
  if (--bound.to_compare > 0) return;
  Diagnosed report{options_.shard, step, std::move(bound.compared)};
  Remember(last_diagnosed_, report);
  actions->diagnosed.push_back(std::move(report));
}

}  // namespace sdp
