#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "worker/model/kernels.h"

#ifdef __CUDACC__
#define SDP_DEVICE __host__ __device__ inline
#else
#define SDP_DEVICE inline
#endif

// What one thread of a GPU's kernel does between two synchronizations, as plain functions: a kernel
// is these, joined by sums over the threads of a block (kernels_cuda.cu). They run on a CPU too, so
// their indices and arithmetic are tested where there is no GPU. T: float or Bf16.
// A block of threads shares a row of `width`; thread t has elements t, t + count, ... What a thread
// does with a single element is in kernel_element_parts.h.
namespace sdp::kernels::parts {

SDP_DEVICE float Load(const float* from) { return *from; }
SDP_DEVICE float Load(const Bf16* from) {
  const uint32_t bits = static_cast<uint32_t>(from->bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}
SDP_DEVICE void Store(float value, float* to) { *to = value; }
// Rounded to nearest, ties to even; as ToBf16 (common/base/dtype.h).
SDP_DEVICE void Store(float value, Bf16* to) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40;
  to->bits = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

struct Thread {
  int64_t index;
  int64_t count;  // of the block
};

// ---- RmsNorm, one row ----

template <typename T>
SDP_DEVICE float SquaresOf(const T* x, int64_t width, Thread thread) {
  float sum = 0;
  for (int64_t i = thread.index; i < width; i += thread.count) sum += Load(x + i) * Load(x + i);
  return sum;
}
SDP_DEVICE float Rstd(float squares, int64_t width, float eps) {
  return 1.0f / sqrtf(squares / static_cast<float>(width) + eps);
}
template <typename T>
SDP_DEVICE void Normalize(const T* x, const T* weight, float rstd, int64_t width, T* y,
                          Thread thread) {
  for (int64_t i = thread.index; i < width; i += thread.count) {
    Store(Load(x + i) * rstd * Load(weight + i), y + i);
  }
}

// ---- RmsNormGradient: dx of one row ----

template <typename T>
SDP_DEVICE float DotOf(const T* dy, const T* x, const T* weight, float rstd, int64_t width,
                       Thread thread) {
  float dot = 0;
  for (int64_t i = thread.index; i < width; i += thread.count) {
    dot += Load(dy + i) * Load(x + i) * rstd * Load(weight + i);
  }
  return dot;
}
// `residual` may be null.
template <typename T>
SDP_DEVICE void NormDx(const T* dy, const T* x, const T* weight, float rstd, float dot,
                       const T* residual, int64_t width, T* dx, Thread thread) {
  const float mean = dot / static_cast<float>(width) * rstd;
  for (int64_t i = thread.index; i < width; i += thread.count) {
    const float around = residual == nullptr ? 0.0f : Load(residual + i);
    Store(around + rstd * (Load(dy + i) * Load(weight + i) - Load(x + i) * mean), dx + i);
  }
}

// ---- SoftmaxLoss, one row: largest, exponentials and sum, division; then one thread's EndRow ----

SDP_DEVICE float LargestOf(const float* logits, int64_t classes, Thread thread) {
  float largest = -INFINITY;
  for (int64_t i = thread.index; i < classes; i += thread.count) {
    // A NaN stays: it must reach the loss.
    largest = logits[i] > largest || logits[i] != logits[i] ? logits[i] : largest;
  }
  return largest;
}
SDP_DEVICE float Exponentiate(float* logits, float largest, int64_t classes, Thread thread) {
  float sum = 0;
  for (int64_t i = thread.index; i < classes; i += thread.count) {
    logits[i] = expf(logits[i] - largest);
    sum += logits[i];
  }
  return sum;
}
SDP_DEVICE void Divide(float* logits, float sum, int64_t classes, Thread thread) {
  const float scale = 1.0f / sum;
  for (int64_t i = thread.index; i < classes; i += thread.count) logits[i] *= scale;
}
// Of the target, before it is exponentiated: by how much the largest exceeds it.
SDP_DEVICE float Below(const float* logits, float largest, int64_t target, int64_t classes) {
  if (target < 0 || target >= classes) return NAN;
  return largest - logits[target];
}
SDP_DEVICE void EndRow(float* logits, float below, float sum, int64_t target, int64_t classes,
                       float* loss) {
  *loss = below + logf(sum);
  if (target >= 0 && target < classes) logits[target] -= 1.0f;
}

}  // namespace sdp::kernels::parts
