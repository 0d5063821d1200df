#include "worker/model/row_ops.h"

#include <cmath>
#include <limits>

#include "ATen/Parallel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/naive_llama.h"
#include "torch/autograd.h"

// References are plain torch operations in f64 on the same f32 inputs. Tolerances: a row of up to a
// few hundred terms summed in f32 is off by some 1e-7 times its largest terms; 2e-6 leaves room for
// the order of summation.
namespace sdp {
namespace {

constexpr double kTolerance = 2e-6;

double Difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b).abs().max() / b.abs().max()).item<double>();
}

at::Tensor Leaf(const at::Tensor& x) { return x.to(at::kDouble).requires_grad_(); }

class RowOpsTest : public ::testing::TestWithParam<std::pair<int64_t, int64_t>> {  // rows, width
 protected:
  RowOpsTest() { at::manual_seed(3); }
  int64_t rows() const { return GetParam().first; }
  int64_t width() const { return GetParam().second; }
};

TEST_P(RowOpsTest, RmsNorm_ForwardAndGradients_MatchPlainOps) {
  const at::Tensor x = at::randn({rows(), width()}) * 3;
  const at::Tensor weight = at::randn({width()});
  const at::Tensor dy = at::randn({rows(), width()});
  const at::Tensor x64 = Leaf(x), weight64 = Leaf(weight);
  const at::Tensor y64 = naive::RmsNorm(x64, weight64, 1e-5);
  y64.backward(dy.to(at::kDouble));

  const Normed normed = RmsNorm(x, weight, 1e-5);
  EXPECT_LT(Difference(normed.y, y64), kTolerance);
  const RmsNormGradients plain = RmsNormGradient(dy, x, weight, normed.rstd, at::Tensor());
  EXPECT_LT(Difference(plain.dx, x64.grad()), kTolerance);
  EXPECT_LT(Difference(plain.dweight, weight64.grad()), kTolerance);
  const at::Tensor residual = at::randn_like(x);
  const RmsNormGradients added = RmsNormGradient(dy, x, weight, normed.rstd, residual);
  EXPECT_LT(Difference(added.dx, x64.grad() + residual), kTolerance);
}

TEST_P(RowOpsTest, SwiGlu_ForwardAndGradients_MatchPlainOps) {
  const at::Tensor gate_up = at::randn({rows(), 2 * width()}) * 4;
  const at::Tensor dproduct = at::randn({rows(), width()});
  const at::Tensor gate_up64 = Leaf(gate_up);
  const at::Tensor product64 =
      at::silu(gate_up64.narrow(1, 0, width())) * gate_up64.narrow(1, width(), width());
  product64.backward(dproduct.to(at::kDouble));

  EXPECT_LT(Difference(SwiGlu(gate_up), product64), kTolerance);
  at::Tensor buffer = dproduct.clone();
  const at::Tensor dgate_up = SwiGluGradient(gate_up, buffer);
  EXPECT_LT(Difference(dgate_up, gate_up64.grad()), kTolerance);
  EXPECT_LT(Difference(buffer, product64), kTolerance);
}

TEST_P(RowOpsTest, SoftmaxLoss_SumAndGradients_MatchPlainOps) {
  at::Tensor logits = at::randn({rows(), width()}) * 10;
  const at::Tensor target = at::randint(width(), {rows()}, at::kLong);
  const at::Tensor logits64 = Leaf(logits);
  const at::Tensor loss64 = -at::log_softmax(logits64, 1).gather(1, target.unsqueeze(1)).sum();
  loss64.backward();

  const double loss = SumInOrder(SoftmaxLoss(logits, target));
  EXPECT_NEAR(loss, loss64.item<double>(), kTolerance * std::abs(loss64.item<double>()) + 1e-6);
  EXPECT_NEAR(((logits.to(at::kDouble) - logits64.grad()).abs().max()).item<double>(), 0,
              kTolerance);
}

TEST_P(RowOpsTest, AnyThreadCount_SameBits) {
  const at::Tensor x = at::randn({rows(), width()});
  const at::Tensor weight = at::randn({width()});
  at::set_num_threads(1);
  const Normed one = RmsNorm(x, weight, 1e-5);
  const RmsNormGradients gradients_one = RmsNormGradient(x, x, weight, one.rstd, x);
  at::set_num_threads(2);
  const Normed two = RmsNorm(x, weight, 1e-5);
  const RmsNormGradients gradients_two = RmsNormGradient(x, x, weight, two.rstd, x);
  at::set_num_threads(1);
  EXPECT_TRUE(at::equal(one.y, two.y));
  EXPECT_TRUE(at::equal(gradients_one.dx, gradients_two.dx));
  EXPECT_TRUE(at::equal(gradients_one.dweight, gradients_two.dweight));
}

