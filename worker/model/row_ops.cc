#include "worker/model/row_ops.h"

#include <algorithm>
#include <cmath>

#include "ATen/Parallel.h"
#include "worker/model/kernels.h"
#include "worker/model/kernels_cuda.h"

namespace sdp {
namespace {

using kernels::Bf16;

constexpr int64_t kBlock = kernels::kRowsPerPart;

// The rows of a CPU's tensor go to `cpu(first row, rows)` in blocks; all of a GPU's at once to
// `gpu(stream)`, which is compiled only where CUDA is.
template <typename Cpu, typename Gpu>
void Launch(const at::Tensor& x, int64_t rows, const Cpu& cpu, [[maybe_unused]] const Gpu& gpu) {
  if constexpr (kernels::kCudaBuilt) {
    if (x.is_cuda()) return gpu(kernels::cuda::CurrentStream(x.get_device()));
  }
  const int64_t blocks = (rows + kBlock - 1) / kBlock;
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      cpu(block * kBlock, std::min(kBlock, rows - block * kBlock));
    }
  });
}

// Calls f with a zero of x's element type.
template <typename F>
void ForType(const at::Tensor& x, const F& f) {
  if (x.scalar_type() == at::kFloat) {
    f(float());
  } else {
    f(Bf16());
  }
}

// The elements of a tensor of type T; null if it is undefined.
template <typename T>
const T* Read(const at::Tensor& x) {
  return x.defined() ? static_cast<const T*>(x.const_data_ptr()) : nullptr;
}
template <typename T>
T* Write(at::Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

void CheckRows(const at::Tensor& x) {
  const bool device = x.is_cpu() || (kernels::kCudaBuilt && x.is_cuda());
  const bool type = x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
  TORCH_CHECK(x.is_contiguous() && type && device,
              "a row kernel needs a contiguous f32 or bf16 tensor on the CPU",
              kernels::kCudaBuilt ? " or a GPU" : "", ", got ", x.toString(), " ", x.sizes());
}

// Also that `x` is of the type and on the device of `like`.
void CheckRowsLike(const at::Tensor& x, const at::Tensor& like) {
  CheckRows(x);
  TORCH_CHECK(x.scalar_type() == like.scalar_type() && x.device() == like.device(),
              "a row kernel on ", x.toString(), " and ", like.toString());
}

}  // namespace

Normed RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  CheckRows(x);
  CheckRowsLike(weight, x);
  const int64_t width = weight.numel();
  TORCH_CHECK(x.size(-1) == width, "norm of width ", width, " on ", x.sizes());
  const int64_t rows = x.numel() / width;
  Normed normed{at::empty_like(x), at::empty({rows}, x.options().dtype(at::kFloat))};
  const float small = static_cast<float>(eps);
  float* rstd = Write<float>(normed.rstd);
  ForType(x, [&](auto zero) {
    using T = decltype(zero);
    const T* in = Read<T>(x);
    const T* scale = Read<T>(weight);
    T* out = Write<T>(normed.y);
    Launch(
        x, rows,
        [&](int64_t row, int64_t n) {
          kernels::RmsNorm(in + row * width, scale, small, n, width, out + row * width, rstd + row);
        },
        [&](auto stream) {
          kernels::cuda::RmsNorm(in, scale, small, rows, width, out, rstd, stream);
        });
  });
  return normed;
}

