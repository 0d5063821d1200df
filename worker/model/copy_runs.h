#pragma once

#include <cstdint>

#include "worker/model/kernels.h"

// Between fragments and slim weights, on plain pointers (as kernels.h): the CPU's twin of
// kernels::cuda::CopyRuns, and its reference. Threads: none inside.
namespace sdp::kernels {

// `count` runs of `size` elements, one run's first element so many behind the last one's.
struct RunsShape {
  int64_t size = 0;
  int64_t count = 1;
  int64_t from_stride = 0;
  int64_t to_stride = 0;
};

// to = from * factor, multiplied in f32 and rounded once where `to` is bf16; with factor 1 and one
// type the same bits. From, To: float or Bf16, not from bf16 to float. No overlap.
template <typename From, typename To>
void CopyRuns(const From* from, const RunsShape& runs, float factor, To* to);

}  // namespace sdp::kernels
