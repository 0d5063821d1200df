#include "worker/model/token_batches.h"

#include <algorithm>
#include <vector>

namespace sdp {

Batch TokenBatches::Read(absl::Span<const int64_t> samples) const {
  const std::vector<int64_t> shape = {static_cast<int64_t>(samples.size()), data_.seq_len()};
  Batch batch{at::empty(shape, at::kLong), at::empty(shape, at::kLong)};
  int64_t* input = batch.input.mutable_data_ptr<int64_t>();
  int64_t* target = batch.target.mutable_data_ptr<int64_t>();
  std::vector<int32_t> tokens(static_cast<size_t>(data_.seq_len()) + 1);
  for (const int64_t sample : samples) {
    data_.Read(sample, absl::MakeSpan(tokens));
    input = std::copy(tokens.begin(), tokens.end() - 1, input);
    target = std::copy(tokens.begin() + 1, tokens.end(), target);
  }
  return batch;
}

}  // namespace sdp