RmsNormGradients RmsNormGradient(const at::Tensor& dy, const at::Tensor& x,
                                 const at::Tensor& weight, const at::Tensor& rstd,
                                 const at::Tensor& residual) {
  CheckRows(x);
  CheckRowsLike(dy, x);
  CheckRowsLike(weight, x);
  if (residual.defined()) CheckRowsLike(residual, x);
  const int64_t width = weight.numel();
  const int64_t rows = rstd.numel();
  TORCH_CHECK(x.numel() == rows * width && dy.numel() == x.numel() &&
                  (!residual.defined() || residual.numel() == x.numel()),
              "gradient of a norm: ", dy.sizes(), " for ", x.sizes());
  at::Tensor dx = at::empty_like(x);
  // One row of sums per block, added up in order below.
  at::Tensor parts = at::empty({(rows + kBlock - 1) / kBlock, width}, rstd.options());
  const float* rstds = Read<float>(rstd);
  float* sums = Write<float>(parts);
  ForType(x, [&](auto zero) {
    using T = decltype(zero);
    const T *dout = Read<T>(dy), *in = Read<T>(x), *scale = Read<T>(weight);
    const T* around = Read<T>(residual);
    T* out = Write<T>(dx);
    Launch(
        x, rows,
        [&](int64_t row, int64_t n) {
          const int64_t begin = row * width;
          kernels::RmsNormGradient(dout + begin, in + begin, scale, rstds + row,
                                   around == nullptr ? nullptr : around + begin, n, width,
                                   out + begin, sums + row / kBlock * width);
        },
        [&](auto stream) {
          kernels::cuda::RmsNormGradient(dout, in, scale, rstds, around, rows, width, out, sums,
                                         stream);
        });
  });
  return {std::move(dx), parts.sum(0)};
}

Rotary::Rotary(int64_t length, int64_t head_dim, double theta, at::Device device) {
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
  cosine_ = cosine_.to(device);
  sine_ = sine_.to(device);
}

void Rotary::Turn(at::Tensor& x, int64_t heads, float sign, int64_t first) const {
  CheckRows(x);
  TORCH_CHECK(x.dim() >= 2 && first + x.size(1) <= length() && (first == 0 || x.size(0) == 1),
              "no positions from ", first, " on for samples of ", x.sizes(), ": the model has ",
              length());
  TORCH_CHECK(x.device() == cosine_.device(), "angles on ", cosine_.device(), " for ",
              x.toString());
  const int64_t rows = x.size(0) * x.size(1);
  const kernels::RotaryShape shape{x.numel() / rows, heads, head_dim(), first + x.size(1)};
  TORCH_CHECK(heads * head_dim() <= shape.stride, heads, " heads of ", head_dim(), " in ",
              x.sizes());
  const float* cosine = Read<float>(cosine_);
  const float* sine = Read<float>(sine_);
  ForType(x, [&](auto zero) {
    using T = decltype(zero);
    T* data = Write<T>(x);
    Launch(
        x, rows,
        [&](int64_t row, int64_t n) {
          kernels::Rotate(data + row * shape.stride, shape, cosine, sine, sign, n, first + row);
        },
        [&](auto stream) {
          kernels::cuda::Rotate(data, shape, cosine, sine, sign, rows, first, stream);
        });
  });
}

at::Tensor SwiGlu(const at::Tensor& gate_up) {
  CheckRows(gate_up);
  const int64_t width = gate_up.size(-1) / 2;
  const int64_t rows = gate_up.numel() / (2 * width);
  at::Tensor product = at::empty({rows, width}, gate_up.options());
  ForType(gate_up, [&](auto zero) {
    using T = decltype(zero);
    const T* in = Read<T>(gate_up);
    T* out = Write<T>(product);
    Launch(
        gate_up, rows,
        [&](int64_t row, int64_t n) {
          kernels::SwiGlu(in + row * 2 * width, n, width, out + row * width);
        },
        [&](auto stream) { kernels::cuda::SwiGlu(in, rows, width, out, stream); });
  });
  return product;
}

