#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "worker/model/kernel_element_parts.h"
#include "worker/model/kernel_parts.h"
#include "worker/model/kernels_cuda.h"

// No torch header here: a file with one takes two minutes to compile for a GPU.
namespace sdp::kernels::cuda {
namespace {

constexpr int kThreads = 256;  // of a block; a multiple of the 32 of a warp
constexpr int kWarps = kThreads / 32;
// Blocks of a kernel over elements: enough for any GPU, which then takes the elements in strides.
constexpr int64_t kMostBlocks = int64_t{1} << 16;
// Blocks of a kernel over rows: what a grid's first dimension may have.
constexpr int64_t kMostRows = (int64_t{1} << 31) - 1;

void Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
  }
}

struct Add {
  __device__ static float Of(float a, float b) { return a + b; }
};
struct Largest {  // A NaN on either side stays.
  __device__ static float Of(float a, float b) { return a > b || a != a ? a : b; }
};

// The block's threads joined by Op, the same value in all of them. Always in the same order. All
// threads of the block must call it.
template <typename Op>
__device__ float OverBlock(float value) {
  __shared__ float of_warps[kWarps];
  for (int distance = 16; distance > 0; distance /= 2) {
    value = Op::Of(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  __syncthreads();  // Whoever read of_warps in an earlier call is done.
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  float joined = of_warps[0];
  for (int warp = 1; warp < kWarps; ++warp) joined = Op::Of(joined, of_warps[warp]);
  return joined;
}

__device__ parts::Thread Here() { return {threadIdx.x, kThreads}; }

template <typename T>
__global__ void __launch_bounds__(kThreads)
    RmsNormRows(const T* x, const T* weight, float eps, int64_t width, T* y, float* rstd) {
  const int64_t row = blockIdx.x;
  x += row * width;
  const float squares = OverBlock<Add>(parts::SquaresOf(x, width, Here()));
  const float scale = parts::Rstd(squares, width, eps);
  if (threadIdx.x == 0) rstd[row] = scale;
  parts::Normalize(x, weight, scale, width, y + row * width, Here());
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    NormDxRows(const T* dy, const T* x, const T* weight, const float* rstd, const T* residual,
               int64_t width, T* dx) {
  const int64_t row = blockIdx.x;
  const int64_t begin = row * width;
  const float dot =
      OverBlock<Add>(parts::DotOf(dy + begin, x + begin, weight, rstd[row], width, Here()));
  parts::NormDx(dy + begin, x + begin, weight, rstd[row], dot,
                residual == nullptr ? nullptr : residual + begin, width, dx + begin, Here());
}

__global__ void __launch_bounds__(kThreads)
    SoftmaxLossRows(float* logits, const int64_t* target, int64_t classes, float* loss) {
  const int64_t row = blockIdx.x;
  logits += row * classes;
  const float largest = OverBlock<Largest>(parts::LargestOf(logits, classes, Here()));
  const float below = parts::Below(logits, largest, target[row], classes);
  __syncthreads();  // Every thread has read the target's logit before one replaces it.
  const float sum = OverBlock<Add>(parts::Exponentiate(logits, largest, classes, Here()));
  parts::Divide(logits, sum, classes, Here());
  __syncthreads();
  if (threadIdx.x == 0) {
    parts::EndRow(logits, below, sum, target[row], classes, loss + row);
  }
}

// Calls f(index) for every index below `count`.
template <typename F>
__global__ void __launch_bounds__(kThreads) Elements(int64_t count, F f) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride) f(i);
}

// What Elements calls: the arguments of one kernel. The matrices' pointers outlive it.
template <typename T>
struct NormDweightOf {
  const T* dy;
  const T* x;
  const float* rstd;
  int64_t rows, width;
  float* dweight;
  __device__ void operator()(int64_t i) const {
    parts::NormDweight(dy, x, rstd, rows, width, dweight, i);
  }
};
template <typename T>
struct RotateOf {
  T* x;
  RotaryShape shape;
  const float* cosine;
  const float* sine;
  float sign;
  int64_t position;
  __device__ void operator()(int64_t i) const {
    parts::RotatePair(x, shape, cosine, sine, sign, position, i);
  }
};
template <typename T>
struct SwiGluOf {
  const T* gate_up;
  int64_t width;
  T* product;
  __device__ void operator()(int64_t i) const { parts::SwiGluElement(gate_up, width, product, i); }
};
template <typename T>
struct SwiGluGradientOf {
  const T* gate_up;
  int64_t width;
  T* product;
  T* dgate_up;
  __device__ void operator()(int64_t i) const {
    parts::SwiGluGradientElement(gate_up, width, product, dgate_up, i);
  }
};
template <typename T>
struct EmbeddingOf {
  const T* dy;
  const int64_t* order;
  const int64_t* begins;
  int64_t width;
  T* dweight;
  __device__ void operator()(int64_t i) const {
    parts::EmbeddingElement(dy, order, begins, width, dweight, i);
  }
};
template <typename From, typename To>
struct CopyRunsOf {
  const From* from;
  RunsShape runs;
  float factor;
  To* to;
  __device__ void operator()(int64_t i) const { parts::CopyElement(from, runs, factor, to, i); }
};

template <typename F>
void ForElements(const char* what, int64_t count, const F& f, Stream stream) {
  if (count == 0) return;  // A grid without blocks is an error.
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  Elements<<<static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks), kThreads, 0,
             stream>>>(count, f);
  Check(cudaGetLastError(), what);
}

