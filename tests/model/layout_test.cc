#include "common/model/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/model/llama.h"

namespace sdp {
namespace {

TensorSpec Tensor(std::string name, std::vector<int64_t> shape) {
  TensorSpec tensor;
  tensor.name = std::move(name);
  tensor.shape = std::move(shape);
  return tensor;
}

UnitSpec Unit(std::string name, std::vector<Slice> slices, int64_t params) {
  UnitSpec unit;
  unit.name = std::move(name);
  unit.kind = "neurons";
  unit.slices = std::move(slices);
  unit.params = params;
  return unit;
}

// Neuron granularity of a small MLP: `up` [5, 3] cut by rows, `down` [2, 5, 2] by its middle
// dimension, in groups of 2 and 3.
Catalog Sliced() {
  Catalog catalog;
  catalog.tensors = {Tensor("norm", {3}), Tensor("up", {5, 3}), Tensor("down", {2, 5, 2}),
                     Tensor("scalar", {})};
  catalog.units = {Unit("shared", {{0, -1, 0, 0}, {3, -1, 0, 0}}, 4),
                   Unit("first", {{1, 0, 0, 2}, {2, 1, 0, 2}}, 6 + 8),
                   Unit("empty", {{1, 0, 2, 2}}, 0),
                   Unit("second", {{1, 0, 2, 5}, {2, 1, 2, 5}}, 9 + 12)};
  catalog.units[0].shared = true;
  return catalog;
}

void ExpectCoversEachElementOnce(const Catalog& catalog, int64_t max_fragment) {
  const Layout layout(catalog, max_fragment);
  std::vector<std::vector<int>> count;
  for (const TensorSpec& tensor : catalog.tensors) {
    count.emplace_back(static_cast<size_t>(tensor.elements()), 0);
  }
  int64_t elements = 0;
  int next = 0;
  for (size_t u = 0; u < catalog.units.size(); ++u) {
    int64_t offset = 0;
    for (const FragmentId id : layout.block(UnitId(static_cast<int32_t>(u)))) {
      EXPECT_EQ(id.value(), next++);
      const Fragment& fragment = layout.fragment(id);
      EXPECT_EQ(fragment.unit.value(), static_cast<int32_t>(u));
      EXPECT_EQ(fragment.offset, offset);
      EXPECT_EQ(fragment.size, std::min(max_fragment, catalog.units[u].params - offset));
      offset += fragment.size;
      int64_t filled = 0;
      for (const Piece& piece : layout.pieces(id)) {
        EXPECT_EQ(piece.fragment_offset, filled);
        ASSERT_GT(piece.size, 0);
        filled += piece.size;
        auto& tensor = count[static_cast<size_t>(piece.tensor)];
        ASSERT_GE(piece.tensor_offset, 0);
        ASSERT_LE(piece.tensor_offset + piece.size, static_cast<int64_t>(tensor.size()));
        for (int64_t i = 0; i < piece.size; ++i) {
          ++tensor[static_cast<size_t>(piece.tensor_offset + i)];
        }
      }
      EXPECT_EQ(filled, fragment.size);
    }
    EXPECT_EQ(offset, catalog.units[u].params);
    elements += offset;
  }
  EXPECT_EQ(next, layout.fragments());
  EXPECT_EQ(elements, layout.elements());
  for (const auto& tensor : count) {
    for (const int times : tensor) ASSERT_EQ(times, 1);
  }
}

TEST(LayoutTest, EachElementOfEachTensor_IsInOneFragment) {
  const LlamaSpec spec = {
      .dim = 16, .layers = 2, .heads = 4, .kv_heads = 2, .ffn_dim = 24, .vocab = 33};
  for (const int64_t max_fragment : {int64_t{1}, int64_t{7}, int64_t{1} << 20}) {
    SCOPED_TRACE(max_fragment);
    ExpectCoversEachElementOnce(Sliced(), max_fragment);
    ExpectCoversEachElementOnce(LlamaCatalog(spec, TransformerUnit::kSublayer, 4), max_fragment);
    ExpectCoversEachElementOnce(LlamaCatalog(spec, TransformerUnit::kLayer, 4), max_fragment);
    ExpectCoversEachElementOnce(LlamaNeuronCatalog(spec, {.groups = 5}, 4), max_fragment);
  }
}

TEST(LayoutTest, Slices_GiveTheRunsOfTheirDimension) {
  const Layout layout(Sliced());
  const std::vector<Piece>& pieces = layout.pieces(layout.block(UnitId(3))[0]);
  ASSERT_EQ(pieces.size(),
            3u);  // Rows 2..4 of `up` in one run; [2..4] of the middle of `down` in two.
  EXPECT_EQ(pieces[0].tensor, 1);
  EXPECT_EQ(pieces[0].tensor_offset, 6);
  EXPECT_EQ(pieces[0].size, 9);
  EXPECT_EQ(pieces[1].tensor, 2);
  EXPECT_EQ(pieces[1].tensor_offset, 4);
  EXPECT_EQ(pieces[1].fragment_offset, 9);
  EXPECT_EQ(pieces[1].size, 6);
  EXPECT_EQ(pieces[2].tensor_offset, 14);
  EXPECT_EQ(pieces[2].fragment_offset, 15);
}

// A layout of a large model is a few numbers per unit, whatever the number of rows.
TEST(LayoutTest, Strips_AreFewWhereUnitsHaveColumns) {
  const LlamaSpec spec = {
      .dim = 2048, .layers = 1, .heads = 32, .kv_heads = 32, .ffn_dim = 5461, .vocab = 100};
  const Catalog catalog = LlamaNeuronCatalog(spec, {.groups = 24}, 4);
  const Layout layout(catalog);
  for (size_t u = 0; u < catalog.units.size(); ++u) {
    const std::vector<FragmentId>& block = layout.block(UnitId(static_cast<int32_t>(u)));
    size_t strips = 0;
    for (const FragmentId id : block) strips += layout.strips(id).size();
    // One per slice, and where a fragment ends inside of one at most three more.
    EXPECT_LE(strips, catalog.units[u].slices.size() + 3 * (block.size() - 1))
        << catalog.units[u].name;
  }
}

TEST(LayoutTest, SliceElements_AreThoseOfItsIndices) {
  const Catalog catalog = Sliced();
  for (const UnitSpec& unit : catalog.units) {
    int64_t sum = 0;
    for (const Slice& slice : unit.slices) sum += catalog.elements(slice);
    EXPECT_EQ(sum, unit.params) << unit.name;
  }
  EXPECT_EQ(catalog.params(), 3 + 15 + 20 + 1);
}

TEST(LayoutTest, UnitWithoutParameters_HasNoFragment) {
  EXPECT_TRUE(Layout(Sliced()).block(UnitId(2)).empty());
}

TEST(LayoutTest, Place_SpreadsSharedAndOthersSeparately) {
  const LlamaSpec spec = {
      .dim = 64, .layers = 4, .heads = 4, .kv_heads = 2, .ffn_dim = 172, .vocab = 256};
  const Catalog catalog = LlamaCatalog(spec, TransformerUnit::kSublayer, 8);
  const int64_t max_fragment = 1000;
  const Layout layout(catalog, max_fragment);
  for (const int shards : {1, 2, 3, 7}) {
    const std::vector<ShardId> placement = layout.Place(shards);
    ASSERT_EQ(placement.size(), static_cast<size_t>(layout.fragments()));
    std::vector<int64_t> shared(static_cast<size_t>(shards)), other = shared, total = shared;
    for (int f = 0; f < layout.fragments(); ++f) {
      const size_t shard = static_cast<size_t>(placement[static_cast<size_t>(f)].value());
      ASSERT_LT(shard, static_cast<size_t>(shards));
      const Fragment& fragment = layout.fragment(FragmentId(f));
      (catalog.unit(fragment.unit).shared ? shared : other)[shard] += fragment.size;
      total[shard] += fragment.size;
    }
    for (const auto& load : {shared, other, total}) {
      const auto [least, most] = std::minmax_element(load.begin(), load.end());
      EXPECT_LE(*most - *least, max_fragment) << shards;
    }
  }
}

TEST(LayoutTest, Place_IsPure) {
  const Catalog catalog = Sliced();
  EXPECT_EQ(Layout(catalog, 3).Place(3), Layout(catalog, 3).Place(3));
}

TEST(LayoutTest, Place_MoreShardsThanFragments_LeavesSomeEmpty) {
  const Layout layout(Sliced());
  ASSERT_EQ(layout.fragments(), 3);
  std::vector<ShardId> placement = layout.Place(50);
  std::sort(placement.begin(), placement.end());
  EXPECT_EQ(std::unique(placement.begin(), placement.end()), placement.end());
}

// Neighbours of the forward walk come from different shards, so that a pull uses all links from the
// start.
TEST(LayoutTest, Place_EqualFragments_Alternate) {
  Catalog catalog;
  catalog.tensors = {Tensor("w", {64})};
  catalog.units = {Unit("all", {{0, -1, 0, 0}}, 64)};
  const std::vector<ShardId> placement = Layout(catalog, 8).Place(2);
  for (size_t i = 0; i + 1 < placement.size(); ++i) EXPECT_NE(placement[i], placement[i + 1]);
}

}  // namespace
}  // namespace sdp
