#pragma once

#include <cstdint>
#include <deque>
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
// fragments, where the tensors are: a GPU gets and gives whole fragments. Weights and fragments
// have the same type, f32 or bf16, so a bf16 weight never exists in f32. A factor that is folded
// into a part of a weight (weight_map.h) is multiplied in as the part is copied, and so is its
// gradient's: with respect to w it is that with respect to w f, times f.
namespace sdp {

// The weights of the units that are here now, and what of them is trained. Threads: confined to
// one. Lifetime: layout and maps outlive it.
class SlimWeights {
 public:
  // `trained`: of those of the map's units that are trained; null: none is.
  SlimWeights(const Layout& layout, const SlimMap& map, const SlimMap* trained,
              const Placement& placement);

  bool Has(UnitId unit) const { return here_[static_cast<size_t>(unit.value())]; }
  // Copies the fragments of a unit's block, in order, and frees them. A weight is ready when all
  // units of the subnetwork that have a part of it are here; there is room for all of it from the
  // first on. Internal - wrong number, size or type. Precondition: the map has the unit.
  absl::Status Unpack(UnitId unit, std::vector<WireBuffer> fragments);
  // The weights that it has a part of go with it: drop all units of a stage.
  void Drop(UnitId unit);
  // Frees a weight's values although the graph of the backward pass still refers to the tensor, of
  // which shape and gradient stay.
  void Release(int weight);
  const at::Tensor& tensor(int weight) const { return tensors_[static_cast<size_t>(weight)]; }
  // The leaf that gets the gradient of what is trained of a weight, of the trained map's shape: the
  // weight itself, or that of its part. Undefined: nothing is, or the weight is not here.
  const at::Tensor& leaf(int weight) const;
  std::vector<at::Tensor> OfStage(size_t stage) const;
  std::vector<TrainedPart> PartsOfStage(size_t stage) const;

 private:
  absl::Status Check(UnitId unit, absl::Span<const WireBuffer> fragments) const;
  void SetTrained(int weight);

  const Layout& layout_;
  const SlimMap& map_;
  const SlimMap* const trained_;
  const Placement placement_;
  std::vector<at::Tensor> tensors_;  // [weights]; undefined: not here
  std::vector<TrainedPart> parts_;   // [weights]
  std::vector<at::Tensor> filling_;  // [weights] while units are missing
  std::vector<size_t> missing_;      // [weights] units
  std::vector<bool> here_;           // [units]
};

// Collects final gradients into fragments and hands out each fragment when it is full. Threads:
// confined to one. Lifetime: as SlimWeights.
class GradientPacker {
 public:
  // `map`: of the held units.
  GradientPacker(const Layout& layout, const SlimMap& map, absl::Span<const HeldUnit> held,
                 WireType type, Exchange& exchange);

  // `gradient` is that of the weight, as far as the map has it, contiguous, of the packer's type or
  // f32, on any device. Once per weight. What becomes full on a GPU is handed out in a later call,
  // when it has come; it waits for those before the last kMostPassing (common/plan/memory.h).
  void Pack(int weight, const at::Tensor& gradient);
  // Of a unit that no stage has read.
  void PackZeros(UnitId unit);
  // Waits for all that is on its way. Internal, naming it - a held fragment was not handed out.
  absl::Status Finish(const Catalog& catalog);

 private:
  struct Open {
    // One of them, allocated with its first place.
    WireBuffer values;
    at::Tensor on_gpu;
    size_t places_left = 0;  // 0: not held, or full.
  };
  struct Coming {
    FragmentId fragment;
    HostCopy values;
  };
  void PackPlace(const SlimMap::Place& place, const at::Tensor& gradient);
  void HandOut(FragmentId fragment);
  // Of those on their way, the first: waits for it.
  void HandOutComing();

  const Layout& layout_;
  const SlimMap& map_;
  const WireType type_;
  Exchange& exchange_;
  std::vector<Open> fragments_;
  std::deque<Coming> coming_;  // from a GPU
};

}  // namespace sdp
