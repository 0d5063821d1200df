#include "common/plan/gap.h"

#include <Eigen/Core>
#include <algorithm>
#include <numeric>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/plan/eigenvalues.h"

namespace sdp {
namespace {

// Units with the same holders are one column with the sum of their weights; designs have few.
absl::flat_hash_map<std::vector<int>, double> WeightByHolders(const Catalog& catalog,
                                                              const Plan& plan, UnitWeight weight,
                                                              SharedUnits shared) {
  absl::flat_hash_map<std::vector<int>, double> weights;
  for (size_t j = 0; j < plan.holders.size(); ++j) {
    const UnitSpec& unit = catalog.units[j];
    if (unit.shared && shared == SharedUnits::kIgnored) continue;
    const double amount = weight == UnitWeight::kEqual ? 1.0 : static_cast<double>(unit.params);
    weights[plan.holders[j]] += amount;
  }
  return weights;
}

// W = S M diag(w / p) M^T S as what it does to a vector; M: [N, columns], 1 where a worker holds
// the column's units, S = diag(1 / sqrt(d)).
class Walk {
 public:
  Walk(const absl::flat_hash_map<std::vector<int>, double>& weights, Eigen::Index workers)
      : held_(Eigen::VectorXd::Zero(workers)) {
    for (const auto& [holders, amount] : weights) {
      columns_.push_back({&holders, amount / static_cast<double>(holders.size())});
      for (const int worker : holders) held_(worker) += amount;
    }
    // The map's order is not that of another process; sums must be.
    std::sort(columns_.begin(), columns_.end(),
              [](const Column& a, const Column& b) { return *a.holders < *b.holders; });
    scale_ = held_.cwiseSqrt().cwiseInverse();
  }

  void Multiply(const Eigen::VectorXd& x, Eigen::VectorXd& y) const {
    const Eigen::VectorXd scaled = x.cwiseProduct(scale_);
    y.setZero();
    for (const Column& column : columns_) {
      double sum = 0;
      for (const int worker : *column.holders) sum += scaled(worker);
      sum *= column.weight;
      for (const int worker : *column.holders) y(worker) += sum;
    }
    y = y.cwiseProduct(scale_);
  }
  Eigen::MatrixXd Dense() const {
    const Eigen::Index workers = held_.size();
    Eigen::MatrixXd walk(workers, workers);
    Eigen::VectorXd column(workers);
    for (Eigen::Index worker = 0; worker < workers; ++worker) {
      Multiply(Eigen::VectorXd::Unit(workers, worker), column);
      walk.col(worker) = column;
    }
    return walk;
  }
  // Of eigenvalue 1.
  Eigen::VectorXd Top() const { return held_.cwiseSqrt().normalized(); }

 private:
  struct Column {
    const std::vector<int>* holders;
    double weight;  // w / p
  };
  std::vector<Column> columns_;
  Eigen::VectorXd held_, scale_;  // [N] d, 1 / sqrt(d)
};

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

double SpectralGap(const Catalog& catalog, const Plan& plan, UnitWeight weight,
                   SharedUnits shared) {
  const auto weights = WeightByHolders(catalog, plan, weight, shared);
  const Eigen::Index workers = static_cast<Eigen::Index>(plan.units.size());
  if (workers < 2 || weights.empty()) return 1;
  // The eigenvalue would come out as 1 up to rounding.
  if (!Connected(catalog, plan, shared)) return 0;
  const Walk walk(weights, workers);
  const double second =
      workers <= kMaxDenseWorkers
          ? SecondEigenvalue(walk.Dense())
          : SecondEigenvalue(walk.Top(), [&walk](const Eigen::VectorXd& x, Eigen::VectorXd& y) {
              walk.Multiply(x, y);
            });
  return std::clamp(1 - second, 0.0, 1.0);  // NaN stays NaN
}

double LargestGap(int workers, int holders) {
  return static_cast<double>(workers) * (holders - 1) /
         (static_cast<double>(holders) * (workers - 1));
}

}  // namespace sdp
