#pragma once

#include <Eigen/Core>
#include <functional>

// The second largest eigenvalue of a walk between workers: a symmetric positive semidefinite
// operator on R^N whose largest eigenvalue is 1. Pure functions.
namespace sdp {

// From all eigenvalues, O(N^3). Reads the lower triangle. Precondition: N >= 2.
double SecondEigenvalue(const Eigen::MatrixXd& walk);

// y = W x; both [N].
using Multiply = std::function<void(const Eigen::VectorXd& x, Eigen::VectorXd& y)>;

// By Lanczos' method, without a matrix: `top` [N], of length 1, is the eigenvector of the
// eigenvalue
// 1. Within 1e-6; NaN if 1,000 steps (fewer above 32,000 workers, whose vectors would not fit) do
// not get there, which a few hundred do unless many eigenvalues crowd next to the second.
// Precondition: N >= 2.
double SecondEigenvalue(const Eigen::VectorXd& top, const Multiply& multiply);

}  // namespace sdp
