#include "common/model/catalog_builder.h"

#include <utility>

namespace sdp {

UnitId CatalogBuilder::AddUnit(std::string name, std::string kind, int64_t layer) {
  UnitSpec unit;
  unit.name = std::move(name);
  unit.kind = std::move(kind);
  unit.shared = layer < 0;
  unit.layer = static_cast<int>(layer);
  catalog_.units.push_back(std::move(unit));
  return UnitId(static_cast<int32_t>(catalog_.units.size()) - 1);
}

int CatalogBuilder::AddTensor(TensorSpec tensor) {
  catalog_.tensors.push_back(std::move(tensor));
  return static_cast<int>(catalog_.tensors.size()) - 1;
}

void CatalogBuilder::TakeWhole(UnitId unit, int tensor) {
  Slice slice;
  slice.tensor = tensor;
  Take(unit, slice);
}

void CatalogBuilder::TakePart(UnitId unit, int tensor, int dim, int64_t begin, int64_t end) {
  Take(unit, {tensor, dim, begin, end});
}

void CatalogBuilder::Take(UnitId unit, const Slice& slice) {
  Unit(unit).slices.push_back(slice);
  Unit(unit).params += catalog_.elements(slice);
}

void CatalogBuilder::AddCost(UnitId unit, int64_t macs, int64_t activation_elements) {
  Unit(unit).macs += macs;
  Unit(unit).activation_elements += activation_elements;
}

StageSpec& CatalogBuilder::AddStage(std::string name, std::vector<UnitId> units,
                                    int64_t boundary_elements) {
  catalog_.stages.push_back({std::move(name), std::move(units), boundary_elements});
  return catalog_.stages.back();
}

}  // namespace sdp
