#include "worker/model/row_ops.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ATen/Parallel.h"
#include "worker/model/kernels.h"

namespace sdp {
namespace {

constexpr int64_t kBlock = 64;  // rows

// Calls f(block, first row, rows) for all blocks.
template <typename F>
void ForBlocks(int64_t rows, const F& f) {
  const int64_t blocks = (rows + kBlock - 1) / kBlock;
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      f(block, block * kBlock, std::min(kBlock, rows - block * kBlock));
    }
  });
}

void CheckRows(const at::Tensor& x) {
  TORCH_CHECK(x.is_contiguous() && x.scalar_type() == at::kFloat && x.device().is_cpu(),
              "a row kernel needs a contiguous f32 tensor on the CPU, got ", x.toString(), " ",
              x.sizes());
}

}  // namespace

Normed RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  CheckRows(x);
  CheckRows(weight);
  const int64_t width = weight.numel();
  TORCH_CHECK(x.size(-1) == width, "norm of width ", width, " on ", x.sizes());
  const int64_t rows = x.numel() / width;
  Normed normed{at::empty_like(x), at::empty({rows}, x.options())};
  const float* in = x.const_data_ptr<float>();
  const float* scale = weight.const_data_ptr<float>();
  float* out = normed.y.mutable_data_ptr<float>();
  float* rstd = normed.rstd.mutable_data_ptr<float>();
  ForBlocks(rows, [&](int64_t, int64_t row, int64_t n) {
    kernels::RmsNorm(in + row * width, scale, static_cast<float>(eps), n, width, out + row * width,
                     rstd + row);
  });
  return normed;
}

RmsNormGradients RmsNormGradient(const at::Tensor& dy, const at::Tensor& x,
                                 const at::Tensor& weight, const at::Tensor& rstd,
                                 const at::Tensor& residual) {
  CheckRows(dy);
  CheckRows(x);
  if (residual.defined()) CheckRows(residual);
  const int64_t width = weight.numel();
  const int64_t rows = rstd.numel();
  TORCH_CHECK(x.numel() == rows * width && dy.numel() == x.numel() &&
                  (!residual.defined() || residual.numel() == x.numel()),
              "gradient of a norm: ", dy.sizes(), " for ", x.sizes());
  at::Tensor dx = at::empty_like(x);
  // One row of sums per block, added up in order below.
  at::Tensor parts = at::zeros({(rows + kBlock - 1) / kBlock, width}, x.options());
  const float* dy_data = dy.const_data_ptr<float>();
  const float* x_data = x.const_data_ptr<float>();
  const float* rstd_data = rstd.const_data_ptr<float>();
  const float* weight_data = weight.const_data_ptr<float>();
  const float* residual_data = residual.defined() ? residual.const_data_ptr<float>() : nullptr;
  float* dx_data = dx.mutable_data_ptr<float>();
  float* parts_data = parts.mutable_data_ptr<float>();
  ForBlocks(rows, [&](int64_t block, int64_t row, int64_t n) {
    kernels::RmsNormGradient(dy_data + row * width, x_data + row * width, weight_data,
                             rstd_data + row,
                             residual_data == nullptr ? nullptr : residual_data + row * width, n,
                             width, dx_data + row * width, parts_data + block * width);
  });
  return {std::move(dx), parts.sum(0)};
}

Rotary::Rotary(int64_t length, int64_t head_dim, double theta) {
  const int64_t half = head_dim / 2;
  cosine_ = at::empty({length, half}, at::kFloat);
  sine_ = at::empty({length, half}, at::kFloat);
  float* cosine = cosine_.mutable_data_ptr<float>();
  float* sine = sine_.mutable_data_ptr<float>();
  for (int64_t position = 0; position < length; ++position) {
    for (int64_t i = 0; i < half; ++i) {
      const double frequency =
          std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
      const double angle = static_cast<double>(position) * frequency;
      *cosine++ = static_cast<float>(std::cos(angle));
      *sine++ = static_cast<float>(std::sin(angle));
    }
  }
}

void Rotary::Turn(at::Tensor& x, int64_t heads, float sign, int64_t first) const {
  CheckRows(x);
  TORCH_CHECK(x.dim() >= 2 && first + x.size(1) <= length() && (first == 0 || x.size(0) == 1),
              "no positions from ", first, " on for samples of ", x.sizes(), ": the model has ",
              length());
  const int64_t rows = x.size(0) * x.size(1);
  const kernels::RotaryShape shape{x.numel() / rows, heads, head_dim(), first + x.size(1)};
  TORCH_CHECK(heads * head_dim() <= shape.stride, heads, " heads of ", head_dim(), " in ",
              x.sizes());
  float* data = x.mutable_data_ptr<float>();
  const float* cosine = cosine_.const_data_ptr<float>();
  const float* sine = sine_.const_data_ptr<float>();
  ForBlocks(rows, [&](int64_t, int64_t row, int64_t n) {
    kernels::Rotate(data + row * shape.stride, shape, cosine, sine, sign, n, first + row);
  });
}

at::Tensor SwiGlu(const at::Tensor& gate_up) {
  CheckRows(gate_up);
  const int64_t width = gate_up.size(-1) / 2;
  const int64_t rows = gate_up.numel() / (2 * width);
  at::Tensor product = at::empty({rows, width}, gate_up.options());
  const float* in = gate_up.const_data_ptr<float>();
  float* out = product.mutable_data_ptr<float>();
  ForBlocks(rows, [&](int64_t, int64_t row, int64_t n) {
    kernels::SwiGlu(in + row * 2 * width, n, width, out + row * width);
  });
  return product;
}

at::Tensor SwiGluGradient(const at::Tensor& gate_up, at::Tensor& dproduct_to_product) {
  CheckRows(gate_up);
  CheckRows(dproduct_to_product);
  const int64_t width = gate_up.size(-1) / 2;
  const int64_t rows = gate_up.numel() / (2 * width);
  TORCH_CHECK(dproduct_to_product.numel() == rows * width,
              "gradient of SwiGLU: ", dproduct_to_product.sizes(), " for ", gate_up.sizes());
  at::Tensor dgate_up = at::empty_like(gate_up);
  const float* in = gate_up.const_data_ptr<float>();
  float* product = dproduct_to_product.mutable_data_ptr<float>();
  float* out = dgate_up.mutable_data_ptr<float>();
  ForBlocks(rows, [&](int64_t, int64_t row, int64_t n) {
    kernels::SwiGluGradient(in + row * 2 * width, n, width, product + row * width,
                            out + row * 2 * width);
  });
  return dgate_up;
}

double SoftmaxLoss(at::Tensor& logits, const at::Tensor& target) {
  CheckRows(logits);
  const int64_t rows = logits.size(0);
  const int64_t classes = logits.size(1);
  TORCH_CHECK(target.is_contiguous() && target.scalar_type() == at::kLong && target.numel() == rows,
              "targets ", target.toString(), " ", target.sizes(), " for ", logits.sizes());
  const int64_t* targets = target.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows; ++row) {
    TORCH_CHECK_INDEX(targets[row] >= 0 && targets[row] < classes, "target ", targets[row],
                      " of a model with ", classes, " classes");
  }
  std::vector<float> losses(static_cast<size_t>(rows));
  float* data = logits.mutable_data_ptr<float>();
  ForBlocks(rows, [&](int64_t, int64_t row, int64_t n) {
    kernels::SoftmaxLoss(data + row * classes, targets + row, n, classes, losses.data() + row);
  });
  double sum = 0;
  for (const float loss : losses) sum += loss;
  return sum;
}

}  // namespace sdp
