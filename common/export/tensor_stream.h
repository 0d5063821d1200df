#pragma once

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/float_buffer.h"
#include "common/export/stored_model.h"

namespace sdp {

// Reads a stored model tensor by tensor, front to back, out of the fragments that have its pieces.
// Memory: one fragment. Tensors in the catalog's order read each fragment about once.
// Threads: confined to one. Lifetime: the model outlives it.
class TensorStream {
 public:
  explicit TensorStream(const StoredModel& model);

  // Calls `take` with the tensor's values from its first element to its last, factors multiplied in
  // where a tensor ends a branch. Its errors end the reading.
  absl::Status Read(int tensor, const std::function<absl::Status(absl::Span<const float>)>& take);

 private:
  struct Place {
    FragmentId fragment;
    Piece piece;
  };
  absl::Status Load(FragmentId fragment);

  const StoredModel& model_;
  std::vector<std::vector<Place>> places_;  // [tensors], in the order of elements
  FragmentId loaded_{-1};
  FloatBuffer values_;  // of `loaded_`
};

}  // namespace sdp
