#include "common/plan/gap.h"

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace sdp {
namespace {

// Columns of the worker-unit matrix that are multiplied at once: it is never there as a whole.
constexpr Eigen::Index kColumns = 256;

// Units with the same holders are one column with the sum of their weights; designs have few.
absl::flat_hash_map<std::vector<int>, double> WeightByHolders(const Catalog& catalog,
                                                              const Plan& plan, UnitWeight weight) {
  absl::flat_hash_map<std::vector<int>, double> weights;
  for (size_t j = 0; j < plan.holders.size(); ++j) {
    const UnitSpec& unit = catalog.units[j];
    if (unit.shared) continue;
    const double amount = weight == UnitWeight::kEqual ? 1.0 : static_cast<double>(unit.params);
    weights[plan.holders[j]] += amount;
  }
  return weights;
}

// Of sets that are trees of workers, each named by its root.
class UnionFind {
 public:
  explicit UnionFind(size_t size) : parent_(size) {
    std::iota(parent_.begin(), parent_.end(), size_t{0});
  }
  size_t Root(size_t node) {
    while (parent_[node] != node) {
      parent_[node] = parent_[parent_[node]];
      node = parent_[node];
    }
    return node;
  }
  void Join(size_t a, size_t b) { parent_[Root(a)] = Root(b); }

 private:
  std::vector<size_t> parent_;
};

}  // namespace

bool Connected(const Catalog& catalog, const Plan& plan, SharedUnits shared) {
  UnionFind workers(plan.units.size());
  bool any = false;
  for (size_t j = 0; j < plan.holders.size(); ++j) {
    if (catalog.units[j].shared && shared == SharedUnits::kIgnored) continue;
    any = true;
    for (const int worker : plan.holders[j]) {
      workers.Join(static_cast<size_t>(plan.holders[j].front()), static_cast<size_t>(worker));
    }
  }
  for (size_t worker = 1; any && worker < plan.units.size(); ++worker) {
    if (workers.Root(worker) != workers.Root(0)) return false;
  }
  return true;
}

double SpectralGap(const Catalog& catalog, const Plan& plan, UnitWeight weight) {
  const auto weights = WeightByHolders(catalog, plan, weight);
  const Eigen::Index workers = static_cast<Eigen::Index>(plan.units.size());
  if (workers < 2 || weights.empty()) return 1;
  // The eigenvalue would come out as 1 up to rounding.
  if (!Connected(catalog, plan, SharedUnits::kIgnored)) return 0;
  if (workers > kMaxGapWorkers) return std::numeric_limits<double>::quiet_NaN();

  Eigen::MatrixXd walk = Eigen::MatrixXd::Zero(workers, workers);
  Eigen::VectorXd held = Eigen::VectorXd::Zero(workers);
  Eigen::MatrixXd columns = Eigen::MatrixXd::Zero(workers, kColumns);
  Eigen::Index filled = 0;
  const auto flush = [&] {
    walk.selfadjointView<Eigen::Lower>().rankUpdate(columns.leftCols(filled));
    columns.setZero();
    filled = 0;
  };
  for (const auto& [holders, amount] : weights) {
    const double value = std::sqrt(amount / static_cast<double>(holders.size()));
    for (const int worker : holders) {
      columns(worker, filled) = value;
      held(worker) += amount;
    }
    if (++filled == kColumns) flush();
  }
  flush();
  const Eigen::VectorXd scale = held.cwiseSqrt().cwiseInverse();
  walk = scale.asDiagonal() * walk * scale.asDiagonal();

  // Only the lower triangle is read. Eigenvalues come in increasing order; the last is 1.
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(walk, Eigen::EigenvaluesOnly);
  return std::clamp(1 - solver.eigenvalues()(workers - 2), 0.0, 1.0);
}

double LargestGap(int workers, int holders) {
  return static_cast<double>(workers) * (holders - 1) /
         (static_cast<double>(holders) * (workers - 1));
}

}  // namespace sdp
