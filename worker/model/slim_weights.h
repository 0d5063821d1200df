#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "ATen/ATen.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/wire_buffer.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "worker/logic/local_model.h"
#include "worker/model/device.h"
#include "worker/model/stage.h"

// Between wire and stages: fragments are unpacked into aligned slim tensors, gradients packed into
// fragments. A *weight* is such a slim tensor: one or more of the catalog's tensors stacked along
// dimension 0 (stage.h). Both sides have the same type, f32 or bf16, so unpacking is a copy of
// bytes and a bf16 weight never exists in f32; on a GPU it is put together in pinned memory first.
namespace sdp {

// Which weights a network reads and where the catalog's tensors lie in them. Immutable.
class WeightMap {
 public:
  // InvalidArgument - network and catalog do not agree on stages, tensors or shapes; a bug in one
  // of them.
  static absl::StatusOr<WeightMap> Make(const Catalog& catalog, const Layout& layout,
                                        const Network& network);

  struct Part {  // A tensor in a weight.
    int tensor = 0;
    int64_t offset = 0;  // elements
  };
  struct Weight {
    std::vector<int64_t> shape;
    std::vector<Part> parts;
    UnitId unit;  // All parts are of one unit.
  };
  struct Place {  // A piece of a fragment in a weight.
    FragmentId fragment;
    int64_t fragment_offset = 0;
    int64_t weight_offset = 0;
    int64_t size = 0;
  };
  const std::vector<Weight>& weights() const { return weights_; }
  const std::vector<int>& stage(size_t index) const {
    return stages_[index];
  }  // in the order the stage expects
  // Those of them that no earlier stage reads: no later backward pass needs their values.
  const std::vector<int>& first(size_t stage) const { return first_[stage]; }
  // The weights that nothing reads any more, not even a backward pass, when this stage's forward is
  // done.
  const std::vector<int>& spent(size_t stage) const { return spent_[stage]; }
  const std::vector<int>& unit(UnitId id) const { return units_[static_cast<size_t>(id.value())]; }
  size_t unit_count() const { return units_.size(); }
  const std::vector<Place>& places(int weight) const {
    return places_[static_cast<size_t>(weight)];
  }

 private:
  absl::Status Add(const Catalog& catalog, size_t stage, const WeightNames& names);
  absl::Status CheckComplete(const Catalog& catalog) const;
  void FindSpent(const Network& network);

  std::vector<Weight> weights_;
  std::vector<std::vector<int>> stages_;
  std::vector<std::vector<int>> first_;  // [stages]
  std::vector<std::vector<int>> spent_;  // [stages]
  std::vector<std::vector<int>> units_;
  std::vector<std::vector<Place>> places_;  // [weights]
  std::vector<int> weight_of_;              // [tensors]; -1: not read by any stage
};

// The weights of the units that are here now. Threads: confined to one.
class SlimWeights {
 public:
  SlimWeights(const Layout& layout, const WeightMap& map, const Placement& placement);

  bool Has(UnitId unit) const { return here_[static_cast<size_t>(unit.value())]; }
  // Copies the fragments of a unit's block, in order, and frees them. kTrain: the weights are
  // leaves that require gradients. Internal - wrong number, size or type.
  enum class Use { kTrain, kRead };
  absl::Status Unpack(UnitId unit, std::vector<WireBuffer> fragments, Use use);
  void Drop(UnitId unit);
  // Frees a weight's values although the graph of the backward pass still refers to the tensor, of
  // which shape and gradient stay.
  void Release(int weight);
  const at::Tensor& tensor(int weight) const { return tensors_[static_cast<size_t>(weight)]; }
  std::vector<at::Tensor> OfStage(size_t stage) const;

 private:
  const Layout& layout_;
  const WeightMap& map_;
  const Placement placement_;
  std::vector<at::Tensor> tensors_;  // [weights]; undefined: not here
  std::vector<bool> here_;           // [units]
};

// Collects final gradients into fragments and hands out each fragment when it is full. Threads:
// confined to one.
class GradientPacker {
 public:
  GradientPacker(const Layout& layout, const WeightMap& map, absl::Span<const HeldUnit> held,
                 WireType type, Exchange& exchange);

  // `gradient` is that of the weight, contiguous, of the packer's type, on any device. Once per
  // weight.
  void Pack(int weight, const at::Tensor& gradient);
  // Internal, naming it - a held fragment was not handed out.
  absl::Status CheckAllHandedOut(const Catalog& catalog) const;

 private:
  struct Open {
    WireBuffer values;       // Allocated with its first piece.
    size_t pieces_left = 0;  // 0: not held, or handed out.
  };
  const Layout& layout_;
  const WeightMap& map_;
  const WireType type_;
  Exchange& exchange_;
  std::vector<Open> fragments_;
};

}  // namespace sdp
