#include "worker/model/slim_weights.h"

#include <cassert>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/allocated.h"
#include "common/base/status.h"
#include "common/plan/memory.h"
#include "worker/model/copy_runs.h"
#include "worker/model/kernels_cuda.h"

namespace sdp {
namespace {

size_t Index(FragmentId id) { return static_cast<size_t>(id.value()); }

// Numbers on some device, from element `offset` on.
struct Source {
  WireType type;
  const void* data;
  int64_t offset;
};
struct Target {
  WireType type;
  void* data;
  int64_t offset;
};

template <typename From, typename To>
void CopyTyped(const at::Device& device, const Source& from, const kernels::RunsShape& runs,
               float factor, const Target& to) {
  const From* const source = static_cast<const From*>(from.data) + from.offset;
  To* const target = static_cast<To*>(to.data) + to.offset;
  if constexpr (kernels::kCudaBuilt) {
    if (!device.is_cpu()) {
      return kernels::cuda::CopyRuns(source, runs, factor, target,
                                     kernels::cuda::CurrentStream(device.index()));
    }
  }
  kernels::CopyRuns(source, runs, factor, target);
}

// Both are on `device`.
void CopyRuns(const at::Device& device, const Source& from, const kernels::RunsShape& runs,
              double factor, const Target& to) {
  using kernels::Bf16;
  const auto copy = to.type == WireType::kF32     ? CopyTyped<float, float>
                    : from.type == WireType::kF32 ? CopyTyped<float, Bf16>
                                                  : CopyTyped<Bf16, Bf16>;
  copy(device, from, runs, static_cast<float>(factor), to);
}

// On a GPU: a fragment's numbers, so that what is computed from now on has them.
at::Tensor OnGpu(const WireBuffer& fragment, const Placement& placement) {
  const at::Tensor staged =
      StagingTensor({fragment.size()}, placement.scalar_type(), placement.device);
  std::memcpy(staged.mutable_data_ptr(), fragment.data(), static_cast<size_t>(fragment.bytes()));
  return ToDevice(staged, placement.device);
}

}  // namespace

SlimWeights::SlimWeights(const Layout& layout, const SlimMap& map, const SlimMap* trained,
                         const Placement& placement)
    : layout_(layout),
      map_(map),
      trained_(trained),
      placement_(placement),
      tensors_(map.map().weights().size()),
      parts_(tensors_.size()),
      filling_(tensors_.size()),
      here_(map.map().unit_count()) {
  for (size_t weight = 0; weight < tensors_.size(); ++weight)
    missing_.push_back(map.units(static_cast<int>(weight)).size());
}

absl::Status SlimWeights::Unpack(UnitId unit, std::vector<WireBuffer> fragments) {
  assert(map_.Has(unit));
  SDP_RETURN_IF_ERROR(Check(unit, fragments));
  const MemoryScope parameters(MemoryKind::kParameters);
  for (const int weight : map_.map().unit(unit)) {
    at::Tensor& tensor = filling_[static_cast<size_t>(weight)];
    if (!tensor.defined())
      tensor = at::empty(map_.shape(weight),
                         at::TensorOptions(placement_.device).dtype(placement_.scalar_type()));
  }
  const bool on_cpu = placement_.device.is_cpu();
  std::vector<at::Tensor> uploaded;
  for (const WireBuffer& fragment : fragments) {
    if (!on_cpu) uploaded.push_back(OnGpu(fragment, placement_));
  }
  const size_t first = Index(layout_.block(unit).front());
  for (const SlimMap::Place& place : map_.places(unit)) {
    const size_t index = Index(place.fragment) - first;
    const void* const from = on_cpu ? fragments[index].data() : uploaded[index].const_data_ptr();
    void* const to = filling_[static_cast<size_t>(place.weight)].mutable_data_ptr();
    CopyRuns(placement_.device, {placement_.type, from, place.fragment_offset},
             {place.size, place.count, place.size, place.stride}, place.factor,
             {placement_.type, to, place.weight_offset});
  }
  // A GPU that is behind would have the copies of many units: here they go before the next come.
  if (!uploaded.empty()) AwaitComputed(placement_.device);
  for (const int weight : map_.map().unit(unit)) {
    const auto index = static_cast<size_t>(weight);
    if (--missing_[index] > 0) continue;
    tensors_[index] = std::exchange(filling_[index], at::Tensor());
    if (trained_ != nullptr) SetTrained(weight);
  }
  here_[static_cast<size_t>(unit.value())] = true;
  return absl::OkStatus();
}

void SlimWeights::SetTrained(int weight) {
  const size_t trained = trained_->units(weight).size();
  at::Tensor& tensor = tensors_[static_cast<size_t>(weight)];
  if (trained == map_.units(weight).size()) tensor.requires_grad_();
  if (trained == 0 || tensor.requires_grad()) return;
  TrainedPart& part = parts_[static_cast<size_t>(weight)];
  part.leaf = at::empty({1}, tensor.options()).expand(trained_->shape(weight)).detach();
  part.leaf.requires_grad_();
  part.ranges.clear();
  for (const SlimMap::Part& its : map_.parts(weight)) {
    if (!trained_->Has(its.unit)) continue;
    if (!part.ranges.empty() && part.ranges.rbegin()[1] + part.ranges.back() == its.begin) {
      part.ranges.back() += its.size;
    } else {
      part.ranges.insert(part.ranges.end(), {its.begin, its.size});
    }
  }
}

const at::Tensor& SlimWeights::leaf(int weight) const {
  const at::Tensor& whole = tensor(weight);
  return whole.defined() && whole.requires_grad() ? whole
                                                  : parts_[static_cast<size_t>(weight)].leaf;
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

std::vector<TrainedPart> SlimWeights::PartsOfStage(size_t stage) const {
  std::vector<TrainedPart> parts;
  for (const int weight : map_.map().stage(stage))
    parts.push_back(parts_[static_cast<size_t>(weight)]);
  return parts;
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

void GradientPacker::Pack(int weight, const at::Tensor& gradient) {
  TORCH_CHECK(gradient.is_contiguous() &&
                  (gradient.scalar_type() == at::kFloat ||
                   (gradient.scalar_type() == at::kBFloat16 && type_ == WireType::kBf16)),
              "a gradient to pack: ", gradient.toString(), " ", gradient.sizes());
  for (const UnitId unit : map_.units(weight)) {
    for (const SlimMap::Place& place : map_.places(unit)) {
      if (place.weight == weight) PackPlace(place, gradient);
    }
  }
  while (!coming_.empty() && (coming_.front().values.here() || coming_.size() > kMostPassing))
    HandOutComing();
}

void GradientPacker::PackPlace(const SlimMap::Place& place, const at::Tensor& gradient) {
  Open& fragment = fragments_[Index(place.fragment)];
  assert(fragment.places_left > 0);  // A weight that is here belongs to held units.
  const int64_t size = layout_.fragment(place.fragment).size;
  const bool on_cpu = gradient.is_cpu();
  if (on_cpu && fragment.values.empty()) fragment.values = WireBuffer(type_, size);
  if (!on_cpu && !fragment.on_gpu.defined()) {
    fragment.on_gpu = at::empty(
        {size}, gradient.options().dtype(type_ == WireType::kF32 ? at::kFloat : at::kBFloat16));
  }
  const WireType type = gradient.scalar_type() == at::kFloat ? WireType::kF32 : WireType::kBf16;
  void* const to = on_cpu ? fragment.values.data() : fragment.on_gpu.mutable_data_ptr();
  CopyRuns(gradient.device(), {type, gradient.const_data_ptr(), place.weight_offset},
           {place.size, place.count, place.stride, place.size}, place.factor,
           {type_, to, place.fragment_offset});
  if (--fragment.places_left == 0) HandOut(place.fragment);
}

void GradientPacker::HandOut(FragmentId id) {
  Open& fragment = fragments_[Index(id)];
  if (fragment.on_gpu.defined()) {
    coming_.push_back({id, HostCopy(fragment.on_gpu)});
    fragment.on_gpu.reset();
  } else {
    exchange_.Gradient(id, std::move(fragment.values));
  }
}

void GradientPacker::HandOutComing() {
  const FragmentId id = coming_.front().fragment;
  const at::Tensor& host = coming_.front().values.Await();
  WireBuffer values(type_, layout_.fragment(id).size);
  std::memcpy(values.data(), host.const_data_ptr(), static_cast<size_t>(values.bytes()));
  coming_.pop_front();
  exchange_.Gradient(id, std::move(values));
}

void GradientPacker::PackZeros(UnitId unit) {
  for (const FragmentId id : layout_.block(unit)) {
    WireBuffer zeros(type_, layout_.fragment(id).size);
    std::memset(zeros.data(), 0, static_cast<size_t>(zeros.bytes()));
    fragments_[Index(id)].places_left = 0;
    exchange_.Gradient(id, std::move(zeros));
  }
}

absl::Status GradientPacker::Finish(const Catalog& catalog) {
  while (!coming_.empty()) HandOutComing();
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
