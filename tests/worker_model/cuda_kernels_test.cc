#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "torch/autograd.h"
#include "worker/model/causal_attention.h"
#include "worker/model/copy_runs.h"
#include "worker/model/device.h"
#include "worker/model/embedding.h"
#include "worker/model/kernels_cuda.h"
#include "worker/model/row_ops.h"

// Each kernel on a GPU against its twin on the CPU, on the same numbers. Tolerances: the two add up
// in other orders and have other exponentials, 5e-6 of the largest for rows of up to 1,000 f32
// terms; a bf16 result may be rounded to the neighbour, 2^-7 of the value. Needs a GPU.
namespace sdp {
namespace {

using Sizes = std::pair<int64_t, int64_t>;  // rows, width

class CudaKernelsTest : public ::testing::TestWithParam<std::tuple<at::ScalarType, Sizes>> {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> device = OpenDevice(Device::kCuda);
    if (!device.ok()) GTEST_SKIP() << device.status().message();
    at::manual_seed(3);
  }
  at::ScalarType type() const { return std::get<0>(GetParam()); }
  int64_t rows() const { return std::get<1>(GetParam()).first; }
  int64_t width() const { return std::get<1>(GetParam()).second; }
  at::Tensor Random(at::IntArrayRef shape, double scale = 1) const {
    return (at::randn(shape) * scale).to(type());
  }

