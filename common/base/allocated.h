#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

// How much memory the large buffers of this process take: every FloatBuffer, and on workers every
// tensor too (worker/model/counting_allocator.h). One ledger for both, so that the peak is what
// they took at the same moment, not the sum of two peaks. Outside: code, stacks, small objects,
// scratch of BLAS and OpenMP, and what gRPC holds of messages under way; the process's VmHWM
// (common/control/heartbeats.h) has all of it. Memory of a GPU has a ledger of its own, as the two
// are no room for one another.
// Memory belongs to the process, so its ledger does too. Threads: all functions from any; a short
// lock per buffer.
namespace sdp {

// Whose memory. A worker on a GPU has its tensors there and its FloatBuffers with the host.
enum class MemoryPlace { kHost, kGpu };

struct AllocatedBytes {
  int64_t now = 0;
  int64_t peak = 0;  // the most that `now` has ever been; exact, whatever threads come together
};
AllocatedBytes Allocated(MemoryPlace place = MemoryPlace::kHost);

// What a worker's memory is for.
enum class MemoryKind {
  kParameters,     // weights, as tensors
  kGradients,      // of weights, as tensors
  kActivations,    // samples, boundary activations and what stages keep and work in
  kCommunication,  // FloatBuffers: fragments that came in, or on their way out
  kOther,          // whatever was allocated in no scope (below)
};
inline constexpr size_t kMemoryKinds = 5;
// For people and for keys of JSON.
inline constexpr std::array<const char*, kMemoryKinds> kMemoryKindNames = {
    "parameters", "gradients", "activations", "communication", "other"};
using BytesByKind = std::array<int64_t, kMemoryKinds>;  // by the kind's number

// Sums of the kinds are what Allocated() says.
struct MemoryLedger {
  BytesByKind now = {};
  BytesByKind peak = {};  // at the moment of the peak

  friend bool operator==(const MemoryLedger&, const MemoryLedger&) = default;
};
MemoryLedger AllocatedByKind(MemoryPlace place = MemoryPlace::kHost);

// For those who allocate. The same number, kind and place when it is freed.
void CountAllocated(MemoryKind kind, int64_t bytes, MemoryPlace place = MemoryPlace::kHost);
void CountFreed(MemoryKind kind, int64_t bytes, MemoryPlace place = MemoryPlace::kHost);

// What tensors that this thread allocates are for, in the innermost scope; a tensor keeps its kind.
class MemoryScope {
 public:
  explicit MemoryScope(MemoryKind kind);
  ~MemoryScope();
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;

  static MemoryKind Current();

 private:
  const MemoryKind outer_;
};

// The peaks are those from here on: for measurements of a part of a program.
void RestartAllocatedPeak();

}  // namespace sdp
