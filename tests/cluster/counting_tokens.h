#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "worker/data/dataset.h"

namespace sdp {

// Text that can be learnt in some steps: sample k counts from k in steps of 1 + k % 4, modulo
// `vocab`.
class CountingTokens : public TokenDataset {
 public:
  CountingTokens(int64_t samples, int64_t seq_len, int64_t vocab)
      : samples_(samples), seq_len_(seq_len), vocab_(vocab) {}

  int64_t samples() const override { return samples_; }
  int64_t seq_len() const override { return seq_len_; }
  uint64_t checksum() const override { return 1; }
  int64_t max_token() const override { return vocab_ - 1; }
  void Read(int64_t sample, absl::Span<int32_t> tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] =
          static_cast<int32_t>((sample + static_cast<int64_t>(i) * (1 + sample % 4)) % vocab_);
    }
  }

 private:
  const int64_t samples_, seq_len_, vocab_;
};

}  // namespace sdp
