#include "worker/model/slim_weights.h"

#include <cassert>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sdp {
namespace {

size_t Index(FragmentId id) { return static_cast<size_t>(id.value()); }

size_t Bytes(int64_t elements, WireType type) {
  return static_cast<size_t>(elements * BytesPerElement(type));
}

// Calls copy(weight + a, fragment + b, bytes) for each run; both are bytes, const or not.
template <typename WeightByte, typename FragmentByte, typename CopyRun>
void ForEachRun(const SlimMap::Place& place, WireType type, WeightByte* weight,
                FragmentByte* fragment, const CopyRun& copy) {
  for (int64_t i = 0; i < place.count; ++i) {
    copy(weight + Bytes(place.weight_offset + i * place.stride, type),
         fragment + Bytes(place.fragment_offset + i * place.size, type), Bytes(place.size, type));
  }
}

// A weight with factors folded in is w f, and with respect to w its gradient is that with respect
// to w f, times f: both ways the same.
void Fold(const SlimMap& map, int weight, at::Tensor& tensor) {
  for (const SlimMap::Fold& fold : map.folds(weight))
    tensor.narrow(fold.dim, fold.begin, fold.size).mul_(fold.factor);
}

}  // namespace

SlimWeights::SlimWeights(const Layout& layout, const SlimMap& map, const Placement& placement)
    : layout_(layout),
      map_(map),
      placement_(placement),
      tensors_(map.map().weights().size()),
      filling_(tensors_.size()),
      here_(map.map().unit_count()) {
  for (size_t weight = 0; weight < tensors_.size(); ++weight)
    missing_.push_back(map.units(static_cast<int>(weight)).size());
}

absl::Status SlimWeights::Unpack(UnitId unit, std::vector<WireBuffer> fragments, Use use) {
  assert(map_.Has(unit));
  SDP_RETURN_IF_ERROR(Check(unit, fragments));
  for (const int weight : map_.map().unit(unit)) {
    at::Tensor& host = filling_[static_cast<size_t>(weight)];
    if (!host.defined())
      host = StagingTensor(map_.shape(weight), placement_.scalar_type(), placement_.device);
  }
  const size_t first = Index(layout_.block(unit).front());
  for (const SlimMap::Place& place : map_.places(unit)) {
    const at::Tensor& host = filling_[static_cast<size_t>(place.weight)];
    const WireBuffer& fragment = fragments[Index(place.fragment) - first];
    ForEachRun(place, placement_.type, static_cast<char*>(host.mutable_data_ptr()), fragment.data(),
               [](char* to, const char* from, size_t bytes) { std::memcpy(to, from, bytes); });
  }
  for (const int weight : map_.map().unit(unit)) {
    const auto index = static_cast<size_t>(weight);
    if (--missing_[index] > 0) continue;
    Fold(map_, weight, filling_[index]);
    at::Tensor tensor = ToDevice(filling_[index], placement_.device);
    filling_[index].reset();
    tensor.requires_grad_(use == Use::kTrain);
    tensors_[index] = std::move(tensor);
  }
  here_[static_cast<size_t>(unit.value())] = true;
  return absl::OkStatus();
}

absl::Status SlimWeights::Check(UnitId unit, absl::Span<const WireBuffer> fragments) const {
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
  return absl::OkStatus();
}

void SlimWeights::Drop(UnitId unit) {
  for (const int weight : map_.map().unit(unit)) {
    const auto index = static_cast<size_t>(weight);
    tensors_[index].reset();
    missing_[index] = map_.units(weight).size();
  }
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
  for (const int weight : map_.map().stage(stage)) tensors.push_back(tensor(weight));
  return tensors;
}

GradientPacker::GradientPacker(const Layout& layout, const SlimMap& map,
                               absl::Span<const HeldUnit> held, WireType type, Exchange& exchange)
    : layout_(layout),
      map_(map),
      type_(type),
      exchange_(exchange),
      fragments_(static_cast<size_t>(layout.fragments())) {
  for (const HeldUnit& unit : held) {
    for (const SlimMap::Place& place : map.places(unit.unit))
      ++fragments_[Index(place.fragment)].places_left;
  }
}

void GradientPacker::Pack(int weight, at::Tensor gradient) {
  Fold(map_, weight, gradient);
  const at::Tensor host = ToHost(gradient);
  TORCH_CHECK(host.element_size() == BytesPerElement(type_) && host.is_contiguous(),
              "a gradient to pack: ", host.toString(), " ", host.sizes());
  const char* const data = static_cast<const char*>(host.const_data_ptr());
  for (const UnitId unit : map_.units(weight)) {
    for (const SlimMap::Place& place : map_.places(unit)) {
      if (place.weight != weight) continue;
      Open& fragment = fragments_[Index(place.fragment)];
      assert(fragment.places_left > 0);  // A weight that is here belongs to held units.
      if (fragment.values.empty())
        fragment.values = WireBuffer(type_, layout_.fragment(place.fragment).size);
      ForEachRun(place, type_, data, fragment.values.data(),
                 [](const char* from, char* to, size_t bytes) { std::memcpy(to, from, bytes); });
      if (--fragment.places_left == 0)
        exchange_.Gradient(place.fragment, std::move(fragment.values));
    }
  }
}

void GradientPacker::PackZeros(UnitId unit) {
  for (const FragmentId id : layout_.block(unit)) {
    WireBuffer zeros(type_, layout_.fragment(id).size);
    std::memset(zeros.data(), 0, static_cast<size_t>(zeros.bytes()));
    fragments_[Index(id)].places_left = 0;
    exchange_.Gradient(id, std::move(zeros));
  }
}

absl::Status GradientPacker::CheckAllHandedOut(const Catalog& catalog) const {
  for (size_t id = 0; id < fragments_.size(); ++id) {
    if (fragments_[id].places_left > 0) {
      const Fragment& fragment = layout_.fragment(FragmentId(static_cast<int32_t>(id)));
      return absl::InternalError(absl::StrCat(
          "fragment ", id, " of held unit ", catalog.unit(fragment.unit).name, " got no gradient"));
    }
  }
  return absl::OkStatus();
}

}  // namespace sdp
