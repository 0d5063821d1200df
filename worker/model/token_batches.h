#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "worker/data/dataset.h"
#include "worker/model/stage.h"

namespace sdp {

// Sequences of tokens for a language model: of a sample's seq_len + 1 tokens the input [B, L] i64
// is all but the last, the target [B, L] i64 all but the first.
class TokenBatches : public BatchSource {
 public:
  explicit TokenBatches(const Dataset& data) : data_(data) {}

  Batch Read(absl::Span<const int64_t> samples) const override;
  int64_t terms_per_sample() const override { return data_.seq_len(); }

 private:
  const Dataset& data_;
};

}  // namespace sdp
