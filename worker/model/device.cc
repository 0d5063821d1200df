#include "worker/model/device.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>
#include <utility>

#include "ATen/Context.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "c10/core/StreamGuard.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "common/base/status.h"
#include "common/model/stage_memory.h"
#include "worker/model/counting_allocator.h"
#include "worker/model/kernels_cuda.h"
#include "worker/model/torch_errors.h"

namespace sdp {

namespace {

// Torch's part for GPUs registers itself when it is loaded; nothing refers to it by name. Not
// linked, so that a worker on CPUs starts without the libraries that it needs, and what is missing
// has a name. Before any question about GPUs: torch remembers the answer.
absl::Status LoadTorchForGpus() {
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("worker.device = \"cuda\": cannot load LibTorch's part for GPUs (", dlerror(),
                   "); get its libraries with deploy/dependencies/install --cuda, or set "
                   "worker.device = \"cpu\""));
}

c10::Stream ComputeStream(const at::Device& device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

// Of the process, since it uses one GPU.
c10::Stream CopyStream(const at::Device& device) {
  static const c10::Stream stream =
      c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
  return stream;
}

// What `waits` is given from now on begins when all that `goes` has been given is done.
void WaitFor(const c10::Stream& goes, const c10::Stream& waits) {
  c10::Event reached(goes.device_type());
  reached.record(goes);
  reached.block(waits);
}

}  // namespace

absl::StatusOr<at::Device> OpenDevice(Device device) {
  at::Context& context = at::globalContext();
  context.setDeterministicAlgorithms(true, /*warn_only=*/false);
  // On by default in that mode, to show up reads of uninitialised memory; it costs a pass over
  // every new tensor.
  context.setDeterministicFillUninitializedMemory(false);
  if (device == Device::kCpu) return at::Device(at::kCPU);
  if (!kernels::kCudaBuilt) {
    return absl::FailedPreconditionError(
        "worker.device = \"cuda\": this sdp-worker was built for CPUs only; build it with `cmake "
        "--preset cuda && cmake --build --preset cuda`, or set worker.device = \"cpu\"");
  }
  SDP_RETURN_IF_ERROR(LoadTorchForGpus());
  if (!at::hasCUDA()) {
    return absl::FailedPreconditionError(
        "worker.device = \"cuda\": no GPU is found; check with nvidia-smi that its driver (for "
        "CUDA 13) is installed and that CUDA_VISIBLE_DEVICES does not hide it, or set "
        "worker.device = \"cpu\"");
  }
  // cuBLAS reads it when it starts: one workspace per stream, in pieces of 4 MiB, without which its
  // results may differ from run to run and torch refuses products in deterministic mode.
  const std::string workspace = absl::StrCat(":4096:", kCublasWorkspaceBytes / (4096 << 10));
  setenv("CUBLAS_WORKSPACE_CONFIG", workspace.c_str(), /*overwrite=*/0);
  context.setAllowTF32CuBLAS(false);
  context.setAllowTF32CuDNN(false);
  context.setAllowBF16ReductionCuBLAS(/*allow_reduced_precision=*/false);
  const at::Device gpu(at::kCUDA, 0);
  try {
    context.lazyInitDevice(gpu.type());
  } catch (...) {
    return CurrentException("worker.device = \"cuda\"");
  }
  if constexpr (kernels::kCudaBuilt) SDP_RETURN_IF_ERROR(CountTensorsOnGpu());
  return gpu;
}

absl::StatusOr<int64_t> FreeGpuMemory() {
  try {
    if constexpr (kernels::kCudaBuilt) return kernels::cuda::FreeBytes(0);
  } catch (...) {
    return CurrentException("worker.device = \"cuda\"");
  }
  return absl::FailedPreconditionError("this sdp-worker was built for CPUs only");
}

void ComputeOnThisThread(const at::Device& device) {
  static thread_local bool ready = false;
  if (device.is_cpu() || std::exchange(ready, true)) return;
  at::mm(at::ones({1, 1}, device), at::ones({1, 1}, device));
}

void AwaitComputed(const at::Device& device) {
  if (!device.is_cpu()) ComputeStream(device).synchronize();
}

at::Tensor StagingTensor(at::IntArrayRef shape, at::ScalarType type, const at::Device& device) {
  return at::empty(shape, at::TensorOptions().dtype(type).pinned_memory(!device.is_cpu()));
}

at::Tensor ToDevice(const at::Tensor& host, const at::Device& device) {
  if (device.is_cpu()) return host;
  const c10::Stream computes = ComputeStream(device), copies = CopyStream(device);
  at::Tensor tensor;
  {
    // The memory, too, is the copying stream's: that of the other one may still be in use there.
    const c10::StreamGuard guard(copies);
    // Torch reuses pinned memory only when the copies from it are done.
    tensor = host.to(device, /*non_blocking=*/true);
  }
  WaitFor(copies, computes);
  tensor.record_stream(computes);  // So the memory is not reused before that is done with it.
  return tensor;
}

HostCopy::HostCopy(const at::Tensor& tensor) {
  if (tensor.is_cpu()) {
    host_ = tensor;
    return;
  }
  const c10::Stream copies = CopyStream(tensor.device());
  host_ = StagingTensor(tensor.sizes(), tensor.scalar_type(), tensor.device());
  WaitFor(ComputeStream(tensor.device()), copies);
  {
    const c10::StreamGuard guard(copies);
    host_.copy_(tensor, /*non_blocking=*/true);
  }
  tensor.record_stream(copies);
  copied_.emplace(copies.device_type());
  copied_->record(copies);
}

const at::Tensor& HostCopy::Await() const {
  if (copied_.has_value()) copied_->synchronize();
  return host_;
}

}  // namespace sdp
