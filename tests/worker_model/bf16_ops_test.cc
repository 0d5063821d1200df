#include <cmath>
#include <tuple>

#include "gtest/gtest.h"
#include "tests/worker_model/naive_llama.h"
#include "torch/autograd.h"
#include "worker/model/causal_attention.h"
#include "worker/model/embedding.h"
#include "worker/model/head_loss.h"
#include "worker/model/matrix.h"
#include "worker/model/row_ops.h"

// bf16 operations against plain ones in f64 on the same bf16 inputs. A bf16 number has 8 bits, so
// rounding costs up to u = 2^-8 of the value. Operations that compute in f32 and round once are
// held to that, element by element; where rounded values are used again, the count of roundings is
// given.
namespace sdp {
namespace {

constexpr double kU = 0x1p-8;

at::Tensor Narrow(const at::Tensor& x) { return x.to(at::kBFloat16); }
at::Tensor Leaf(const at::Tensor& x) { return x.to(at::kDouble).requires_grad_(); }

// Every element within `roundings` u of itself, and within 1e-6 of the largest for f32's own
// errors.
void ExpectRounded(const at::Tensor& a, const at::Tensor& b, double roundings = 1) {
  ASSERT_EQ(a.scalar_type(), at::kBFloat16);
  const at::Tensor error = (a.to(at::kDouble) - b.detach()).abs();
  const at::Tensor allowed = roundings * kU * b.detach().abs() + 1e-6 * b.detach().abs().max();
  EXPECT_LE((error - allowed).max().item<double>(), 0)
      << "largest error " << error.max().item<double>();
}

// |a - b| over the largest |b|: for sums, whose errors scale with their largest terms.
double Difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b.detach().to(at::kDouble)).abs().max() /
          b.detach().abs().max().to(at::kDouble))
      .item<double>();
}

class Bf16OpsTest : public ::testing::Test {
 protected:
  Bf16OpsTest() { at::manual_seed(5); }
};

TEST_F(Bf16OpsTest, MixedTypes_Throw) {
  EXPECT_THROW(RmsNorm(Narrow(at::ones({2, 4})), at::ones({4}), 1e-5), c10::Error);
  at::Tensor logits = Narrow(at::zeros({1, 3}));
  EXPECT_THROW(SoftmaxLoss(logits, at::tensor({0}, at::kLong)), c10::Error);
}

TEST_F(Bf16OpsTest, RmsNorm_RoundsOnce) {
  // Rows across the border of two parts; a width that fills a kernel's scratch in one row and more.
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{131, 129}, {3, 9000}, {200, 24}}) {
    const at::Tensor x = Narrow(at::randn({rows, width}) * 3), weight = Narrow(at::randn({width}));
    const at::Tensor dy = Narrow(at::randn({rows, width})),
                     around = Narrow(at::randn({rows, width}));
    const at::Tensor x64 = Leaf(x), weight64 = Leaf(weight);
    const at::Tensor y64 = naive::RmsNorm(x64, weight64, 1e-5);
    y64.backward(dy.to(at::kDouble));
    const Normed normed = RmsNorm(x, weight, 1e-5);
    ExpectRounded(normed.y, y64);
    EXPECT_EQ(normed.rstd.scalar_type(), at::kFloat);
    const RmsNormGradients plain = RmsNormGradient(dy, x, weight, normed.rstd, at::Tensor());
    ExpectRounded(plain.dx, x64.grad());
    EXPECT_EQ(plain.dweight.scalar_type(), at::kFloat);
    EXPECT_LT(Difference(plain.dweight, weight64.grad()), 2e-6);  // a sum in f32
    const RmsNormGradients added = RmsNormGradient(dy, x, weight, normed.rstd, around);
    ExpectRounded(added.dx, x64.grad() + around.to(at::kDouble));
  }
}

TEST_F(Bf16OpsTest, SwiGlu_RoundsOnce) {
  for (const int64_t width : {7, 344, 5000}) {
    const at::Tensor gate_up = Narrow(at::randn({67, 2 * width}) * 4);
    const at::Tensor dproduct = Narrow(at::randn({67, width}));
    const at::Tensor gate_up64 = Leaf(gate_up);
    const at::Tensor product64 =
        at::silu(gate_up64.narrow(1, 0, width)) * gate_up64.narrow(1, width, width);
    product64.backward(dproduct.to(at::kDouble));
    ExpectRounded(SwiGlu(gate_up), product64);
    at::Tensor buffer = dproduct.clone();
    ExpectRounded(SwiGluGradient(gate_up, buffer), gate_up64.grad());
    ExpectRounded(buffer, product64);
  }
}

