#include "common/model/layout.h"

#include <algorithm>
#include <cassert>
#include <tuple>

namespace sdp {
namespace {

// A block as strips, one per slice; `fragment_offset` counts from the block's begin.
std::vector<Strip> BlockStrips(const Catalog& catalog, const UnitSpec& unit) {
  std::vector<Strip> strips;
  int64_t offset = 0;
  for (const Slice& slice : unit.slices) {
    const TensorSpec& tensor = catalog.tensors[static_cast<size_t>(slice.tensor)];
    int64_t count = 1, stride = tensor.elements(), begin = 0, size = stride;
    if (!slice.whole()) {
      const size_t dim = static_cast<size_t>(slice.dim);
      int64_t inner = 1;  // Elements per index of `dim`.
      for (size_t i = dim + 1; i < tensor.shape.size(); ++i) inner *= tensor.shape[i];
      for (size_t i = 0; i < dim; ++i) count *= tensor.shape[i];
      stride = tensor.shape[dim] * inner;
      begin = slice.begin * inner;
      size = (slice.end - slice.begin) * inner;
    }
    if (size == 0 || count == 0) continue;
    strips.push_back({{slice.tensor, begin, offset, size}, count, stride});
    offset += strips.back().elements();
  }
  assert(offset == unit.params && "a unit's params are the elements of its slices");
  return strips;
}

// Elements [from, to) of a strip, counted in the block's order: the rest of a piece, whole pieces,
// and the begin of one, as far as there are such.
void AppendCut(const Strip& strip, int64_t from, int64_t to, int64_t fragment_offset,
               std::vector<Strip>* cut) {
  const Piece& piece = strip.first;
  while (from < to) {
    const int64_t at = from % piece.size;
    const int64_t whole = at == 0 ? (to - from) / piece.size : 0;
    const int64_t size = whole > 0 ? piece.size : std::min(piece.size - at, to - from);
    cut->push_back({{piece.tensor, piece.tensor_offset + from / piece.size * strip.stride + at,
                     fragment_offset, size},
                    std::max<int64_t>(whole, 1),
                    strip.stride});
    from += cut->back().elements();
    fragment_offset += cut->back().elements();
  }
}

}  // namespace

Layout::Layout(const Catalog& catalog, int64_t max_fragment) {
  assert(max_fragment >= 1);
  blocks_.resize(catalog.units.size());
  for (size_t u = 0; u < catalog.units.size(); ++u) {
    const UnitSpec& unit = catalog.units[u];
    const std::vector<Strip> block = BlockStrips(catalog, unit);
    size_t next = 0;  // The first strip that is not in earlier fragments as a whole.
    for (int64_t offset = 0; offset < unit.params; offset += max_fragment) {
      const int64_t end = std::min(offset + max_fragment, unit.params);
      std::vector<Strip> strips;
      for (; next < block.size(); ++next) {
        const int64_t begin = block[next].first.fragment_offset;
        const int64_t from = std::max(begin, offset);
        const int64_t to = std::min(begin + block[next].elements(), end);
        AppendCut(block[next], from - begin, to - begin, from - offset, &strips);
        if (to == end) break;  // The next fragment goes on here, or right behind.
      }
      blocks_[u].push_back(FragmentId(static_cast<int32_t>(fragments_.size())));
      fragments_.push_back({UnitId(static_cast<int32_t>(u)), offset, end - offset});
      strips_.push_back(std::move(strips));
      shared_.push_back(unit.shared);
    }
    elements_ += unit.params;
  }
}

std::vector<Piece> Layout::pieces(FragmentId id) const {
  std::vector<Piece> pieces;
  for (const Strip& strip : strips(id)) {
    Piece piece = strip.first;
    for (int64_t i = 0; i < strip.count; ++i) {
      pieces.push_back(piece);
      piece.tensor_offset += strip.stride;
      piece.fragment_offset += piece.size;
    }
  }
  return pieces;
}

std::vector<ShardId> Layout::Place(int shards) const {
  assert(shards >= 1);
  // Largest first, each to the shard that has least of its group; equal sizes stay in forward
  // order, so neighbours of the forward walk come from different shards.
  std::vector<size_t> order(fragments_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [this](size_t a, size_t b) {
    return std::make_tuple(!shared_[a], -fragments_[a].size) <
           std::make_tuple(!shared_[b], -fragments_[b].size);
  });
  struct Load {
    int64_t shared = 0;
    int64_t other = 0;
  };
  std::vector<Load> loads(static_cast<size_t>(shards));
  std::vector<ShardId> placement(fragments_.size());
  for (const size_t i : order) {
    // Shared fragments come first; among shards that have equally much of the others, the one with
    // fewest of them is next.
    const auto least = std::min_element(
        loads.begin(), loads.end(), [shared = shared_[i]](const Load& a, const Load& b) {
          return shared ? a.shared < b.shared
                        : std::tie(a.other, a.shared) < std::tie(b.other, b.shared);
        });
    (shared_[i] ? least->shared : least->other) += fragments_[i].size;
    placement[i] = ShardId(static_cast<int32_t>(least - loads.begin()));
  }
  return placement;
}

}  // namespace sdp
