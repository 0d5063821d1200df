#pragma once

#include <cstring>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "common/model/llama.h"
#include "tests/worker_model/model_case.h"
#include "tests/worker_model/naive_llama.h"
#include "worker/data/dataset.h"

namespace sdp {

// Random tokens, the same for the same seed.
class RandomTokens : public TokenDataset {
 public:
  RandomTokens(int64_t samples, int64_t seq_len, int64_t vocab, uint64_t seed) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
    tokens_ = at::randint(vocab, {samples, seq_len + 1}, generator, at::kInt);
  }
  int64_t samples() const override { return tokens_.size(0); }
  int64_t seq_len() const override { return tokens_.size(1) - 1; }
  uint64_t checksum() const override { return 0; }
  int64_t max_token() const override { return tokens_.max().item<int64_t>(); }
  void Read(int64_t sample, absl::Span<int32_t> tokens) const override {
    const at::Tensor row = tokens_[sample];
    std::memcpy(tokens.data(), row.const_data_ptr<int32_t>(), tokens.size() * sizeof(int32_t));
  }
  at::Tensor Input(const std::vector<int64_t>& samples) const { return Columns(samples, 0); }
  at::Tensor Target(const std::vector<int64_t>& samples) const { return Columns(samples, 1); }

 private:
  at::Tensor Columns(const std::vector<int64_t>& samples, int64_t first) const {
    return tokens_.index_select(0, at::tensor(samples))
        .narrow(1, first, tokens_.size(1) - 1)
        .to(at::kLong);
  }
  at::Tensor tokens_;  // [samples, seq_len + 1] i32
};

// A small LLaMA with odd sizes, random weights and data, and everything around it that a test asks
// for.
struct LlamaCase : ModelCase {
  static LlamaSpec Spec() {
    LlamaSpec spec;
    spec.dim = 24;
    spec.layers = 2;
    spec.heads = 4;
    spec.kv_heads = 2;
    spec.ffn_dim = 20;
    spec.vocab = 37;
    return spec;
  }

  LlamaSpec spec;
  int64_t seq_len;
  RandomTokens data;

  explicit LlamaCase(const LlamaSpec& sizes = Spec(),
                     TransformerUnit unit = TransformerUnit::kSublayer, int64_t length = 11,
                     int64_t max_fragment = Layout::kMaxFragment, ModelOptions options = {1, 0})
      : LlamaCase(sizes, LlamaCatalog(sizes, unit, length), length, max_fragment, options) {}
  // With any units: `units` is made for the same sizes and length.
  LlamaCase(const LlamaSpec& sizes, Catalog units, int64_t length,
            int64_t max_fragment = Layout::kMaxFragment, ModelOptions options = {1, 0})
      : ModelCase(std::move(units), max_fragment),
        spec(sizes),
        seq_len(length),
        data(16, seq_len, spec.vocab, 7) {
    MakeModel(spec, data, options);
  }

  naive::Factors Factors(double factor = 1) const {
    return naive::Factors(static_cast<size_t>(2 * spec.layers), factor);
  }
  at::Tensor ReferenceLoss(const naive::Weights& w, const std::vector<int64_t>& samples,
                           const naive::Factors& f) const {
    return naive::Loss(spec, w, data.Input(samples), data.Target(samples), f);
  }
};

}  // namespace sdp
