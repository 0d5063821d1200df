#include "common/plan/eigenvalues.h"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/random.h"

namespace sdp {
namespace {

constexpr double kTolerance = 1e-6;
constexpr Eigen::Index kMostSteps = 1000;
constexpr Eigen::Index kMostNumbers = Eigen::Index{1} << 25;  // of all Lanczos vectors: 256 MiB
// Below it a vector is what rounding left of zero: the space that was reached is invariant.
constexpr double kNothing = 1e-12;

// The symmetric tridiagonal matrix that Lanczos' method makes: m diagonal numbers, and beside each
// the one that leads to the next.
class Tridiagonal {
 public:
  void Add(double diagonal, double next) {
    diagonal_.push_back(diagonal);
    next_.push_back(next);
  }
  double Largest() const {
    const auto m = static_cast<Eigen::Index>(diagonal_.size());
    if (m == 1) return diagonal_.front();
    Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver;
    solver.computeFromTridiagonal(Eigen::Map<const Eigen::VectorXd>(diagonal_.data(), m),
                                  Eigen::Map<const Eigen::VectorXd>(next_.data(), m - 1),
                                  Eigen::EigenvaluesOnly);
    return solver.eigenvalues()(m - 1);
  }
  // How far at most the operator's nearest eigenvalue is from this one of the matrix: the last
  // number of its vector, of length 1, times what leads out. The vector is computed upwards from
  // its last number, the direction in which it grows.
  double Residual(double eigenvalue) const {
    double below = 0, here = 1, squares = 1, last = 1;
    for (size_t i = diagonal_.size() - 1; i > 0; --i) {
      const double above = ((eigenvalue - diagonal_[i]) * here - next_[i] * below) / next_[i - 1];
      below = here;
      here = above;
      squares += above * above;
      if (squares > 1e100) {
        const double scale = 1 / std::sqrt(squares);
        below *= scale;
        here *= scale;
        last *= scale;
        squares = 1;
      }
    }
    return next_.back() * last / std::sqrt(squares);
  }

 private:
  std::vector<double> diagonal_, next_;  // [m]
};

// In [-1, 1), the same in every run.
Eigen::VectorXd StartVector(Eigen::Index size) {
  RandomStream random(0, 0);
  Eigen::VectorXd start(size);
  for (double& value : start) value = static_cast<double>(random.Next() >> 11) * 0x1p-52 - 1;
  return start;
}

}  // namespace

double SecondEigenvalue(const Eigen::MatrixXd& walk) {
  // In increasing order.
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(walk, Eigen::EigenvaluesOnly);
  return solver.eigenvalues()(walk.rows() - 2);
}

double SecondEigenvalue(const Eigen::VectorXd& top, const Multiply& multiply) {
  const Eigen::Index n = top.size();
  // Beside `top` there are n - 1 directions; when all have been taken the matrix is exact.
  const Eigen::Index most = std::min({kMostSteps, n - 1, kMostNumbers / n});
  Eigen::MatrixXd basis(n, std::min<Eigen::Index>(most, 32));
  Tridiagonal tridiagonal;
  Eigen::VectorXd next = StartVector(n), product(n);
  next -= top * top.dot(next);
  next.normalize();
  Eigen::Index check = 8;  // Steps after which the eigenvalue is looked at.
  for (Eigen::Index step = 0; step < most; ++step) {
    if (step == basis.cols()) basis.conservativeResize(n, std::min(2 * step, most));
    basis.col(step) = next;
    multiply(next, product);
    const double diagonal = next.dot(product);
    // Twice, so that the vectors stay orthogonal in spite of rounding.
    for (int pass = 0; pass < 2; ++pass) {
      product -= top * top.dot(product);
      const auto so_far = basis.leftCols(step + 1);
      product -= so_far * (so_far.transpose() * product).eval();
    }
    const double length = product.norm();
    tridiagonal.Add(diagonal, length);
    const bool exact = length < kNothing || step + 1 == n - 1;
    if (exact) return tridiagonal.Largest();
    if (step + 1 >= check || step + 1 == most) {
      const double largest = tridiagonal.Largest();
      if (tridiagonal.Residual(largest) < kTolerance) return largest;
      check += std::max<Eigen::Index>(8, check / 4);
    }
    next = product / length;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace sdp
