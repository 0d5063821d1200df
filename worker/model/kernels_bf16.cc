#include <algorithm>
#include <vector>

#include "common/base/dtype.h"
#include "worker/model/kernels.h"

// bf16 on a CPU: a few rows at a time are widened, given to the f32 kernel and rounded, while they
// are in the cache. So the arithmetic exists once, and f32 runs are what they were without bf16.
namespace sdp::kernels {
namespace {

constexpr int64_t kCachedElements = 8192;  // 32 KiB of f32 for each operand

// Rows of `width` that are computed at once: part of what RmsNormGradient sums apart.
int64_t RowsAtOnce(int64_t width) {
  return std::clamp<int64_t>(kCachedElements / std::max<int64_t>(width, 1), 1, kRowsPerPart);
}

absl::Span<const uint16_t> Bits(const Bf16* from, int64_t size) {
  return {reinterpret_cast<const uint16_t*>(from), static_cast<size_t>(size)};
}

// f32 scratch of up to `size` elements.
class Wide {
 public:
  explicit Wide(int64_t size) : values_(static_cast<size_t>(size)) {}
  float* Load(const Bf16* from, int64_t size) {
    FromBf16(Bits(from, size), Head(size));
    return values_.data();
  }
  void Store(Bf16* to, int64_t size) {
    ToBf16(Head(size), {reinterpret_cast<uint16_t*>(to), static_cast<size_t>(size)});
  }
  float* data() { return values_.data(); }

 private:
  absl::Span<float> Head(int64_t size) { return {values_.data(), static_cast<size_t>(size)}; }
  std::vector<float> values_;
};

}  // namespace

void RmsNorm(const Bf16* x, const Bf16* weight, float eps, int64_t rows, int64_t width, Bf16* y,
             float* rstd) {
  const int64_t step = RowsAtOnce(width);
  Wide wide_x(step * width), wide_y(step * width), wide_weight(width);
  wide_weight.Load(weight, width);
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t n = std::min(step, rows - row);
    RmsNorm(wide_x.Load(x + row * width, n * width), wide_weight.data(), eps, n, width,
            wide_y.data(), rstd + row);
    wide_y.Store(y + row * width, n * width);
  }
}

void RmsNormGradient(const Bf16* dy, const Bf16* x, const Bf16* weight, const float* rstd,
                     const Bf16* residual, int64_t rows, int64_t width, Bf16* dx, float* dweight) {
  const int64_t step = RowsAtOnce(width);
  Wide wide_dy(step * width), wide_x(step * width), wide_residual(step * width),
      wide_dx(step * width), wide_weight(width);
  std::vector<float> part(static_cast<size_t>(width));
  wide_weight.Load(weight, width);
  for (int64_t row = 0; row < rows;) {
    // Never across the border of two parts.
    const int64_t n = std::min({step, rows - row, kRowsPerPart - row % kRowsPerPart});
    const float* around =
        residual == nullptr ? nullptr : wide_residual.Load(residual + row * width, n * width);
    RmsNormGradient(wide_dy.Load(dy + row * width, n * width),
                    wide_x.Load(x + row * width, n * width), wide_weight.data(), rstd + row, around,
                    n, width, wide_dx.data(), part.data());
    wide_dx.Store(dx + row * width, n * width);
    float* sum = dweight + row / kRowsPerPart * width;
    const bool first = row % kRowsPerPart == 0;
    for (int64_t i = 0; i < width; ++i) {
      const float value = part[static_cast<size_t>(i)];
      sum[i] = first ? value : sum[i] + value;
    }
    row += n;
  }
}

void Rotate(Bf16* x, const RotaryShape& shape, const float* cosine, const float* sine, float sign,
            int64_t rows, int64_t position) {
  const int64_t turned = shape.heads * shape.head_dim;
  RotaryShape one = shape;
  one.stride = turned;
  Wide wide(turned);
  for (int64_t row = 0; row < rows; ++row, x += shape.stride) {
    Rotate(wide.Load(x, turned), one, cosine, sine, sign, 1, position + row);
    wide.Store(x, turned);
  }
}

void SwiGlu(const Bf16* gate_up, int64_t rows, int64_t width, Bf16* product) {
  const int64_t step = RowsAtOnce(2 * width);
  Wide wide_gate_up(step * 2 * width), wide_product(step * width);
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t n = std::min(step, rows - row);
    SwiGlu(wide_gate_up.Load(gate_up + row * 2 * width, n * 2 * width), n, width,
           wide_product.data());
    wide_product.Store(product + row * width, n * width);
  }
}

void SwiGluGradient(const Bf16* gate_up, int64_t rows, int64_t width, Bf16* dproduct_to_product,
                    Bf16* dgate_up) {
  const int64_t step = RowsAtOnce(2 * width);
  Wide wide_gate_up(step * 2 * width), wide_dgate_up(step * 2 * width), wide_product(step * width);
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t n = std::min(step, rows - row);
    Bf16* product = dproduct_to_product + row * width;
    SwiGluGradient(wide_gate_up.Load(gate_up + row * 2 * width, n * 2 * width), n, width,
                   wide_product.Load(product, n * width), wide_dgate_up.data());
    wide_product.Store(product, n * width);
    wide_dgate_up.Store(dgate_up + row * 2 * width, n * 2 * width);
  }
}

void EmbeddingGradient(const Bf16* dy, const int64_t* order, const int64_t* begins, int64_t rows,
                       int64_t width, Bf16* dweight) {
  Wide row(width);
  std::vector<float> sum(static_cast<size_t>(width));
  for (int64_t token = 0; token < rows; ++token, dweight += width) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (int64_t at = begins[token]; at < begins[token + 1]; ++at) {
      const float* from = row.Load(dy + order[at] * width, width);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += from[i];
    }
    ToBf16(sum, {reinterpret_cast<uint16_t*>(dweight), sum.size()});
  }
}

}  // namespace sdp::kernels
