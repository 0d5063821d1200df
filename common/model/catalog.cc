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

namespace {

// The unit that a stage's input is counted with: one that is always there, if there is one.
UnitId KeeperOf(const Catalog& catalog, const StageSpec& stage) {
  for (const UnitId id : stage.units) {
    if (catalog.unit(id).shared) return id;
  }
  return stage.units.front();
}

}  // namespace

Catalog Recomputed(Catalog catalog) {
  const auto unit = [&](UnitId id) -> UnitSpec& {
    return catalog.units[static_cast<size_t>(id.value())];
  };
  std::vector<int64_t> stored(catalog.units.size());  // from now on
  std::vector<bool> once(catalog.units.size());       // read by a stage that is not recomputed
  int64_t input = 0;                                  // the first stage's is the batch
  for (StageSpec& stage : catalog.stages) {
    int64_t before = 0;
    for (const UnitId id : stage.units) before += unit(id).activation_elements;
    stage.recomputed = stage.boundary_elements > 0 && before > input;
    for (const UnitId id : stage.units) {
      if (!stage.recomputed) once[static_cast<size_t>(id.value())] = true;
    }
    if (stage.recomputed) stored[static_cast<size_t>(KeeperOf(catalog, stage).value())] += input;
    input = stage.boundary_elements;
  }
  for (size_t i = 0; i < catalog.units.size(); ++i) {
    if (once[i]) continue;
    catalog.units[i].activation_elements = stored[i];
    catalog.units[i].recomputed_macs = catalog.units[i].macs;
  }
  return catalog;
}

}  // namespace sdp
