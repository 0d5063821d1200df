#include "c10/cuda/CUDAStream.h"
#include "worker/model/kernels_cuda.h"

// Apart from kernels_cuda.cu, which sees no torch header.
namespace sdp::kernels::cuda {

Stream CurrentStream(int device) {
  return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)).stream();
}

}  // namespace sdp::kernels::cuda
