#include "worker/model/slim_weights.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace sdp {
namespace {

size_t Index(FragmentId id) { return static_cast<size_t>(id.value()); }

size_t Bytes(int64_t elements, WireType type) {
  return static_cast<size_t>(elements * BytesPerElement(type));
}

// For each tensor the unit that has it; InvalidArgument if a unit has only a part, which block
// granularity never makes.
absl::StatusOr<std::vector<UnitId>> UnitOfTensor(const Catalog& catalog) {
  std::vector<UnitId> units(catalog.tensors.size());
  for (size_t unit = 0; unit < catalog.units.size(); ++unit) {
    for (const Slice& slice : catalog.units[unit].slices) {
      if (!slice.whole()) {
        return absl::InvalidArgumentError(
            absl::StrCat("unit ", catalog.units[unit].name, " has a part of tensor ",
                         catalog.tensors[static_cast<size_t>(slice.tensor)].name,
                         "; only whole tensors can be computed with"));
      }
      units[static_cast<size_t>(slice.tensor)] = UnitId(static_cast<int32_t>(unit));
    }
  }
  return units;
}

}  // namespace

absl::StatusOr<WeightMap> WeightMap::Make(const Catalog& catalog, const Layout& layout,
                                          const Network& network) {
  if (catalog.stages.size() != network.stages.size() + 1) {
    return absl::InvalidArgumentError(absl::StrCat("the catalog has ", catalog.stages.size(),
                                                   " stages, the network ",
                                                   network.stages.size() + 1));
  }
  WeightMap map;
  map.stages_.resize(catalog.stages.size());
  map.first_.resize(catalog.stages.size());
  map.units_.resize(catalog.units.size());
  map.weight_of_.assign(catalog.tensors.size(), -1);
  for (size_t stage = 0; stage < catalog.stages.size(); ++stage) {
    const bool last = stage == network.stages.size();
    for (const WeightNames& names :
         last ? network.loss->Weights() : network.stages[stage]->Weights()) {
      SDP_RETURN_IF_ERROR(Context(map.Add(catalog, stage, names),
                                  absl::StrCat("stage ", catalog.stages[stage].name)));
    }
  }
  SDP_RETURN_IF_ERROR(map.CheckComplete(catalog));
  map.FindSpent(network);
  SDP_ASSIGN_OR_RETURN(const std::vector<UnitId> unit_of, UnitOfTensor(catalog));
  std::vector<int64_t> offset_of(catalog.tensors.size());
  for (size_t w = 0; w < map.weights_.size(); ++w) {
    Weight& weight = map.weights_[w];
    weight.unit = unit_of[static_cast<size_t>(weight.parts.front().tensor)];
    map.units_[static_cast<size_t>(weight.unit.value())].push_back(static_cast<int>(w));
    for (const Part& part : weight.parts) {
      offset_of[static_cast<size_t>(part.tensor)] = part.offset;
      if (unit_of[static_cast<size_t>(part.tensor)] != weight.unit) {
        return absl::InvalidArgumentError("a weight stacks tensors of several units");
      }
    }
  }
  map.places_.resize(map.weights_.size());
  for (int id = 0; id < layout.fragments(); ++id) {
    for (const Piece& piece : layout.pieces(FragmentId(id))) {
      const auto tensor = static_cast<size_t>(piece.tensor);
      map.places_[static_cast<size_t>(map.weight_of_[tensor])].push_back(
          {FragmentId(id), piece.fragment_offset, offset_of[tensor] + piece.tensor_offset,
           piece.size});
    }
  }
  return map;
}

absl::Status WeightMap::Add(const Catalog& catalog, size_t stage, const WeightNames& names) {
  Weight weight;
  int64_t elements = 0;
  for (const std::string& name : names) {
    int tensor = 0;
    while (tensor < static_cast<int>(catalog.tensors.size()) &&
           catalog.tensors[static_cast<size_t>(tensor)].name != name) {
      ++tensor;
    }
    if (tensor == static_cast<int>(catalog.tensors.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("reads ", name, ", which the catalog does not have"));
    }
    const TensorSpec& spec = catalog.tensors[static_cast<size_t>(tensor)];
    if (weight.parts.empty()) {
      weight.shape = spec.shape;
    } else if (spec.shape.size() != weight.shape.size() ||
               !std::equal(spec.shape.begin() + 1, spec.shape.end(), weight.shape.begin() + 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("stacks tensors of different widths: ", absl::StrJoin(names, ", ")));
    } else {
      weight.shape[0] += spec.shape[0];
    }
    weight.parts.push_back({tensor, elements});
    elements += spec.elements();
  }
  // A tensor that an earlier stage reads too (a tied head): the same weight.
  const int known = weight_of_[static_cast<size_t>(weight.parts.front().tensor)];
  if (known >= 0) {
    if (weights_[static_cast<size_t>(known)].shape != weight.shape) {
      return absl::InvalidArgumentError(
          absl::StrCat("stacks ", absl::StrJoin(names, ", "), " unlike an earlier stage"));
    }
    stages_[stage].push_back(known);
    return absl::OkStatus();
  }
  const int index = static_cast<int>(weights_.size());
  for (const Part& part : weight.parts) weight_of_[static_cast<size_t>(part.tensor)] = index;
  weights_.push_back(std::move(weight));
  stages_[stage].push_back(index);
  first_[stage].push_back(index);
  return absl::OkStatus();
}

absl::Status WeightMap::CheckComplete(const Catalog& catalog) const {
  for (size_t tensor = 0; tensor < weight_of_.size(); ++tensor) {
    if (weight_of_[tensor] < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("no stage reads ", catalog.tensors[tensor].name));
    }
  }
  return absl::OkStatus();
}

