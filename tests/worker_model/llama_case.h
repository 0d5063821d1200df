#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "common/model/llama.h"
#include "gtest/gtest.h"
#include "tests/worker_model/fake_exchange.h"
#include "tests/worker_model/naive_llama.h"
#include "worker/data/dataset.h"
#include "worker/model/make_model.h"

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
struct LlamaCase {
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
  Catalog catalog;
  Layout layout;
  naive::Weights weights;  // f32
  RandomTokens data;
  std::unique_ptr<LocalModel> model;

  explicit LlamaCase(const LlamaSpec& sizes = Spec(),
                     TransformerUnit unit = TransformerUnit::kSublayer, int64_t length = 11,
                     int64_t max_fragment = Layout::kMaxFragment, ModelOptions options = {1, 0})
      : LlamaCase(sizes, LlamaCatalog(sizes, unit, length), length, max_fragment, options) {}
  // With any units: `units` is made for the same sizes and length.
  LlamaCase(const LlamaSpec& sizes, Catalog units, int64_t length,
            int64_t max_fragment = Layout::kMaxFragment, ModelOptions options = {1, 0})
      : spec(sizes),
        seq_len(length),
        catalog(std::move(units)),
        layout(catalog, max_fragment),
        data(16, seq_len, spec.vocab, 7) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(1);
    for (const TensorSpec& tensor : catalog.tensors) {
      // Norms near 1, matrices large enough that every branch matters.
      at::Tensor values = 0.3 * at::randn(tensor.shape, generator, at::kFloat);
      weights[tensor.name] = tensor.shape.size() == 1 ? values + 1 : values;
    }
    absl::StatusOr<std::unique_ptr<LocalModel>> made =
        MakeTorchModel(catalog, layout, spec, &data, &data, options);
    if (!made.ok()) throw std::runtime_error(made.status().ToString());
    model = *std::move(made);
  }

  UnitId Unit(const std::string& name) const {
    for (size_t i = 0; i < catalog.units.size(); ++i) {
      if (catalog.units[i].name == name) return UnitId(static_cast<int32_t>(i));
    }
    throw std::runtime_error("no unit " + name);
  }

  // All units but the absent ones; `factor` for those that are not shared.
  std::vector<HeldUnit> Held(const std::vector<std::string>& absent = {}, double factor = 1) const {
    std::vector<HeldUnit> held;
    for (size_t i = 0; i < catalog.units.size(); ++i) {
      const UnitSpec& unit = catalog.units[i];
      if (std::find(absent.begin(), absent.end(), unit.name) != absent.end()) continue;
      held.push_back({UnitId(static_cast<int32_t>(i)), unit.shared ? 1 : factor});
    }
    return held;
  }

  // Its slices one after another: what the catalog says a block is.
  at::Tensor Block(UnitId unit, const naive::Weights& values) const {
    std::vector<at::Tensor> flat;
    for (const Slice& slice : catalog.unit(unit).slices) {
      const at::Tensor& tensor = values.at(catalog.tensors[static_cast<size_t>(slice.tensor)].name);
      const at::Tensor part =
          slice.whole() ? tensor : tensor.narrow(slice.dim, slice.begin, slice.end - slice.begin);
      flat.push_back(part.reshape({-1}));
    }
    return at::cat(flat);
  }

  FakeExchange MakeExchange() const { return FakeExchange(layout, Fragments(weights)); }

  std::vector<FloatBuffer> Fragments(const naive::Weights& values) const {
    std::vector<FloatBuffer> fragments;
    for (int id = 0; id < layout.fragments(); ++id) {
      const Fragment& fragment = layout.fragment(FragmentId(id));
      const at::Tensor block = Block(fragment.unit, values).to(at::kFloat);
      FloatBuffer buffer(fragment.size);
      std::memcpy(buffer.data(), block.const_data_ptr<float>() + fragment.offset,
                  static_cast<size_t>(buffer.bytes()));
      fragments.push_back(std::move(buffer));
    }
    return fragments;
  }

  // The block's gradient, put together from what was handed out.
  at::Tensor BlockGradient(const FakeExchange& exchange, UnitId unit) const {
    std::vector<at::Tensor> parts;
    for (const FragmentId id : layout.block(unit)) {
      const std::optional<FloatBuffer>& gradient = exchange.gradient(id);
      if (!gradient.has_value() || gradient->size() != layout.fragment(id).size) {
        ADD_FAILURE() << "fragment " << id << " of " << catalog.unit(unit).name
                      << " has no gradient of its size";
        return at::zeros({catalog.unit(unit).params});
      }
      parts.push_back(
          at::tensor(at::ArrayRef<float>(gradient->data(), static_cast<size_t>(gradient->size()))));
    }
    return at::cat(parts);
  }

  // The reference: weights in f64 as leaves.
  naive::Weights ReferenceWeights() const {
    naive::Weights reference;
    for (const auto& [name, value] : weights)
      reference[name] = value.to(at::kDouble).requires_grad_();
    return reference;
  }
  naive::Factors Factors(double factor = 1) const {
    return naive::Factors(static_cast<size_t>(2 * spec.layers), factor);
  }
  at::Tensor ReferenceLoss(const naive::Weights& w, const std::vector<int64_t>& samples,
                           const naive::Factors& f) const {
    return naive::Loss(spec, w, data.Input(samples), data.Target(samples), f);
  }
  static naive::Weights Gradients(const naive::Weights& w) {
    naive::Weights gradients;
    for (const auto& [name, value] : w) {
      gradients[name] = value.grad().defined() ? value.grad() : at::zeros_like(value);
    }
    return gradients;
  }
};

// |a - b| over the largest |b|: rounding errors of a sum scale with its largest terms.
inline double Difference(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor difference = (a.to(at::kDouble) - b.to(at::kDouble)).abs().max();
  return difference.item<double>() / std::max(1e-30, b.to(at::kDouble).abs().max().item<double>());
}

}  // namespace sdp
