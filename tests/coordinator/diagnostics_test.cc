#include "server/coordinator/logic/diagnostics.h"

#include <cmath>
#include <vector>

#include "common/base/normal.h"
#include "gtest/gtest.h"

namespace sdp {
namespace {

using Vector = std::vector<double>;

double Dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Standard normal numbers, plus `common`.
Vector Noise(uint64_t stream, size_t size, double common) {
  Vector vector;
  for (uint64_t pair = 0; vector.size() < size; ++pair) {
    const NormalPair normals = StandardNormals(3, stream, pair);
    vector.push_back(common + normals.first);
    vector.push_back(common + normals.second);
  }
  return vector;
}

Vector Mean(const std::vector<Vector>& gradients, const std::vector<int64_t>& terms) {
  Vector mean(gradients[0].size());
  double total = 0;
  for (const int64_t n : terms) total += static_cast<double>(n);
  for (size_t a = 0; a < gradients.size(); ++a) {
    for (size_t i = 0; i < mean.size(); ++i) {
      mean[i] += static_cast<double>(terms[a]) / total * gradients[a][i];
    }
  }
  return mean;
}

// From norms alone, as the coordinator has them.
BlockDiagnostics Of(const std::vector<Vector>& gradients, const std::vector<int64_t>& terms) {
  HolderGradients norms;
  norms.terms = terms;
  for (size_t a = 0; a < gradients.size(); ++a) {
    norms.squares.push_back(terms[a] > 0 ? Dot(gradients[a], gradients[a]) : 0);
  }
  const Vector mean = Mean(gradients, terms);
  norms.mean_square = Dot(mean, mean);
  return Diagnose("unit", norms);
}

TEST(DiagnosticsTest, FewerThanTwoHolders_HaveNoPair) {
  EXPECT_EQ(Of({{3, 4}}, {7}).gradient_norm, 5);
  EXPECT_EQ(Of({{3, 4}}, {7}).holders, 1);
  EXPECT_FALSE(Of({{3, 4}}, {7}).cosine.has_value());
  EXPECT_FALSE(Of({{3, 4}, {1, 1}}, {7, 0}).variance.has_value());
  EXPECT_EQ(Of({{3, 4}, {1, 1}}, {7, 0}).gradient_norm, 5);
  EXPECT_FALSE(Of({{0, 0}, {0, 0}}, {1, 1}).cosine.has_value());
  EXPECT_EQ(Of({{0, 0}, {0, 0}}, {1, 1}).variance, 0);
  EXPECT_EQ(Diagnose("none", {{0, 0}, {0, 0}, 0}).holders, 0);
}

TEST(DiagnosticsTest, TwoHolders_TheirCosine) {
  EXPECT_NEAR(*Of({{3, 4}, {3, 4}}, {5, 2}).cosine, 1, 1e-14);
  EXPECT_NEAR(*Of({{3, 4}, {3, 4}}, {5, 2}).variance, 0, 1e-13);
  EXPECT_NEAR(*Of({{3, 4}, {-6, -8}}, {1, 1}).cosine, -1, 1e-14);
  EXPECT_NEAR(*Of({{3, 4}, {4, -3}}, {1, 3}).cosine, 0, 1e-14);
  EXPECT_NEAR(*Of({{1, 0}, {1, 1}}, {2, 3}).cosine, std::sqrt(0.5), 1e-14);
}

// Against the definition, pair by pair, with holders of unequal portions.
TEST(DiagnosticsTest, SeveralHolders_WeightedMeanOverPairs) {
  const std::vector<int64_t> terms = {30, 20, 0, 25, 25};
  std::vector<Vector> gradients;
  for (uint64_t a = 0; a < 5; ++a) gradients.push_back(Noise(a, 50, 0.3));
  const Vector mean = Mean(gradients, terms);
  double products = 0, norms = 0, scatter = 0;
  for (size_t a = 0; a < 5; ++a) {
    const double weight = static_cast<double>(terms[a]) / 100;
    Vector rest = gradients[a];
    for (size_t i = 0; i < rest.size(); ++i) rest[i] -= mean[i];
    scatter += weight * Dot(rest, rest);
    for (size_t b = 0; b < a; ++b) {
      const double pair = weight * static_cast<double>(terms[b]) / 100;
      products += pair * Dot(gradients[a], gradients[b]);
      norms += pair * std::sqrt(Dot(gradients[a], gradients[a]) * Dot(gradients[b], gradients[b]));
    }
  }
  const BlockDiagnostics block = Of(gradients, terms);
  EXPECT_EQ(block.holders, 4);
  EXPECT_NEAR(*block.cosine, products / norms, 1e-12);
  EXPECT_NEAR(*block.variance, scatter / 3, 1e-12 * scatter);
}

// Independent noise of variance 1 in each of 20,000 elements: the mean of k has 1 / k. The estimate
// over 20,000 (k - 1) squares is within 2% (more than 2 standard deviations at k = 2, fixed
// numbers).
TEST(DiagnosticsTest, Variance_FallsAsOneOverTheHolders) {
  for (const size_t holders : {2u, 4u, 8u}) {
    std::vector<Vector> gradients;
    for (uint64_t a = 0; a < holders; ++a) gradients.push_back(Noise(a, 20000, 0.5));
    const BlockDiagnostics block = Of(gradients, std::vector<int64_t>(holders, 16));
    EXPECT_NEAR(*block.variance * static_cast<double>(holders) / 20000, 1, 0.02);
  }
}

TEST(DiagnosticsTest, BesideTheDenseGradient_CosineAndRatio) {
  const auto compare = [](const Vector& mean, const Vector& dense) {
    return Diagnose("unit", {{5},
                             {Dot(mean, mean)},
                             Dot(mean, mean),
                             HolderGradients::Dense{Dot(mean, dense), Dot(dense, dense)}});
  };
  EXPECT_NEAR(*compare({3, 4}, {6, 8}).dense_cosine, 1, 1e-15);
  EXPECT_NEAR(*compare({3, 4}, {6, 8}).dense_ratio, 0.5, 1e-15);
  EXPECT_NEAR(*compare({3, 4}, {4, -3}).dense_cosine, 0, 1e-15);
  EXPECT_NEAR(*compare({1, 0}, {-1, 1}).dense_cosine, -std::sqrt(0.5), 1e-15);
  EXPECT_NEAR(*compare({1, 0}, {-1, 1}).dense_ratio, std::sqrt(0.5), 1e-15);
  EXPECT_FALSE(compare({0, 0}, {1, 1}).dense_cosine.has_value());
  EXPECT_FALSE(compare({1, 1}, {0, 0}).dense_ratio.has_value());
  EXPECT_FALSE(Of({{3, 4}, {3, 4}}, {5, 2}).dense_cosine.has_value());
}

}  // namespace
}  // namespace sdp
