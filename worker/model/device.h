#pragma once

#include "ATen/ATen.h"
#include "absl/status/statusor.h"
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

// Between the CPU's memory and the device's; the tensor itself where they are the same. Transfers
// go through pinned memory, which torch keeps for the next ones, on the stream that computes:
// ToDevice queues its copy behind what is under way, ToHost waits for that and for its own.
at::Tensor ToDevice(const at::Tensor& host, const at::Device& device);
at::Tensor ToHost(const at::Tensor& tensor);
// Memory of the CPU to be filled and then given to ToDevice.
at::Tensor StagingTensor(at::IntArrayRef shape, at::ScalarType type, const at::Device& device);

}  // namespace sdp
