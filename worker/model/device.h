#pragma once

#include <optional>

#include "ATen/ATen.h"
#include "absl/status/statusor.h"
#include "c10/core/Event.h"
#include "common/base/dtype.h"
#include "worker/model/make_model.h"

namespace sdp {

// Where a worker computes, and the type of its weights, their gradients and the boundary
// activations.
struct Placement {
  at::Device device = at::kCPU;
  WireType type = WireType::kF32;

  at::ScalarType scalar_type() const { return type == WireType::kF32 ? at::kFloat : at::kBFloat16; }
};

// The device, ready for use: deterministic algorithms, products summed in f32. A GPU is the first
// one that the process sees (CUDA_VISIBLE_DEVICES). Settings of the process: call it before any
// tensor is on a GPU. FailedPrecondition - no such device, or sdp was built without it; says what
// to do.
absl::StatusOr<at::Device> OpenDevice(Device device);

// Once on each thread that computes, before anything else: cuBLAS has a handle and a workspace for
// each, which are taken here, for no stage (MemoryScope). Again, and on a CPU: nothing happens.
void ComputeOnThisThread(const at::Device& device);

// Waits for what this thread has given the device to compute.
void AwaitComputed(const at::Device& device);

// Between the CPU's memory and a GPU's, copies run on a stream of their own, beside the one that
// computes, through pinned memory, which torch keeps for the next ones. Where there is no GPU the
// tensor itself is the copy.

// What is computed with the result from now on waits for the copy; what is under way does not.
at::Tensor ToDevice(const at::Tensor& host, const at::Device& device);
// Memory of the CPU to be filled and then given to ToDevice.
at::Tensor StagingTensor(at::IntArrayRef shape, at::ScalarType type, const at::Device& device);

// A copy to the CPU's memory that is under way: it begins when the tensor is computed, of which the
// caller needs to keep nothing. Threads: confined to one.
class HostCopy {
 public:
  explicit HostCopy(const at::Tensor& tensor);

  bool here() const { return !copied_.has_value() || copied_->query(); }
  // Waits until it is here.
  const at::Tensor& Await() const;

 private:
  at::Tensor host_;
  std::optional<c10::Event> copied_;  // none: there was nothing to copy
};

}  // namespace sdp
