#include "worker/model/batches.h"

#include <algorithm>
#include <vector>

#include "absl/status/status.h"

namespace sdp {
namespace {

class TokenBatches : public BatchSource {
 public:
  explicit TokenBatches(const TokenDataset& data) : data_(data) {}

  Batch Read(absl::Span<const int64_t> samples) const override {
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
  int64_t terms_per_sample() const override { return data_.terms_per_sample(); }

 private:
  const TokenDataset& data_;
};

using Source = absl::StatusOr<std::unique_ptr<BatchSource>>;

// One per architecture.
Source BatchesFor(const LlamaSpec&, const Dataset& data) {
  if (data.tokens() == nullptr) {
    return absl::InvalidArgumentError("a language model learns from text or tokens");
  }
  return std::make_unique<TokenBatches>(*data.tokens());
}

}  // namespace

Source MakeBatches(const ModelSpec& spec, const Dataset& data) {
  return std::visit([&](const auto& one) { return BatchesFor(one, data); }, spec);
}

}  // namespace sdp
