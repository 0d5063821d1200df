#pragma once

namespace sdp {

// From here on every tensor on the CPU is counted in Allocated() (common/base/allocated.h): torch's
// allocator is wrapped in one that counts the bytes asked for, under the kind of the scope in which
// it is asked (MemoryScope), and leaves the rest to the default one. Call it before the first
// tensor of the process: those that were there before it are not counted. Threads: not while others
// use torch. Again: nothing more happens.
void CountTensors();

}  // namespace sdp
