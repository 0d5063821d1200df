#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace sdp {

// Rank `rank`'s part of `total` items, as {first, count}: consecutive, the first total mod ranks
// have one more.
inline std::pair<int64_t, int64_t> Portion(int64_t total, int64_t rank, int64_t ranks) {
  const int64_t base = total / ranks, extra = total % ranks;
  return {rank * base + std::min(rank, extra), base + (rank < extra ? 1 : 0)};
}

}  // namespace sdp