TEST_F(Bf16OpsTest, Rotary_RoundsOnce_AndLeavesOtherHeadsAlone) {
  const int64_t length = 13, e = 6;
  const Rotary rotary(20, e, 1e4);
  const at::Tensor x = Narrow(at::randn({2, length, 5 * e}));
  at::Tensor rotated = x.clone();
  rotary.Apply(rotated, 3);
  const at::Tensor heads = x.to(at::kDouble).view({2, length, 5, e}).transpose(1, 2);
  const at::Tensor expected = naive::Rotate(heads.narrow(1, 0, 3), 1e4);
  const at::Tensor got = rotated.view({2, length, 5, e}).transpose(1, 2);
  ExpectRounded(got.narrow(1, 0, 3), expected);
  EXPECT_TRUE(
      at::equal(got.narrow(1, 3, 2), x.view({2, length, 5, e}).transpose(1, 2).narrow(1, 3, 2)));
}

TEST_F(Bf16OpsTest, Products_AreSummedInF32AndRoundOnce) {
  // More than one block in each direction; transposed operands as in backward passes.
  const at::Tensor a = Narrow(at::randn({1100, 1700})), b = Narrow(at::randn({1700, 1300}));
  const at::Tensor h = Narrow(at::randn({1100, 1300}));
  const at::Tensor product = at::mm(a.to(at::kDouble), b.to(at::kDouble));
  at::Tensor result = at::empty({1100, 1300}, at::kBFloat16);
  const auto near = [](const at::Tensor& x, const at::Tensor& expected) {
    // Sums of 1700 terms of size up to 10 in f32: 1e-5 of the largest.
    const at::Tensor allowed = kU * expected.abs() + 1e-5 * expected.abs().max();
    return ((x.to(at::kDouble) - expected).abs() - allowed).max().item<double>() <= 0;
  };
  WidenedProduct(result, result, 0, a, b, 0.5);
  EXPECT_TRUE(near(result, 0.5 * product));
  const at::Tensor bt = b.t().contiguous(), at_ = a.t().contiguous();
  WidenedProduct(result, h, 1, at_.t(), bt.t(), 2);
  EXPECT_TRUE(near(result, h.to(at::kDouble) + 2 * product));
  EXPECT_TRUE(near(AddProduct(h, a, b, 0.25), h.to(at::kDouble) + 0.25 * product));
  EXPECT_TRUE(near(ScaledProduct(a, b, 3), 3 * product));
  ProductInto(result, a, b);
  EXPECT_TRUE(near(result, product));

  at::Tensor sum = at::full({1100, 1300}, std::nan(""), at::kFloat);
  AccumulateProduct(sum, a, b, 0.5, Sum::kFresh);
  AccumulateProduct(sum, a, b, 0.25, Sum::kContinued);
  EXPECT_LT(Difference(sum, 0.75 * product),
            1e-5 + (Bf16ProductsOn(at::kCPU) == Bf16Products::kBlas ? kU : 0));
  EXPECT_THROW(WidenedProduct(result, result, 0, a, a, 1), c10::Error);
}

TEST_F(Bf16OpsTest, Embedding_GradientIsSummedInF32_AndInF32EqualsTorchsBits) {
  // Token 3 five hundred times: in bf16 its sum would stop near 256 times a term.
  at::Tensor tokens = at::randint(11, {2, 400}, at::kLong);
  tokens.view({-1}).narrow(0, 100, 500).fill_(3);
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    const at::Tensor weight = at::randn({11, 24}).to(type).requires_grad_();
    const at::Tensor dy = at::rand({2, 400, 24}).to(type);
    const at::Tensor y = Embedding(weight, tokens);
    EXPECT_TRUE(at::equal(y, at::embedding(weight, tokens)));
    y.backward(dy);
    const at::Tensor weight64 = Leaf(weight.detach());
    at::embedding(weight64, tokens).backward(dy.to(at::kDouble));
    if (type == at::kBFloat16) {
      ExpectRounded(weight.grad(), weight64.grad());
    } else {
      EXPECT_LT(Difference(weight.grad(), weight64.grad()), 2e-6);
      const at::Tensor torchs = weight.detach().clone().requires_grad_();
      at::embedding(torchs, tokens).backward(dy);
      EXPECT_TRUE(at::equal(weight.grad(), torchs.grad()));
    }
  }
}

