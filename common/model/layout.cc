#include "common/model/layout.h"

#include <algorithm>
#include <cassert>
#include <tuple>

namespace sdp {
namespace {

// The runs of a block that are contiguous in a tensor, in block order; `fragment_offset` counts
// from the block's begin.
std::vector<Piece> BlockRuns(const Catalog& catalog, const UnitSpec& unit) {
  std::vector<Piece> runs;
  int64_t offset = 0;
  for (const Slice& slice : unit.slices) {
    const TensorSpec& tensor = catalog.tensors[static_cast<size_t>(slice.tensor)];
    int64_t outer = 1, stride = tensor.elements(), begin = 0, size = stride;
    if (!slice.whole()) {
      const size_t dim = static_cast<size_t>(slice.dim);
      int64_t inner = 1;  // Elements per index of `dim`.
      for (size_t i = dim + 1; i < tensor.shape.size(); ++i) inner *= tensor.shape[i];
      for (size_t i = 0; i < dim; ++i) outer *= tensor.shape[i];
      stride = tensor.shape[dim] * inner;
      begin = slice.begin * inner;
      size = (slice.end - slice.begin) * inner;
    }
    if (size == 0) continue;
    for (int64_t i = 0; i < outer; ++i) {
      runs.push_back({slice.tensor, i * stride + begin, offset, size});
      offset += size;
    }
  }
  assert(offset == unit.params && "a unit's params are the elements of its slices");
  return runs;
}

}  // namespace

Layout::Layout(const Catalog& catalog, int64_t max_fragment) {
  assert(max_fragment >= 1);
  blocks_.resize(catalog.units.size());
  for (size_t u = 0; u < catalog.units.size(); ++u) {
    const UnitSpec& unit = catalog.units[u];
    const std::vector<Piece> runs = BlockRuns(catalog, unit);
    size_t run = 0;
    for (int64_t offset = 0; offset < unit.params; offset += max_fragment) {
      const int64_t end = std::min(offset + max_fragment, unit.params);
      std::vector<Piece> pieces;
      for (; run < runs.size(); ++run) {
        const Piece& whole = runs[run];
        const int64_t run_end = whole.fragment_offset + whole.size;
        const int64_t from = std::max(whole.fragment_offset, offset);
        const int64_t to = std::min(run_end, end);
        pieces.push_back({whole.tensor, whole.tensor_offset + from - whole.fragment_offset,
                          from - offset, to - from});
        if (run_end > end) break;  // The next fragment goes on in this run.
        if (run_end == end) {
          ++run;
          break;
        }
      }
      blocks_[u].push_back(FragmentId(static_cast<int32_t>(fragments_.size())));
      fragments_.push_back({UnitId(static_cast<int32_t>(u)), offset, end - offset});
      pieces_.push_back(std::move(pieces));
      shared_.push_back(unit.shared);
    }
    elements_ += unit.params;
  }
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
