#pragma once

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/float_buffer.h"
#include "common/export/stored_model.h"

namespace sdp {

// Reads a stored model tensor by tensor, front to back, out of the fragments that have its pieces.
// Memory: one fragment, and a tensor of which units have columns. Each tensor reads the fragments
// that have a part of it about once.
// Threads: confined to one. Lifetime: the model outlives it.
class TensorStream {
 public:
  explicit TensorStream(const StoredModel& model);

  // Calls `take` with the tensor's values from its first element to its last, factors multiplied in
  // where a tensor ends a branch. Its errors end the reading.
  absl::Status Read(int tensor, const std::function<absl::Status(absl::Span<const float>)>& take);

 private:
  using Take = std::function<absl::Status(absl::Span<const float>)>;
  struct Place {
    FragmentId fragment;
    Strip strip;
  };
  absl::Status ReadRows(int tensor, const Take& take);
  absl::Status ReadColumns(int tensor, const Take& take);
  absl::Status Load(FragmentId fragment);
  float Factor(const TensorSpec& tensor, FragmentId fragment) const;

  const StoredModel& model_;
  std::vector<std::vector<Place>> places_;  // [tensors], in the order of elements
  FragmentId loaded_{-1};
  FloatBuffer values_;  // of `loaded_`
};

}  // namespace sdp
