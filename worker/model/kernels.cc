#include "worker/model/kernels.h"

#include <bit>
#include <cmath>

// Compiled with optimization in every preset (CMakeLists.txt). The loops are plain C++ that the
// compiler vectorises; on x86-64 each kernel also exists for AVX2, chosen when the program is
// loaded. Sanitizers run before such choices can.
// A function that a loop calls must be inlined, or no version of the loop is vectorised.
#define SDP_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SDP_KERNEL __attribute__((target_clones("avx2", "default")))
#else
#define SDP_KERNEL
#endif

namespace sdp::kernels {
namespace {

// e^x as 2^n e^r with |r| <= log(2) / 2 and Cephes' polynomial for e^r: within 2 ulp on [-70, 70],
// clamped outside; NaN stays. The range is this small so that what is made of results (a
// probability, gate times sigmoid) is no denormal number: those take a hundred times longer. libm's
// exp is not vectorised and differs by version.
SDP_INLINE float Exp(float x) {
  x = x < -70.0f ? -70.0f : x;
  x = x > 70.0f ? 70.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer.
  const float n = (x * 1.44269504f + kRound) - kRound;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float e = p * (r * r) + r + 1.0f;
  const int32_t exponent = (static_cast<int32_t>(n) + 127) << 23;
  return e * std::bit_cast<float>(exponent);
}

SDP_INLINE float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

}  // namespace

SDP_KERNEL
void RmsNorm(const float* x, const float* weight, float eps, int64_t rows, int64_t width, float* y,
             float* rstd) {
  for (int64_t row = 0; row < rows; ++row, x += width, y += width) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < width; ++i) squares += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(width) + eps);
    rstd[row] = scale;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) y[i] = x[i] * scale * weight[i];
  }
}

SDP_KERNEL
void RmsNormGradient(const float* dy, const float* x, const float* weight, const float* rstd,
                     const float* residual, int64_t rows, int64_t width, float* dx,
                     float* dweight) {
  for (int64_t row = 0; row < rows; ++row, dy += width, x += width, dx += width) {
    if (row % kRowsPerPart == 0) {
      if (row > 0) dweight += width;
      for (int64_t i = 0; i < width; ++i) dweight[i] = 0;
    }
    const float scale = rstd[row];
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < width; ++i) {
      const float unscaled = dy[i] * x[i] * scale;
      dweight[i] += unscaled;
      dot += unscaled * weight[i];
    }
    const float mean = dot / static_cast<float>(width) * scale;
    if (residual == nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) dx[i] = scale * (dy[i] * weight[i] - x[i] * mean);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        dx[i] = residual[i] + scale * (dy[i] * weight[i] - x[i] * mean);
      }
      residual += width;
    }
  }
}

SDP_KERNEL
void Rotate(float* x, const RotaryShape& shape, const float* cosine, const float* sine, float sign,
            int64_t rows, int64_t position) {
  const int64_t half = shape.head_dim / 2;
  for (int64_t row = 0; row < rows; ++row, x += shape.stride) {
    const float* c = cosine + (position + row) % shape.length * half;
    const float* s = sine + (position + row) % shape.length * half;
    for (int64_t head = 0; head < shape.heads; ++head) {
      float* first = x + head * shape.head_dim;
      float* second = first + half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float a = first[i];
        const float b = second[i];
        first[i] = a * c[i] - b * (s[i] * sign);
        second[i] = b * c[i] + a * (s[i] * sign);
      }
    }
  }
}

SDP_KERNEL
void SwiGlu(const float* gate_up, int64_t rows, int64_t width, float* product) {
  for (int64_t row = 0; row < rows; ++row, gate_up += 2 * width, product += width) {
    const float* up = gate_up + width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) product[i] = gate_up[i] * Sigmoid(gate_up[i]) * up[i];
  }
}

SDP_KERNEL
void SwiGluGradient(const float* gate_up, int64_t rows, int64_t width, float* dproduct_to_product,
                    float* dgate_up) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* up = gate_up + width;
    float* dup = dgate_up + width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const float g = gate_up[i];
      const float d = dproduct_to_product[i];
      const float sigmoid = Sigmoid(g);
      const float silu = g * sigmoid;
      dgate_up[i] = d * up[i] * (sigmoid + silu * (1.0f - sigmoid));
      dup[i] = d * silu;
      dproduct_to_product[i] = silu * up[i];
    }
    gate_up += 2 * width;
    dgate_up += 2 * width;
    dproduct_to_product += width;
  }
}

SDP_KERNEL
void SoftmaxLoss(float* logits, const int64_t* target, int64_t rows, int64_t classes, float* loss) {
  for (int64_t row = 0; row < rows; ++row, logits += classes) {
    float largest = logits[0];
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < classes; ++i) largest = logits[i] > largest ? logits[i] : largest;
    const float below = largest - logits[target[row]];
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < classes; ++i) {
      const float e = Exp(logits[i] - largest);
      logits[i] = e;
      sum += e;
    }
    loss[row] = below + std::log(sum);
    const float scale = 1.0f / sum;
#pragma omp simd
    for (int64_t i = 0; i < classes; ++i) logits[i] *= scale;
    logits[target[row]] -= 1.0f;
  }
}

SDP_KERNEL
void EmbeddingGradient(const float* dy, const int64_t* order, const int64_t* begins, int64_t rows,
                       int64_t width, float* dweight) {
  for (int64_t row = 0; row < rows; ++row, dweight += width) {
    for (int64_t i = 0; i < width; ++i) dweight[i] = 0;
    for (int64_t at = begins[row]; at < begins[row + 1]; ++at) {
      const float* from = dy + order[at] * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) dweight[i] += from[i];
    }
  }
}

}  // namespace sdp::kernels
