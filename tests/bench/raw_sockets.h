#pragma once

#include <cstdint>

namespace sdp {

// Time of a step in which each of `pairs` pairs of processes sends `bytes` in both directions at
// once over one TCP connection on loopback, with plain reads and writes of 1 MiB; mean over
// `steps`. And the CPU time that all of them spend on it.
struct RawSockets {
  double ms = 0, cpu_ms = 0;
};
RawSockets MeasureRawSockets(int pairs, int64_t bytes, int steps);

}  // namespace sdp
