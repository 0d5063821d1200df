#pragma once

#include <cmath>
#include <cstdint>

#include "worker/model/copy_runs.h"
#include "worker/model/kernel_parts.h"

// As kernel_parts.h, for kernels in which a thread has one element of a matrix, by its index in it,
// and needs no other thread.
namespace sdp::kernels::parts {

// ---- RmsNormGradient: one element of the weight's ----

// index: in dweight [ceil(rows / kRowsPerPart), width].
template <typename T>
SDP_DEVICE void NormDweight(const T* dy, const T* x, const float* rstd, int64_t rows, int64_t width,
                            float* dweight, int64_t index) {
  const int64_t first = index / width * kRowsPerPart;
  const int64_t end = first + kRowsPerPart < rows ? first + kRowsPerPart : rows;
  const int64_t column = index % width;
  float sum = 0;
  for (int64_t row = first; row < end; ++row) {
    sum += Load(dy + row * width + column) * Load(x + row * width + column) * rstd[row];
  }
  dweight[index] = sum;
}

// ---- Rotate: one pair of elements; index in [rows, heads, head_dim / 2] ----

template <typename T>
SDP_DEVICE void RotatePair(T* x, const RotaryShape& shape, const float* cosine, const float* sine,
                           float sign, int64_t position, int64_t index) {
  const int64_t half = shape.head_dim / 2;
  const int64_t i = index % half;
  const int64_t head = index / half % shape.heads;
  const int64_t row = index / half / shape.heads;
  const int64_t angle = (position + row) % shape.length * half + i;
  T* first = x + row * shape.stride + head * shape.head_dim + i;
  T* second = first + half;
  const float a = Load(first);
  const float b = Load(second);
  const float c = cosine[angle];
  const float s = sine[angle] * sign;
  Store(a * c - b * s, first);
  Store(b * c + a * s, second);
}

// ---- SwiGlu and its gradient: one element; index in [rows, width] ----

SDP_DEVICE float SigmoidOf(float x) { return 1.0f / (1.0f + expf(-x)); }

template <typename T>
SDP_DEVICE void SwiGluElement(const T* gate_up, int64_t width, T* product, int64_t index) {
  const T* at = gate_up + index / width * 2 * width + index % width;
  const float gate = Load(at);
  Store(gate * SigmoidOf(gate) * Load(at + width), product + index);
}
template <typename T>
SDP_DEVICE void SwiGluGradientElement(const T* gate_up, int64_t width, T* dproduct_to_product,
                                      T* dgate_up, int64_t index) {
  const int64_t at = index / width * 2 * width + index % width;
  const float gate = Load(gate_up + at);
  const float up = Load(gate_up + at + width);
  const float d = Load(dproduct_to_product + index);
  const float sigmoid = SigmoidOf(gate);
  const float silu = gate * sigmoid;
  Store(d * up * (sigmoid + silu * (1.0f - sigmoid)), dgate_up + at);
  Store(d * silu, dgate_up + at + width);
  Store(silu * up, dproduct_to_product + index);
}

// ---- EmbeddingGradient: one element; index in [rows, width] ----

template <typename T>
SDP_DEVICE void EmbeddingElement(const T* dy, const int64_t* order, const int64_t* begins,
                                 int64_t width, T* dweight, int64_t index) {
  const int64_t row = index / width;
  const int64_t column = index % width;
  float sum = 0;
  for (int64_t at = begins[row]; at < begins[row + 1]; ++at) {
    sum += Load(dy + order[at] * width + column);
  }
  Store(sum, dweight + index);
}

// ---- CopyRuns: one element; index in [count, size] ----

template <typename From, typename To>
SDP_DEVICE void CopyElement(const From* from, const RunsShape& runs, float factor, To* to,
                            int64_t index) {
  const int64_t run = index / runs.size;
  const int64_t i = index % runs.size;
  Store(Load(from + run * runs.from_stride + i) * factor, to + run * runs.to_stride + i);
}

}  // namespace sdp::kernels::parts
