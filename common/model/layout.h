#pragma once

#include <cstdint>
#include <vector>

#include "common/base/ids.h"
#include "common/model/catalog.h"

namespace sdp {

// The atom of ownership, aggregation and versions: elements [offset, offset + size) of a unit's
// block.
struct Fragment {
  UnitId unit;
  int64_t offset = 0;
  int64_t size = 0;
};

// A run of elements that lies contiguously both in a fragment and in a (full, row-major) tensor.
struct Piece {
  int tensor = 0;
  int64_t tensor_offset = 0;    // Elements from the tensor's begin.
  int64_t fragment_offset = 0;  // Elements from the fragment's begin.
  int64_t size = 0;
};

// Pieces of one size that follow each other in a fragment and lie `stride` elements apart in their
// tensor. A slice of a matrix's columns is a piece per row, thousands in a model with heads or
// neurons as units: as strips they are a few numbers.
struct Strip {
  Piece first;
  int64_t count = 1;
  int64_t stride = 0;

  int64_t elements() const { return count * first.size; }
};

// Where every parameter of a model lies: blocks cut into fragments. A pure function of the catalog,
// so that all processes compute the same one; numbers of shards and workers do not enter.
// Immutable.
class Layout {
 public:
  static constexpr int64_t kMaxFragment = int64_t{1} << 20;  // elements

  // Fragments are numbered block by block in unit order; all of a block's have `max_fragment`
  // elements but the last.
  explicit Layout(const Catalog& catalog, int64_t max_fragment = kMaxFragment);

  int fragments() const { return static_cast<int>(fragments_.size()); }
  const Fragment& fragment(FragmentId id) const { return fragments_[Index(id)]; }
  // In fragment order, covering it without gaps; strips of one piece each where units have whole
  // tensors or rows of them.
  const std::vector<Strip>& strips(FragmentId id) const { return strips_[Index(id)]; }
  // The same, piece by piece. Made when asked for.
  std::vector<Piece> pieces(FragmentId id) const;
  // The fragments of a unit's block, in order.
  const std::vector<FragmentId>& block(UnitId unit) const {
    return blocks_[static_cast<size_t>(unit.value())];
  }
  int64_t elements() const { return elements_; }

  // Fragment -> shard, for S shards. Shared and other fragments are spread separately, each by
  // bytes: shared ones carry N/p times the traffic. Pure in (layout, S). Precondition: shards >= 1.
  std::vector<ShardId> Place(int shards) const;

 private:
  static size_t Index(FragmentId id) { return static_cast<size_t>(id.value()); }

  std::vector<Fragment> fragments_;
  std::vector<std::vector<Strip>> strips_;
  std::vector<std::vector<FragmentId>> blocks_;
  std::vector<bool> shared_;  // [fragments]
  int64_t elements_ = 0;
};

}  // namespace sdp
