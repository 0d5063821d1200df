#include "worker/model/copy_runs.h"

#include <cstddef>
#include <cstring>
#include <type_traits>

#include "worker/model/kernel_parts.h"

namespace sdp::kernels {

template <typename From, typename To>
void CopyRuns(const From* from, const RunsShape& runs, float factor, To* to) {
  for (int64_t run = 0; run < runs.count; ++run) {
    if (std::is_same_v<From, To> && factor == 1) {
      std::memcpy(to, from, static_cast<size_t>(runs.size) * sizeof(To));
    } else {
      for (int64_t i = 0; i < runs.size; ++i) parts::Store(parts::Load(from + i) * factor, to + i);
    }
    from += runs.from_stride;
    to += runs.to_stride;
  }
}

template void CopyRuns(const float*, const RunsShape&, float, float*);
template void CopyRuns(const Bf16*, const RunsShape&, float, Bf16*);
template void CopyRuns(const float*, const RunsShape&, float, Bf16*);

}  // namespace sdp::kernels
