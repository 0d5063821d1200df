#pragma once

#include <cstdint>

// How much memory the large buffers of this process take: every FloatBuffer, and on workers every
// tensor too (worker/model/counting_allocator.h). One counter for both, so that the peak is what
// they took at the same moment, not the sum of two peaks. Outside: code, stacks, small objects,
// scratch of BLAS and OpenMP, and what gRPC holds of messages under way; the process's VmHWM
// (common/control/heartbeats.h) has all of it.
// Memory belongs to the process, so its counter does too. Threads: all functions from any; two
// atomic operations per buffer.
namespace sdp {

struct AllocatedBytes {
  int64_t now = 0;
  int64_t peak = 0;  // the most that `now` has ever been; exact, whatever threads come together
};
AllocatedBytes Allocated();

// For those who allocate. The same number when it is freed.
void CountAllocated(int64_t bytes);
void CountFreed(int64_t bytes);

// The peak is the one from here on: for measurements of a part of a program.
void RestartAllocatedPeak();

}  // namespace sdp