at::Tensor SwiGluGradient(const at::Tensor& gate_up, at::Tensor& dproduct_to_product) {
  CheckRows(gate_up);
  CheckRowsLike(dproduct_to_product, gate_up);
  const int64_t width = gate_up.size(-1) / 2;
  const int64_t rows = gate_up.numel() / (2 * width);
  TORCH_CHECK(dproduct_to_product.numel() == rows * width,
              "gradient of SwiGLU: ", dproduct_to_product.sizes(), " for ", gate_up.sizes());
  at::Tensor dgate_up = at::empty_like(gate_up);
  ForType(gate_up, [&](auto zero) {
    using T = decltype(zero);
    const T* in = Read<T>(gate_up);
    T* product = Write<T>(dproduct_to_product);
    T* out = Write<T>(dgate_up);
    Launch(
        gate_up, rows,
        [&](int64_t row, int64_t n) {
          kernels::SwiGluGradient(in + row * 2 * width, n, width, product + row * width,
                                  out + row * 2 * width);
        },
        [&](auto stream) { kernels::cuda::SwiGluGradient(in, rows, width, product, out, stream); });
  });
  return dgate_up;
}

at::Tensor SoftmaxLoss(at::Tensor& logits, const at::Tensor& target) {
  CheckRows(logits);
  TORCH_CHECK(logits.scalar_type() == at::kFloat, "loss of ", logits.toString(), " logits");
  const int64_t rows = logits.size(0);
  const int64_t classes = logits.size(1);
  TORCH_CHECK(target.is_contiguous() && target.scalar_type() == at::kLong &&
                  target.numel() == rows && target.device() == logits.device(),
              "targets ", target.toString(), " ", target.sizes(), " for ", logits.toString(), " ",
              logits.sizes());
  const int64_t* targets = target.const_data_ptr<int64_t>();
  for (int64_t row = 0; target.is_cpu() && row < rows; ++row) {
    TORCH_CHECK_INDEX(targets[row] >= 0 && targets[row] < classes, "target ", targets[row],
                      " of a model with ", classes, " classes");
  }
  at::Tensor losses = at::empty({rows}, logits.options());
  float* data = Write<float>(logits);
  float* loss = Write<float>(losses);
  Launch(
      logits, rows,
      [&](int64_t row, int64_t n) {
        kernels::SoftmaxLoss(data + row * classes, targets + row, n, classes, loss + row);
      },
      [&](auto stream) { kernels::cuda::SoftmaxLoss(data, targets, rows, classes, loss, stream); });
  return losses;
}

double SumInOrder(const at::Tensor& values) {
  const at::Tensor host = values.to(at::kCPU);
  const float* value = host.const_data_ptr<float>();
  double sum = 0;
  for (int64_t i = 0; i < host.numel(); ++i) sum += value[i];
  return sum;
}

at::Tensor EmbeddingGradient(const at::Tensor& dy, const at::Tensor& tokens, int64_t vocab) {
  CheckRows(dy);
  const int64_t width = dy.size(-1);
  TORCH_CHECK(tokens.scalar_type() == at::kLong && tokens.numel() * width == dy.numel() &&
                  tokens.device() == dy.device(),
              "gradient of an embedding: ", dy.toString(), " ", dy.sizes(), " for tokens ",
              tokens.toString(), " ", tokens.sizes());
  // Rows by token, those of one token in order.
  const auto [sorted, order] =
      tokens.reshape({-1}).sort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  const at::Tensor begins = at::searchsorted(sorted, at::arange(vocab + 1, sorted.options()));
  at::Tensor dweight = at::empty({vocab, width}, dy.options());
  const int64_t* rows_of = order.const_data_ptr<int64_t>();
  const int64_t* begin = begins.const_data_ptr<int64_t>();
  ForType(dy, [&](auto zero) {
    using T = decltype(zero);
    const T* in = Read<T>(dy);
    T* out = Write<T>(dweight);
    Launch(
        dy, vocab,
        [&](int64_t row, int64_t n) {
          kernels::EmbeddingGradient(in, rows_of, begin + row, n, width, out + row * width);
        },
        [&](auto stream) {
          kernels::cuda::EmbeddingGradient(in, rows_of, begin, vocab, width, out, stream);
        });
  });
  return dweight;
}

}  // namespace sdp
