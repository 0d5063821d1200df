#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "worker/model/stage.h"
#include "worker/model/walk.h"

// What the weights of a network are made of. A *weight* is what a stage reads as one tensor: one or
// more of the catalog's tensors stacked along dimension 0 (stage.h). Its parts may belong to
// several units; then it is *slim*: the parts of a subnetwork's units stand side by side, in unit
// order, and what the subnetwork lacks is not there. Rows of q, k and v, columns of o. Of a tensor
// a unit may have several parts: then the units' first ones come first, then their second ones.
namespace sdp {

// Which weights a network reads. Immutable.
class WeightMap {
 public:
  // InvalidArgument - network and catalog do not agree on stages, tensors or shapes, or units do
  // not divide tensors as SlimMap needs it; a bug in one of them.
  static absl::StatusOr<WeightMap> Make(const Catalog& catalog, const Network& network);

  struct Weight {
    std::vector<int> tensors;
    std::vector<UnitId> units;  // that have a part of each of the tensors, ascending
  };
  const std::vector<Weight>& weights() const { return weights_; }
  // In the order in which the stage expects them.
  const std::vector<int>& stage(size_t index) const { return stages_[index]; }
  // Those of them that no earlier stage reads: no later backward pass needs their values.
  const std::vector<int>& first(size_t stage) const { return first_[stage]; }
  // The weights that nothing reads any more, not even a backward pass, when this stage's forward is
  // done.
  const std::vector<int>& spent(size_t stage) const { return spent_[stage]; }
  // The weights that a unit has a part of.
  const std::vector<int>& unit(UnitId id) const { return units_[static_cast<size_t>(id.value())]; }
  size_t unit_count() const { return units_.size(); }

 private:
  absl::Status Add(const Catalog& catalog, size_t stage, const WeightNames& names);
  absl::Status CheckComplete(const Catalog& catalog) const;
  absl::Status FindUnits(const Catalog& catalog);
  void FindSpent(const Network& network);

  std::vector<Weight> weights_;
  std::vector<std::vector<int>> stages_;
  std::vector<std::vector<int>> first_;  // [stages]
  std::vector<std::vector<int>> spent_;  // [stages]
  std::vector<std::vector<int>> units_;
  std::vector<int> weight_of_;  // [tensors]; -1: not read by any stage
};

// Where the parts of a subnetwork's units lie in its weights. Immutable; the map, which it refers
// to, outlives it.
class SlimMap {
 public:
  // Of `units`, ascending; `folded` as WalkPlan's. Precondition: `map` and units are the catalog's.
  SlimMap(const Catalog& catalog, const Layout& layout, const WeightMap& map,
          absl::Span<const UnitId> units, absl::Span<const double> folded);

  // A strip of a fragment: `count` runs of `size` elements, one after another in the fragment and
  // `stride` apart in the weight, which has them times `factor`.
  struct Place {
    int weight = 0;
    FragmentId fragment;
    int64_t fragment_offset = 0;
    int64_t weight_offset = 0;
    int64_t size = 0;
    int64_t count = 1;
    int64_t stride = 0;
    double factor = 1;
  };
  // A unit's part of a weight: indices [begin, begin + size) along `dim`, of stacked tensors one
  // such part each.
  struct Part {
    UnitId unit;
    int64_t dim = 0;
    int64_t begin = 0;
    int64_t size = 0;
  };

  const WeightMap& map() const { return map_; }
  bool Has(UnitId unit) const { return here_[static_cast<size_t>(unit.value())]; }
  const std::vector<int64_t>& shape(int weight) const { return shapes_[Index(weight)]; }
  // Those of the weight's units that the subnetwork has.
  const std::vector<UnitId>& units(int weight) const { return units_[Index(weight)]; }
  // Of the block of a unit that the subnetwork has, in no particular order.
  const std::vector<Place>& places(UnitId unit) const {
    return places_[static_cast<size_t>(unit.value())];
  }
  // In the order in which they lie in the weight; none where a unit has it as a whole.
  const std::vector<Part>& parts(int weight) const { return parts_[Index(weight)]; }

 private:
  // Element i of a tensor, of one unit's part of it, is element at(i) of a weight. `full` and
  // `slim`: elements from one row of the part to the next, in the tensor and in the weight, where
  // the part is elements [begin, end) of each row of the tensor.
  struct Position {
    int64_t base, full, slim, shift, begin, end;
    int64_t at(int64_t i) const { return base + i / full * slim + i % full + shift; }
    bool Has(int64_t i) const { return i % full >= begin && i % full < end; }
  };
  static size_t Index(int weight) { return static_cast<size_t>(weight); }
  // Gives the tensor's parts their places, from element `base` of the weight on; returns its slim
  // shape.
  std::vector<int64_t> AddTensor(const Catalog& catalog, const Layout& layout, int weight,
                                 int tensor, int64_t base, absl::Span<const double> folded);
  void AddPlaces(const Layout& layout, UnitId unit, int weight, const Slice& slice,
                 const Position& position, double factor);

  const WeightMap& map_;
  std::vector<bool> here_;                    // [units]
  std::vector<std::vector<int64_t>> shapes_;  // [weights]
  std::vector<std::vector<UnitId>> units_;    // [weights]
  std::vector<std::vector<Place>> places_;    // [units]
  std::vector<std::vector<Part>> parts_;      // [weights]
};

}  // namespace sdp