INSTANTIATE_TEST_SUITE_P(Sizes, RowOpsTest,
                         ::testing::Values(std::pair<int64_t, int64_t>{1, 3},
                                           std::pair<int64_t, int64_t>{3, 7},
                                           std::pair<int64_t, int64_t>{64, 32},
                                           std::pair<int64_t, int64_t>{131, 129},
                                           std::pair<int64_t, int64_t>{200, 344}));

TEST(RotaryTest, ApplyAndInverse_MatchPlainOpsAndLeaveOtherHeadsAlone) {
  const int64_t length = 13, e = 6;
  const Rotary rotary(/*length=*/20, e, 1e4);
  const at::Tensor x = at::randn({2, length, 5 * e});
  at::Tensor rotated = x.clone();
  rotary.Apply(rotated, 3);
  const at::Tensor heads = x.to(at::kDouble).view({2, length, 5, e}).transpose(1, 2);
  const at::Tensor expected =
      at::cat({naive::Rotate(heads.narrow(1, 0, 3), 1e4), heads.narrow(1, 3, 2)}, 1);
  EXPECT_LT(Difference(rotated.view({2, length, 5, e}).transpose(1, 2), expected), kTolerance);
  rotary.ApplyInverse(rotated, 3);
  EXPECT_LT(Difference(rotated, x.to(at::kDouble)), kTolerance);
}

TEST(RotaryTest, SampleLongerThanTheModel_Throws) {
  const Rotary rotary(4, 2, 1e4);
  at::Tensor x = at::zeros({1, 5, 2});
  EXPECT_THROW(rotary.Apply(x, 1), c10::Error);
}

TEST(SoftmaxLossTest, TargetOutOfRange_Throws) {
  at::Tensor logits = at::zeros({2, 3});
  EXPECT_THROW(SoftmaxLoss(logits, at::tensor({0, 3}, at::kLong)), c10::Error);
  EXPECT_THROW(SoftmaxLoss(logits, at::tensor({-1, 0}, at::kLong)), c10::Error);
}

TEST(SoftmaxLossTest, NanOrInfinity_LossIsNotFinite) {
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    at::Tensor logits = at::zeros({1, 20});
    logits[0][11] = bad;
    EXPECT_FALSE(std::isfinite(SumInOrder(SoftmaxLoss(logits, at::tensor({3}, at::kLong))))) << bad;
  }
}

TEST(SwiGluTest, ExtremeGates_FiniteAndRight) {
  const at::Tensor gate_up =
      at::tensor({-200.0f, -90.0f, 90.0f, 200.0f, 0.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f})
          .view({1, 10});
  const at::Tensor expected = at::tensor({0.0, 0.0, 90.0, 200.0, 0.0}, at::kDouble).view({1, 5});
  EXPECT_LT((SwiGlu(gate_up).to(at::kDouble) - expected).abs().max().item<double>(), 1e-30 + 1e-5);
}

// Denormal numbers take the CPU a hundred times longer, here and in the matrix products after it.
bool HasDenormals(const at::Tensor& x) {
  const at::Tensor size = x.abs();
  return ((size > 0) & (size < std::numeric_limits<float>::min())).any().item<bool>();
}

TEST(SwiGluTest, FarGates_NoDenormals) {
  const at::Tensor gate = at::arange(-300, 300, at::kFloat).view({-1, 1}) / 2;
  const at::Tensor gate_up = at::cat({gate, at::ones_like(gate)}, 1);
  at::Tensor buffer = at::ones_like(gate);
  EXPECT_FALSE(HasDenormals(SwiGlu(gate_up)));
  EXPECT_FALSE(HasDenormals(SwiGluGradient(gate_up, buffer)));
}

TEST(SoftmaxLossTest, FarLogits_NoDenormals) {
  at::Tensor logits = at::cat({at::zeros({1, 40}), -at::arange(200, at::kFloat).view({1, 200})}, 1);
  SoftmaxLoss(logits, at::tensor({3}, at::kLong));
  EXPECT_FALSE(HasDenormals(logits));
}

TEST(RowOpsTest, TensorThatIsNotContiguous_Throws) {
  EXPECT_THROW(RmsNorm(at::zeros({4, 4}).t().narrow(0, 0, 2), at::ones({4}), 1e-5), c10::Error);
}

}  // namespace
}  // namespace sdp
