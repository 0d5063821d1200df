#pragma once

#include <cstdint>
#include <ostream>
#include <utility>

// Distinct integer types for the numbers that name things and fence messages (DESIGN.md, Words).
namespace sdp {

// An integer that only compares with its own kind. Default: 0. Hashable by Abseil containers.
template <typename Tag, typename Rep>
class Id {
 public:
  using rep = Rep;

  constexpr Id() = default;
  constexpr explicit Id(Rep value) : value_(value) {}
  constexpr Rep value() const { return value_; }

  friend constexpr auto operator<=>(Id, Id) = default;
  template <typename H>
  friend H AbslHashValue(H state, Id id) {
    return H::combine(std::move(state), id.value_);
  }
  friend std::ostream& operator<<(std::ostream& out, Id id) { return out << id.value_; }

 private:
  Rep value_ = 0;
};

using UnitId =
    Id<struct UnitTag, int32_t>;  // Index in the catalog; a unit's block has the same number.
using FragmentId = Id<struct FragmentTag, int32_t>;  // Index in the layout: forward order.
using ShardId = Id<struct ShardTag, int32_t>;        // 0..S-1, natural order of the shards' names.
using Generation = Id<struct GenerationTag, int64_t>;
using ViewId = Id<struct ViewTag, int64_t>;
using Term = Id<struct TermTag, int64_t>;
using Incarnation = Id<struct IncarnationTag, int64_t>;  // One life of a worker; 0 is nobody.

// Steps and versions are plain: they are counted with. Step t reads version t and makes version
// t+1.
using Step = int64_t;

}  // namespace sdp