// One block per row.
unsigned RowGrid(const char* what, int64_t rows) {
  if (rows > kMostRows) throw std::runtime_error(std::string(what) + ": more than 2^31 - 1 rows");
  return static_cast<unsigned>(rows);
}

}  // namespace

template <typename T>
void RmsNorm(const T* x, const T* weight, float eps, int64_t rows, int64_t width, T* y, float* rstd,
             Stream stream) {
  if (rows == 0) return;
  RmsNormRows<<<RowGrid("RmsNorm", rows), kThreads, 0, stream>>>(x, weight, eps, width, y, rstd);
  Check(cudaGetLastError(), "RmsNorm");
}

template <typename T>
void RmsNormGradient(const T* dy, const T* x, const T* weight, const float* rstd, const T* residual,
                     int64_t rows, int64_t width, T* dx, float* dweight, Stream stream) {
  if (rows == 0) return;
  const int64_t count = (rows + kRowsPerPart - 1) / kRowsPerPart;
  ForElements("RmsNormGradient", count * width, NormDweightOf<T>{dy, x, rstd, rows, width, dweight},
              stream);
  NormDxRows<<<RowGrid("RmsNormGradient", rows), kThreads, 0, stream>>>(dy, x, weight, rstd,
                                                                        residual, width, dx);
  Check(cudaGetLastError(), "RmsNormGradient");
}

template <typename T>
void Rotate(T* x, const RotaryShape& shape, const float* cosine, const float* sine, float sign,
            int64_t rows, int64_t position, Stream stream) {
  ForElements("Rotate", rows * shape.heads * (shape.head_dim / 2),
              RotateOf<T>{x, shape, cosine, sine, sign, position}, stream);
}

template <typename T>
void SwiGlu(const T* gate_up, int64_t rows, int64_t width, T* product, Stream stream) {
  ForElements("SwiGlu", rows * width, SwiGluOf<T>{gate_up, width, product}, stream);
}

template <typename T>
void SwiGluGradient(const T* gate_up, int64_t rows, int64_t width, T* dproduct_to_product,
                    T* dgate_up, Stream stream) {
  ForElements("SwiGluGradient", rows * width,
              SwiGluGradientOf<T>{gate_up, width, dproduct_to_product, dgate_up}, stream);
}

void SoftmaxLoss(float* logits, const int64_t* target, int64_t rows, int64_t classes, float* loss,
                 Stream stream) {
  if (rows == 0) return;
  SoftmaxLossRows<<<RowGrid("SoftmaxLoss", rows), kThreads, 0, stream>>>(logits, target, classes,
                                                                         loss);
  Check(cudaGetLastError(), "SoftmaxLoss");
}

template <typename T>
void EmbeddingGradient(const T* dy, const int64_t* order, const int64_t* begins, int64_t rows,
                       int64_t width, T* dweight, Stream stream) {
  ForElements("EmbeddingGradient", rows * width, EmbeddingOf<T>{dy, order, begins, width, dweight},
              stream);
}

template <typename From, typename To>
void CopyRuns(const From* from, const RunsShape& runs, float factor, To* to, Stream stream) {
  ForElements("CopyRuns", runs.count * runs.size, CopyRunsOf<From, To>{from, runs, factor, to},
              stream);
}

int64_t FreeBytes(int device) {
  size_t free = 0;
  size_t total = 0;
  Check(cudaSetDevice(device), "choose the device");
  Check(cudaMemGetInfo(&free, &total), "free memory");
  return static_cast<int64_t>(free);
}

int ComputeCapability(int device) {
  int major = 0;
  int minor = 0;
  Check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
        "compute capability");
  Check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
        "compute capability");
  return 10 * major + minor;
}

#define SDP_FOR_TYPE(T)                                                                           \
  template void RmsNorm<T>(const T*, const T*, float, int64_t, int64_t, T*, float*, Stream);      \
  template void RmsNormGradient<T>(const T*, const T*, const T*, const float*, const T*, int64_t, \
                                   int64_t, T*, float*, Stream);                                  \
  template void Rotate<T>(T*, const RotaryShape&, const float*, const float*, float, int64_t,     \
                          int64_t, Stream);                                                       \
  template void SwiGlu<T>(const T*, int64_t, int64_t, T*, Stream);                                \
  template void SwiGluGradient<T>(const T*, int64_t, int64_t, T*, T*, Stream);                    \
  template void EmbeddingGradient<T>(const T*, const int64_t*, const int64_t*, int64_t, int64_t,  \
                                     T*, Stream);
SDP_FOR_TYPE(float)
SDP_FOR_TYPE(Bf16)
#undef SDP_FOR_TYPE
template void CopyRuns(const float*, const RunsShape&, float, float*, Stream);
template void CopyRuns(const Bf16*, const RunsShape&, float, Bf16*, Stream);
template void CopyRuns(const float*, const RunsShape&, float, Bf16*, Stream);

}  // namespace sdp::kernels::cuda