TEST_F(Bf16OpsTest, HeadLoss_MatchesPlainOps) {
  // Three chunks. Roundings on the way to a gradient: normed input, logits, their gradient, the
  // product, the result; one more for the loss's derivative at rounded logits: 6 u, of which
  // half is asked for, as they mostly cancel.
  const int64_t vocab = 300, d = 48;
  const at::Tensor h = Narrow(at::randn({3, 100, d})).requires_grad_();
  const at::Tensor norm = Narrow(at::rand({d}) + 0.5).requires_grad_();
  const at::Tensor projection = Narrow(0.2 * at::randn({vocab, d})).requires_grad_();
  const at::Tensor target = at::randint(vocab, {3, 100}, at::kLong);
  const at::Tensor loss = HeadLoss(h, target, {norm, projection}, 1e-5, 1.0 / 300, 128);
  loss.backward();
  const at::Tensor h64 = Leaf(h.detach()), norm64 = Leaf(norm.detach()),
                   projection64 = Leaf(projection.detach());
  const at::Tensor logits = at::matmul(naive::RmsNorm(h64, norm64, 1e-5), projection64.t());
  const at::Tensor loss64 = -at::log_softmax(logits, -1).gather(-1, target.unsqueeze(-1)).mean();
  loss64.backward();
  EXPECT_NEAR(loss.item<double>(), loss64.item<double>(), kU * loss64.item<double>());
  EXPECT_LT(Difference(h.grad(), h64.grad()), 3 * kU);
  EXPECT_LT(Difference(norm.grad(), norm64.grad()), 3 * kU);
  EXPECT_LT(Difference(projection.grad(), projection64.grad()), 3 * kU);
}

// Grouped queries, more than one block of query rows for the plain kernel, both types.
TEST_F(Bf16OpsTest, AttentionInRowBlocks_EqualsTorchsTiles) {
  struct Case {
    at::ScalarType type;
    int64_t batch, heads, key_heads, length;
    double tolerance;
  };
  const Case cases[] = {
      {at::kFloat, 2, 6, 2, 77, 5e-6},
      {at::kFloat, 2, 16, 4, 1500, 5e-6},  // 48,000 scores a row: two blocks
      {at::kFloat, 1, 1, 1, 1, 5e-6},
      // Probabilities, their gradients and results are rounded, in other places than there: 4 u
      // each.
      {at::kBFloat16, 2, 6, 3, 77, 4 * kU},
  };
  for (const Case& c : cases) {
    // As views of one tensor, as the branch has them.
    const at::Tensor all =
        at::randn({c.batch, c.length, c.heads + 2 * c.key_heads, 8}).to(c.type).transpose(1, 2);
    const at::Tensor q = all.narrow(1, 0, c.heads), k = all.narrow(1, c.heads, c.key_heads),
                     v = all.narrow(1, c.heads + c.key_heads, c.key_heads);
    const at::Tensor dout = at::randn({c.batch, c.length, c.heads, 8}).to(c.type).transpose(1, 2);
    const Attended tiles = CausalAttention(AttentionKernel::kCpuTiles, q, k, v);
    const Attended blocks = CausalAttention(AttentionKernel::kRowBlocks, q, k, v);
    EXPECT_EQ(blocks.out.scalar_type(), c.type);
    EXPECT_LT(Difference(blocks.out, tiles.out), c.tolerance);
    EXPECT_LT(Difference(blocks.log_sum_exp, tiles.log_sum_exp), c.type == at::kFloat ? 5e-6 : kU);
    const AttentionGradients a =
        CausalAttentionGradient(AttentionKernel::kCpuTiles, dout, q, k, v, tiles);
    const AttentionGradients b =
        CausalAttentionGradient(AttentionKernel::kRowBlocks, dout, q, k, v, blocks);
    EXPECT_LT(Difference(b.v, a.v), c.tolerance);
    if (c.length > 1) {  // One key: no gradient reaches q and k.
      EXPECT_LT(Difference(b.q, a.q), c.tolerance);
      EXPECT_LT(Difference(b.k, a.k), c.tolerance);
    }
  }
}

}  // namespace
}  // namespace sdp
