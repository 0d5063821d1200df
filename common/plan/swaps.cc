#include "common/plan/swaps.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "common/plan/eigenvalues.h"

namespace sdp {
namespace {

// Trials with eigenvalues: as many as take a few tenths of a second.
int64_t MixTrials(int workers) {
  constexpr int64_t kMost = 3000, kWork = 250'000'000;
  return std::min(kMost, kWork / (int64_t{workers} * workers * workers));
}
constexpr int kLevelTrials = 200'000;

constexpr double kBillion = 1e9;
// Swaps that raise the energy by up to this much are accepted at first; after three quarters of the
// trials none are.
constexpr double kFirstThreshold = 0.02;

int64_t Billionths(double value) { return std::llround(value * kBillion); }

// What the largest lies above the mean, as a share of it; 0 if all are 0.
double AboveMean(const std::vector<int64_t>& amounts) {
  const double sum =
      static_cast<double>(std::accumulate(amounts.begin(), amounts.end(), int64_t{0}));
  const double largest = static_cast<double>(*std::max_element(amounts.begin(), amounts.end()));
  return sum > 0 ? largest * static_cast<double>(amounts.size()) / sum - 1 : 0;
}

// By how much a sum of squares changes if `amount` moves from a worker with `from` to one with
// `to`.
double ChangeOfSquares(int64_t from, int64_t to, int64_t amount) {
  const double moved = static_cast<double>(amount);
  return 2 * moved * (static_cast<double>(to - from) + moved);
}

}  // namespace

Swaps::Swaps(const std::vector<const Kind*>& free, const std::vector<const Kind*>& fixed,
             Draft& draft)
    : draft_(draft), workers_(draft.workers()), params_(draft.load.size()) {
  const Eigen::Index n = mixes() ? workers_ : 0;
  common_ = Eigen::MatrixXd::Zero(n, n);
  counts_ = Eigen::VectorXd::Zero(n);
  for (const Kind* kind : free) {
    const Kind::Member& first = kind->members.front();
    for (const Kind::Member& member : kind->members)
      equal_costs_ = equal_costs_ && member.macs == first.macs && member.params == first.params;
  }
  if (!mixes() && equal_costs_) return;  // nothing to improve, for a byte per unit and worker
  for (const Kind* kind : free) AddUnits(*kind);
  for (const auto* kinds : {&free, &fixed}) {
    for (const Kind* kind : *kinds) {
      all_units_ += kind->members.size();
      for (const Kind::Member& member : kind->members) {
        const auto& holders = draft_.holders[static_cast<size_t>(member.unit.value())];
        for (const int i : holders) params_[static_cast<size_t>(i)] += member.params;
        if (!mixes()) continue;
        for (const int i : holders) {
          counts_(i) += 1;
          for (const int k : holders) common_(i, k) += 1 / static_cast<double>(holders.size());
        }
      }
    }
  }
}

void Swaps::AddUnits(const Kind& kind) {
  const std::vector<Kind::Member>& members = kind.members;
  const size_t begin = units_.size(), size = members.size();
  const int equal = kind.EqualHolders();
  const size_t group =
      equal > 0 && workers_ % equal == 0 ? static_cast<size_t>(workers_ / equal) : size;
  for (size_t from = 0, to = 0; from < size; from = to) {
    to = from + 1;
    while (to < size && to % group != 0 && members[to].branch == members[from].branch) ++to;
    for (size_t j = from; j < to; ++j) AddUnit(members[j], begin + from, to - from);
  }
}

void Swaps::AddUnit(const Kind::Member& member, size_t group_begin, size_t group_size) {
  const auto& holders = draft_.holders[static_cast<size_t>(member.unit.value())];
  Unit& unit = units_.emplace_back();
  unit.member = member;
  unit.holders = static_cast<int>(holders.size());
  unit.group_begin = group_begin;
  unit.group_size = group_size;
  unit.held.resize(static_cast<size_t>(workers_));
  for (const int worker : holders) unit.held[static_cast<size_t>(worker)] = 1;
}

double Swaps::Lambda2() const {
  const Eigen::VectorXd scale =
      (counts_.array() > 0).select(counts_.cwiseSqrt().cwiseInverse(), 0.0);
  return SecondEigenvalue(scale.asDiagonal() * common_ * scale.asDiagonal());
}

// The trace of W is 1 + the sum of its other eigenvalues, of which min(N, B) - 1 are not 0.
double Swaps::LeastLambda2() const {
  double trace = 0;
  for (int i = 0; i < workers_; ++i) trace += counts_(i) > 0 ? common_(i, i) / counts_(i) : 0;
  const double others =
      static_cast<double>(std::min(static_cast<size_t>(workers_), all_units_)) - 1;
  return others > 0 ? std::max(0.0, (trace - 1) / others) : 1;
}

double Swaps::ReachedGap() const {
  if (!mixes() || workers_ < 2) return 1;
  const double allowed = 1 - LeastLambda2();
  return allowed > 1 / kBillion ? (1 - Lambda2()) / allowed : 1;
}

int64_t Swaps::Energy() const {
  return Billionths(Lambda2() + AboveMean(draft_.load) + AboveMean(params_));
}

// Nothing if the unit drawn has nothing to swap.
std::optional<Swaps::Swap> Swaps::Propose(RandomStream& random) const {
  const auto draw = [&random](size_t bound) { return static_cast<size_t>(random.Below(bound)); };
  const size_t n = static_cast<size_t>(workers_);
  Swap swap;
  swap.j = draw(units_.size());
  const Unit& unit = units_[swap.j];
  if (unit.holders == workers_) return std::nullopt;
  // The first that fits from a place drawn.
  size_t a = draw(n), b = draw(n);
  while (!unit.held[a]) a = (a + 1) % n;
  while (unit.held[b]) b = (b + 1) % n;
  const size_t from = draw(unit.group_size);
  for (size_t i = 0; i < unit.group_size; ++i) {
    swap.k = unit.group_begin + (from + i) % unit.group_size;
    const Unit& other = units_[swap.k];
    if (!other.held[b] || other.held[a]) continue;
    swap.a = static_cast<int>(a);
    swap.b = static_cast<int>(b);
    return swap;
  }
  return std::nullopt;
}

void Swaps::Apply(const Swap& swap) {
  Give(units_[swap.j], swap.a, swap.b);
  Give(units_[swap.k], swap.b, swap.a);
}

void Swaps::Give(Unit& unit, int from, int to) {
  const auto a = static_cast<size_t>(from), b = static_cast<size_t>(to);
  unit.held[a] = 0;
  unit.held[b] = 1;
  draft_.load[a] -= unit.member.macs;
  draft_.load[b] += unit.member.macs;
  params_[a] -= unit.member.params;
  params_[b] += unit.member.params;
  if (!mixes()) return;
  const double part = 1 / static_cast<double>(unit.holders);
  common_(from, from) -= part;
  common_(to, to) += part;
  for (int i = 0; i < workers_; ++i) {
    if (i == to || !unit.held[static_cast<size_t>(i)]) continue;
    common_(from, i) -= part;
    common_(i, from) -= part;
    common_(to, i) += part;
    common_(i, to) += part;
  }
}

void Swaps::Improve(Aim aim, RandomStream& random) {
  if (units_.empty() || workers_ < 2) return;
  if (mixes() && aim == Aim::kMixAndLevel) {
    Mix(random);
  } else if (!equal_costs_) {
    Level(random);
  }
  for (const Unit& unit : units_) {
    std::vector<int>& holders = draft_.holders[static_cast<size_t>(unit.member.unit.value())];
    holders.clear();
    for (int worker = 0; worker < workers_; ++worker) {
      if (unit.held[static_cast<size_t>(worker)]) holders.push_back(worker);
    }
  }
}

void Swaps::Mix(RandomStream& random) {
  const int64_t trials = MixTrials(workers_);
  const int64_t least = Billionths(LeastLambda2());
  int64_t energy = Energy();
  int64_t best = energy;
  std::vector<Swap> since_best;  // swaps that led from the best assignment to this one
  for (int64_t trial = 0; trial < trials && best > least; ++trial) {
    const std::optional<Swap> swap = Propose(random);
    if (!swap.has_value()) continue;
    Apply(*swap);
    const double left = 1 - static_cast<double>(trial) / (0.75 * static_cast<double>(trials));
    const int64_t threshold = Billionths(kFirstThreshold * std::max(0.0, left));
    const int64_t changed = Energy();
    if (changed > energy + threshold) {
      Apply({swap->j, swap->k, swap->b, swap->a});
      continue;
    }
    energy = changed;
    since_best.push_back(*swap);
    if (energy >= best) continue;
    best = energy;
    since_best.clear();
  }
  while (!since_best.empty()) {
    const Swap& last = since_best.back();
    Apply({last.j, last.k, last.b, last.a});
    since_best.pop_back();
  }
}

void Swaps::Level(RandomStream& random) {
  const auto mean = [this](const std::vector<int64_t>& amounts) {
    const auto sum = std::accumulate(amounts.begin(), amounts.end(), int64_t{0});
    return std::max(1.0, static_cast<double>(sum) / workers_);
  };
  const double mean_macs = mean(draft_.load), mean_params = mean(params_);
  for (int trial = 0; trial < kLevelTrials; ++trial) {
    const std::optional<Swap> swap = Propose(random);
    if (!swap.has_value()) continue;
    const Kind::Member& j = units_[swap->j].member;
    const Kind::Member& k = units_[swap->k].member;
    const auto a = static_cast<size_t>(swap->a), b = static_cast<size_t>(swap->b);
    const double change =
        ChangeOfSquares(draft_.load[a], draft_.load[b], j.macs - k.macs) / (mean_macs * mean_macs) +
        ChangeOfSquares(params_[a], params_[b], j.params - k.params) / (mean_params * mean_params);
    if (change < 0) Apply(*swap);
  }
}

}  // namespace sdp
