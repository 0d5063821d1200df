#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "ATen/ATen.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/wire_buffer.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "worker/logic/local_model.h"
#include "worker/model/device.h"
#include "worker/model/weight_map.h"

// Between wire and stages: fragments are unpacked into aligned slim tensors, gradients packed into
// fragments. Both sides have the same type, f32 or bf16, so unpacking is a copy of bytes and a bf16
// weight never exists in f32; on a GPU it is put together in pinned memory first.
namespace sdp {

// The weights of the units that are here now. Threads: confined to one. Lifetime: layout and map
// outlive it.
class SlimWeights {
 public:
  SlimWeights(const Layout& layout, const SlimMap& map, const Placement& placement);

  bool Has(UnitId unit) const { return here_[static_cast<size_t>(unit.value())]; }
  // Copies the fragments of a unit's block, in order, and frees them. A weight is ready when all
  // units of the subnetwork that have a part of it are here; there is room for all of it from the
  // first on. kTrain: the weights are leaves that require gradients; all units of a weight have one
  // use. Internal - wrong number, size or type. Precondition: the map has the unit.
  enum class Use { kTrain, kRead };
  absl::Status Unpack(UnitId unit, std::vector<WireBuffer> fragments, Use use);
  // The weights that it has a part of go with it: drop all units of a stage.
  void Drop(UnitId unit);
  // Frees a weight's values although the graph of the backward pass still refers to the tensor, of
  // which shape and gradient stay.
  void Release(int weight);
  const at::Tensor& tensor(int weight) const { return tensors_[static_cast<size_t>(weight)]; }
  std::vector<at::Tensor> OfStage(size_t stage) const;

 private:
  absl::Status Check(UnitId unit, absl::Span<const WireBuffer> fragments) const;

  const Layout& layout_;
  const SlimMap& map_;
  const Placement placement_;
  std::vector<at::Tensor> tensors_;  // [weights]; undefined: not here
  std::vector<at::Tensor> filling_;  // [weights] on the CPU, while units are missing
  std::vector<size_t> missing_;      // [weights] units
  std::vector<bool> here_;           // [units]
};

// Collects final gradients into fragments and hands out each fragment when it is full. Threads:
// confined to one. Lifetime: as SlimWeights.
class GradientPacker {
 public:
  GradientPacker(const Layout& layout, const SlimMap& map, absl::Span<const HeldUnit> held,
                 WireType type, Exchange& exchange);

  // `gradient` is that of the weight, contiguous, of the packer's type, on any device. Once per
  // weight.
  void Pack(int weight, at::Tensor gradient);
  // Of a unit that no stage has read.
  void PackZeros(UnitId unit);
  // Internal, naming it - a held fragment was not handed out.
  absl::Status CheckAllHandedOut(const Catalog& catalog) const;

 private:
  struct Open {
    WireBuffer values;       // Allocated with its first place.
    size_t places_left = 0;  // 0: not held, or handed out.
  };
  const Layout& layout_;
  const SlimMap& map_;
  const WireType type_;
  Exchange& exchange_;
  std::vector<Open> fragments_;
};

}  // namespace sdp
