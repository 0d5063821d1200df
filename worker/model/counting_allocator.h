#pragma once

#include "absl/status/status.h"

namespace sdp {

// From here on every tensor on the CPU is counted in Allocated() (common/base/allocated.h): torch's
// allocator is wrapped in one that counts the bytes asked for, under the kind of the scope in which
// it is asked (MemoryScope), and leaves the rest to the default one. Call it before the first
// tensor of the process: those that were there before it are not counted. Threads: not while others
// use torch. Again: nothing more happens.
void CountTensors();

// The same for tensors on the GPU and Allocated(MemoryPlace::kGpu), libraries' workspaces among
// them: torch's allocator tells what it hands out and takes back. Bytes asked for; it rounds them
// up to 512, and keeps what it has taken back for the next tensors. Only in builds with CUDA, and
// when torch is ready for GPUs.   Errors: FailedPrecondition - the environment makes torch use
// another allocator.
absl::Status CountTensorsOnGpu();

}  // namespace sdp
