#include "common/model/initial_values.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "common/model/llama.h"

namespace sdp {
namespace {

LlamaSpec Spec() {
  return {.dim = 64, .layers = 2, .heads = 4, .kv_heads = 2, .ffn_dim = 176, .vocab = 255};
}

// The whole model, tensor by tensor, put together from fragments.
std::vector<std::vector<float>> AllTensors(const Catalog& catalog, int64_t max_fragment,
                                           uint64_t seed) {
  std::vector<std::vector<float>> tensors;
  for (const TensorSpec& tensor : catalog.tensors) {
    tensors.emplace_back(static_cast<size_t>(tensor.elements()), NAN);
  }
  const Layout layout(catalog, max_fragment);
  for (int f = 0; f < layout.fragments(); ++f) {
    std::vector<float> values(static_cast<size_t>(layout.fragment(FragmentId(f)).size), NAN);
    FillInitialValues(catalog, layout, FragmentId(f), seed, absl::MakeSpan(values));
    for (const Piece& piece : layout.pieces(FragmentId(f))) {
      std::copy_n(values.begin() + piece.fragment_offset, piece.size,
                  tensors[static_cast<size_t>(piece.tensor)].begin() + piece.tensor_offset);
    }
  }
  return tensors;
}

TEST(InitialValuesTest, SameBits_ForAnyFragmentSizeAndUnit) {
  const Catalog catalog = LlamaCatalog(Spec(), TransformerUnit::kSublayer, 4);
  const auto whole = AllTensors(catalog, Layout::kMaxFragment, 5);
  EXPECT_EQ(AllTensors(catalog, 1, 5), whole);
  EXPECT_EQ(AllTensors(catalog, 7, 5), whole);
  EXPECT_EQ(AllTensors(LlamaCatalog(Spec(), TransformerUnit::kLayer, 4), 1001, 5), whole);
  const Catalog neurons = LlamaNeuronCatalog(Spec(), {.groups = 7}, 4);
  EXPECT_EQ(AllTensors(neurons, Layout::kMaxFragment, 5), whole);
  EXPECT_EQ(AllTensors(neurons, 7, 5), whole);
}

TEST(InitialValuesTest, Seed_ChangesAllNormalTensors) {
  const Catalog catalog = LlamaCatalog(Spec(), TransformerUnit::kSublayer, 4);
  const auto a = AllTensors(catalog, 1000, 5), b = AllTensors(catalog, 1000, 6);
  for (size_t t = 0; t < a.size(); ++t) {
    EXPECT_EQ(a[t] == b[t], catalog.tensors[t].initial.kind != InitialValues::Kind::kNormal)
        << catalog.tensors[t].name;
  }
}

// Tolerances are five standard errors: of the mean s / sqrt n, of the deviation s / sqrt(2n), of
// the correlation 1 / sqrt n.
TEST(InitialValuesTest, Tensors_HaveTheirMeanAndDeviationAndAreIndependent) {
  const Catalog catalog = LlamaCatalog(Spec(), TransformerUnit::kSublayer, 4);
  const auto tensors = AllTensors(catalog, 1000, 9);
  const std::vector<float>* last = nullptr;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const TensorSpec& spec = catalog.tensors[t];
    const std::vector<float>& values = tensors[t];
    if (spec.initial.kind == InitialValues::Kind::kOnes) {
      for (const float value : values) ASSERT_EQ(value, 1.0f);
      continue;
    }
    const double n = static_cast<double>(values.size()), s = spec.initial.stddev;
    double sum = 0, squares = 0, product = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      sum += values[i];
      squares += double{values[i]} * values[i];
      if (last != nullptr && i < last->size()) product += double{values[i]} * (*last)[i];
    }
    EXPECT_NEAR(sum / n, 0, 5 * s / std::sqrt(n)) << spec.name;
    EXPECT_NEAR(std::sqrt(squares / n), s, 5 * s / std::sqrt(2 * n)) << spec.name;
    if (last != nullptr) {
      const double m = static_cast<double>(std::min(last->size(), values.size()));
      EXPECT_NEAR(product / m / (0.02 * 0.02), 0, 5 / std::sqrt(m)) << spec.name;
    }
    last = &values;
  }
}

// Frozen: a checkpoint 0 and the quick start's numbers depend on these bits, on every machine and
// compiler.
TEST(InitialValuesTest, Bits_AreFrozen) {
  const Catalog catalog = LlamaCatalog(Spec(), TransformerUnit::kSublayer, 4);
  const auto tensors = AllTensors(catalog, 1000, 0);
  ASSERT_EQ(catalog.tensors[0].name, "model.embed_tokens.weight");
  std::vector<uint32_t> bits;
  for (const size_t i : {0u, 1u, 2u, 3u, 16319u})
    bits.push_back(std::bit_cast<uint32_t>(tensors[0][i]));
  EXPECT_EQ(bits,
            (std::vector<uint32_t>{1027390149, 1016375534, 3123995955, 993842860, 3143233285}));
}

TEST(InitialValuesTest, Zeros_AreWritten) {
  Catalog catalog;
  catalog.tensors.push_back({"bias", {3}, {InitialValues::Kind::kZeros, 0}, false});
  UnitSpec unit;
  unit.slices.push_back({});
  unit.params = 3;
  catalog.units.push_back(unit);
  EXPECT_EQ(AllTensors(catalog, 2, 1)[0], (std::vector<float>{0, 0, 0}));
}

}  // namespace
}  // namespace sdp
