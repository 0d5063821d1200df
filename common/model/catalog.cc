#include "common/model/catalog.h"

namespace sdp {

int64_t TensorSpec::elements() const {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

int64_t Catalog::elements(const Slice& slice) const {
  const TensorSpec& tensor = tensors[static_cast<size_t>(slice.tensor)];
  if (slice.whole()) return tensor.elements();
  const int64_t size = tensor.shape[static_cast<size_t>(slice.dim)];
  return size == 0 ? 0 : tensor.elements() / size * (slice.end - slice.begin);
}

std::vector<int64_t> Catalog::HeldElements(absl::Span<const UnitId> units) const {
  std::vector<int64_t> held(tensors.size());
  for (const UnitId id : units) {
    for (const Slice& slice : unit(id).slices)
      held[static_cast<size_t>(slice.tensor)] += elements(slice);
  }
  return held;
}

int64_t Catalog::params() const {
  int64_t sum = 0;
  for (const UnitSpec& unit : units) sum += unit.params;
  return sum;
}

}  // namespace sdp