  static void ExpectNear(const at::Tensor& gpu, const at::Tensor& cpu) {
    ASSERT_TRUE(gpu.is_cuda());
    ASSERT_EQ(gpu.scalar_type(), cpu.scalar_type());
    const at::Tensor a = gpu.cpu().to(at::kDouble), b = cpu.to(at::kDouble);
    const double rounding = cpu.scalar_type() == at::kBFloat16 ? 0x1p-7 : 0;
    const at::Tensor allowed = rounding * b.abs() + 5e-6 * b.abs().max();
    EXPECT_LE(((a - b).abs() - allowed).max().item<double>(), 0);
  }
};

TEST_P(CudaKernelsTest, RmsNormAndItsGradient) {
  const at::Tensor x = Random({rows(), width()}, 3), weight = Random({width()});
  const at::Tensor dy = Random({rows(), width()}), around = Random({rows(), width()});
  const Normed cpu = RmsNorm(x, weight, 1e-5), gpu = RmsNorm(x.cuda(), weight.cuda(), 1e-5);
  ExpectNear(gpu.y, cpu.y);
  ExpectNear(gpu.rstd, cpu.rstd);
  for (const at::Tensor& residual : {at::Tensor(), around}) {
    const RmsNormGradients a = RmsNormGradient(dy, x, weight, cpu.rstd, residual);
    const RmsNormGradients b = RmsNormGradient(dy.cuda(), x.cuda(), weight.cuda(), cpu.rstd.cuda(),
                                               residual.defined() ? residual.cuda() : residual);
    ExpectNear(b.dx, a.dx);
    ExpectNear(b.dweight, a.dweight);
  }
}

TEST_P(CudaKernelsTest, SwiGluAndItsGradient) {
  const at::Tensor gate_up = Random({rows(), 2 * width()}, 4), dproduct = Random({rows(), width()});
  ExpectNear(SwiGlu(gate_up.cuda()), SwiGlu(gate_up));
  at::Tensor cpu = dproduct.clone(), gpu = dproduct.cuda();
  const at::Tensor gradient = SwiGluGradient(gate_up, cpu);
  ExpectNear(SwiGluGradient(gate_up.cuda(), gpu), gradient);
  ExpectNear(gpu, cpu);
}

TEST_P(CudaKernelsTest, SoftmaxLoss) {
  at::Tensor cpu = at::randn({rows(), width()}) * 10;
  at::Tensor gpu = cpu.cuda();
  const at::Tensor target = at::randint(width(), {rows()}, at::kLong);
  const at::Tensor losses = sdp::SoftmaxLoss(cpu, target);
  ExpectNear(sdp::SoftmaxLoss(gpu, target.cuda()), losses);
  ExpectNear(gpu, cpu);
}

TEST_P(CudaKernelsTest, EmbeddingGradient) {
  const int64_t vocab = 17;
  const at::Tensor tokens = at::randint(vocab, {rows()}, at::kLong), dy = Random({rows(), width()});
  ExpectNear(sdp::EmbeddingGradient(dy.cuda(), tokens.cuda(), vocab),
             sdp::EmbeddingGradient(dy, tokens, vocab));
}

TEST_P(CudaKernelsTest, Rotary) {
  const int64_t e = 2 * width();
  at::Tensor cpu = Random({2, rows(), 3 * e});
  at::Tensor gpu = cpu.cuda();
  const sdp::Rotary on_cpu(rows(), e, 1e4), on_gpu(rows(), e, 1e4, at::kCUDA);
  on_cpu.Apply(cpu, 2);
  on_gpu.Apply(gpu, 2);
  ExpectNear(gpu, cpu);
  // From the same again: where two terms cancel, a rounding of one is more than one of their sum.
  gpu = cpu.cuda();
  on_cpu.ApplyInverse(cpu, 2);
  on_gpu.ApplyInverse(gpu, 2);
  ExpectNear(gpu, cpu);
}

// Columns of a matrix, out of a fragment and into one: the CPU's bits.
TEST_P(CudaKernelsTest, CopyRuns_HasTheCpusBits) {
  const at::Tensor from = Random({rows(), 2 * width()});
  const kernels::RunsShape pack = {width(), rows(), 2 * width(), width()};
  const kernels::RunsShape unpack = {width(), rows(), width(), 2 * width()};
  const auto check = [&](auto zero) {
    using T = decltype(zero);
    for (const kernels::RunsShape& runs : {pack, unpack}) {
      at::Tensor cpu = at::zeros_like(from), gpu = cpu.cuda();
      const at::Tensor source = from.cuda();
      kernels::CopyRuns(static_cast<const T*>(from.const_data_ptr()), runs, 0.3f,
                        static_cast<T*>(cpu.mutable_data_ptr()));
      kernels::cuda::CopyRuns(static_cast<const T*>(source.const_data_ptr()), runs, 0.3f,
                              static_cast<T*>(gpu.mutable_data_ptr()),
                              kernels::cuda::CurrentStream(gpu.get_device()));
      EXPECT_TRUE(at::equal(gpu.cpu(), cpu));
    }
  };
  if (type() == at::kFloat) {
    check(float());
  } else {
    check(kernels::Bf16());
  }
}

// What goes there and comes back beside what is computed is what it was, whatever is under way.
TEST_P(CudaKernelsTest, Copies_WaitForWhatTheyNeed) {
  const at::Device device(at::kCUDA, 0);
  at::Tensor sum = Random({rows(), width()}).cuda(), expected = sum.clone();
  std::vector<HostCopy> copies;
  for (int i = 0; i < 20; ++i) {
    const at::Tensor staged = StagingTensor({rows(), width()}, type(), device);
    staged.fill_(i);
    sum = sum + ToDevice(staged, device);
    copies.emplace_back(sum);
  }
  for (int i = 0; i < 20; ++i) {
    expected = expected + i;
    EXPECT_TRUE(at::equal(copies[static_cast<size_t>(i)].Await(), expected.cpu())) << i;
  }
}

TEST_P(CudaKernelsTest, Repeated_SameBits) {
  const at::Tensor x = Random({rows(), width()}).cuda(), weight = Random({width()}).cuda();
  const Normed normed = RmsNorm(x, weight, 1e-5);
  const RmsNormGradients a = RmsNormGradient(x, x, weight, normed.rstd, x);
  const RmsNormGradients b = RmsNormGradient(x, x, weight, normed.rstd, x);
  EXPECT_TRUE(at::equal(a.dx, b.dx));
  EXPECT_TRUE(at::equal(a.dweight, b.dweight));
}

// More rows than a warp, a block and a part; a row shorter than a warp and longer than a block.
INSTANTIATE_TEST_SUITE_P(Sizes, CudaKernelsTest,
                         ::testing::Combine(::testing::Values(at::kFloat, at::kBFloat16),
                                            ::testing::Values(Sizes{1, 3}, Sizes{3, 31},
                                                              Sizes{64, 256}, Sizes{131, 257},
                                                              Sizes{300, 1000})));

class CudaTest : public CudaKernelsTest {};

TEST_P(CudaTest, SoftmaxLossOfTargetOutOfRange_IsNan) {
  at::Tensor logits = at::zeros({2, 5}, at::kCUDA);
  const at::Tensor losses = sdp::SoftmaxLoss(logits, at::tensor({5, 1}, at::kLong).cuda()).cpu();
  EXPECT_TRUE(std::isnan(losses[0].item<float>()));
  EXPECT_NEAR(losses[1].item<float>(), std::log(5), 1e-5);
}

// The kernel that the device has for the type, against torch's for CPUs. bf16: probabilities and
// results are rounded in other places, 4 roundings of 2^-8.
TEST_P(CudaTest, Attention) {
  const double tolerance = type() == at::kFloat ? 1e-5 : 4 * 0x1p-8;
  for (const int64_t size : {32, 6}) {  // 6: no flash attention
    const at::Tensor all = Random({2, 200, 8, size}).transpose(1, 2), gpu = all.cuda();
    const at::Tensor dout = Random({2, 200, 4, size}).transpose(1, 2);
    const auto part = [](const at::Tensor& x, int64_t i) {  // 4 query heads, 2 of keys, 2 of values
      return i == 0 ? x.narrow(1, 0, 4) : x.narrow(1, 2 + 2 * i, 2);
    };
    const auto near = [&](const at::Tensor& a, const at::Tensor& b) {
      const double off = (a.cpu().to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
      EXPECT_LT(off / b.to(at::kDouble).abs().max().item<double>(), tolerance);
    };
    const AttentionKernel kernel = AttentionKernelFor(part(gpu, 0));
    const Attended a = CausalAttention(kernel, part(gpu, 0), part(gpu, 1), part(gpu, 2));
    const Attended b =
        CausalAttention(AttentionKernel::kCpuTiles, part(all, 0), part(all, 1), part(all, 2));
    near(a.out, b.out);
    const AttentionGradients da =
        CausalAttentionGradient(kernel, dout.cuda(), part(gpu, 0), part(gpu, 1), part(gpu, 2), a);
    const AttentionGradients db = CausalAttentionGradient(
        AttentionKernel::kCpuTiles, dout, part(all, 0), part(all, 1), part(all, 2), b);
    near(da.q, db.q);
    near(da.k, db.k);
    near(da.v, db.v);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaTest,
                         ::testing::Combine(::testing::Values(at::kFloat, at::kBFloat16),
                                            ::testing::Values(Sizes{1, 1})));

}  // namespace
}  // namespace sdp