void WeightMap::FindSpent(const Network& network) {
  std::vector<size_t> last(weights_.size());
  std::vector<bool> read_backward(weights_.size());
  for (size_t stage = 0; stage < stages_.size(); ++stage) {
    const bool backward = stage == network.stages.size()
                              ? network.loss->BackwardReadsWeights()
                              : network.stages[stage]->BackwardReadsWeights();
    for (const int weight : stages_[stage]) {
      last[static_cast<size_t>(weight)] = stage;
      if (backward) read_backward[static_cast<size_t>(weight)] = true;
    }
  }
  spent_.resize(stages_.size());
  for (size_t weight = 0; weight < weights_.size(); ++weight) {
    if (!read_backward[weight]) spent_[last[weight]].push_back(static_cast<int>(weight));
  }
}

SlimWeights::SlimWeights(const Layout& layout, const WeightMap& map, const Placement& placement)
    : layout_(layout),
      map_(map),
      placement_(placement),
      tensors_(map.weights().size()),
      here_(map.unit_count()) {}

absl::Status SlimWeights::Unpack(UnitId unit, std::vector<WireBuffer> fragments, Use use) {
  const std::vector<FragmentId>& block = layout_.block(unit);
  if (fragments.size() != block.size()) {
    return absl::InternalError(absl::StrCat("block ", unit.value(), " came in ", fragments.size(),
                                            " fragments, not ", block.size()));
  }
  for (size_t i = 0; i < block.size(); ++i) {
    if (fragments[i].size() != layout_.fragment(block[i]).size) {
      return absl::InternalError(absl::StrCat("fragment ", block[i].value(), " came with ",
                                              fragments[i].size(), " elements, not ",
                                              layout_.fragment(block[i]).size));
    }
    if (fragments[i].type() != placement_.type) {
      return absl::InternalError(absl::StrCat(
          "fragment ", block[i].value(), " came with ", BytesPerElement(fragments[i].type()),
          " bytes an element, not ", BytesPerElement(placement_.type)));
    }
  }
  for (const int weight : map_.unit(unit)) {
    at::Tensor host = StagingTensor(map_.weights()[static_cast<size_t>(weight)].shape,
                                    placement_.scalar_type(), placement_.device);
    char* data = static_cast<char*>(host.mutable_data_ptr());
    for (const WeightMap::Place& place : map_.places(weight)) {
      const size_t i = Index(place.fragment) - Index(block.front());
      std::memcpy(data + Bytes(place.weight_offset, placement_.type),
                  fragments[i].data() + Bytes(place.fragment_offset, placement_.type),
                  Bytes(place.size, placement_.type));
    }
    at::Tensor tensor = ToDevice(host, placement_.device);
    tensor.requires_grad_(use == Use::kTrain);
    tensors_[static_cast<size_t>(weight)] = std::move(tensor);
  }
  here_[static_cast<size_t>(unit.value())] = true;
  return absl::OkStatus();
}

void SlimWeights::Drop(UnitId unit) {
  for (const int weight : map_.unit(unit)) tensors_[static_cast<size_t>(weight)].reset();
  here_[static_cast<size_t>(unit.value())] = false;
}

void SlimWeights::Release(int weight) {
  const at::Tensor& tensor = tensors_[static_cast<size_t>(weight)];
  c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
  storage->set_data_ptr_noswap(c10::DataPtr(nullptr, tensor.device()));
  storage->set_nbytes(0);
}

std::vector<at::Tensor> SlimWeights::OfStage(size_t stage) const {
  std::vector<at::Tensor> tensors;
  for (const int weight : map_.stage(stage)) tensors.push_back(tensor(weight));
  return tensors;
}

GradientPacker::GradientPacker(const Layout& layout, const WeightMap& map,
                               absl::Span<const HeldUnit> held, WireType type, Exchange& exchange)
    : layout_(layout),
      map_(map),
      type_(type),
      exchange_(exchange),
      fragments_(static_cast<size_t>(layout.fragments())) {
  for (const HeldUnit& unit : held) {
    for (const FragmentId id : layout.block(unit.unit))
      fragments_[Index(id)].pieces_left = layout.pieces(id).size();
  }
}

void GradientPacker::Pack(int weight, const at::Tensor& gradient) {
  const at::Tensor host = ToHost(gradient);
  TORCH_CHECK(host.element_size() == BytesPerElement(type_) && host.is_contiguous(),
              "a gradient to pack: ", host.toString(), " ", host.sizes());
  const char* data = static_cast<const char*>(host.const_data_ptr());
  for (const WeightMap::Place& place : map_.places(weight)) {
    Open& fragment = fragments_[Index(place.fragment)];
    assert(fragment.pieces_left > 0);  // A weight that is here belongs to a held unit.
    if (fragment.values.empty())
      fragment.values = WireBuffer(type_, layout_.fragment(place.fragment).size);
    std::memcpy(fragment.values.data() + Bytes(place.fragment_offset, type_),
                data + Bytes(place.weight_offset, type_), Bytes(place.size, type_));
    if (--fragment.pieces_left == 0) exchange_.Gradient(place.fragment, std::move(fragment.values));
  }
}

absl::Status GradientPacker::CheckAllHandedOut(const Catalog& catalog) const {
  for (size_t id = 0; id < fragments_.size(); ++id) {
    if (fragments_[id].pieces_left > 0) {
      const Fragment& fragment = layout_.fragment(FragmentId(static_cast<int32_t>(id)));
      return absl::InternalError(absl::StrCat(
          "fragment ", id, " of held unit ", catalog.unit(fragment.unit).name, " got no gradient"));
    }
  }
  return absl::OkStatus();
}

}  // namespace sdp
