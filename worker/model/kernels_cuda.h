#pragma once

#include <cstdint>

#include "worker/model/copy_runs.h"
#include "worker/model/kernels.h"

struct CUstream_st;  // CUDA's, so that no header of it is needed here.

// The kernels on a GPU: twins of those in kernels.h and copy_runs.h, which are their reference,
// with the same arguments and a stream. Pointers are the device's; a call takes all rows at once
// and returns when the work is queued. Sums are made in a fixed order, so the same input gives the
// same bits on one GPU model; they differ from the CPU's in the last bits. Only in builds with CUDA
// (preset cuda). Errors: std::runtime_error naming the kernel - it could not be launched. What goes
// wrong while it runs shows up at the next synchronization, as CUDA's errors do.
namespace sdp::kernels {

#ifdef SDP_CUDA
inline constexpr bool kCudaBuilt = true;
#else
inline constexpr bool kCudaBuilt = false;
#endif

}  // namespace sdp::kernels

namespace sdp::kernels::cuda {

using Stream = CUstream_st*;

// T: float or Bf16.
template <typename T>
void RmsNorm(const T* x, const T* weight, float eps, int64_t rows, int64_t width, T* y, float* rstd,
             Stream stream);
template <typename T>
void RmsNormGradient(const T* dy, const T* x, const T* weight, const float* rstd, const T* residual,
                     int64_t rows, int64_t width, T* dx, float* dweight, Stream stream);
template <typename T>
void Rotate(T* x, const RotaryShape& shape, const float* cosine, const float* sine, float sign,
            int64_t rows, int64_t position, Stream stream);
template <typename T>
void SwiGlu(const T* gate_up, int64_t rows, int64_t width, T* product, Stream stream);
template <typename T>
void SwiGluGradient(const T* gate_up, int64_t rows, int64_t width, T* dproduct_to_product,
                    T* dgate_up, Stream stream);
// A target outside of [0, classes) makes its row's loss NaN: it cannot be refused from here.
void SoftmaxLoss(float* logits, const int64_t* target, int64_t rows, int64_t classes, float* loss,
                 Stream stream);
template <typename T>
void EmbeddingGradient(const T* dy, const int64_t* order, const int64_t* begins, int64_t rows,
                       int64_t width, T* dweight, Stream stream);

template <typename From, typename To>
void CopyRuns(const From* from, const RunsShape& runs, float factor, To* to, Stream stream);

// The stream on which torch works on this device, and the device's compute capability (8.0: 80).
Stream CurrentStream(int device);
int ComputeCapability(int device);
int64_t FreeBytes(int device);  // of its memory

}  // namespace sdp::kernels::cuda
