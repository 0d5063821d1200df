#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/model/catalog.h"

namespace sdp {

// Puts a catalog together: the part that all architectures have in common. Threads: confined to
// one.   Errors: none; a wrong order of calls is a bug.
class CatalogBuilder {
 public:
  explicit CatalogBuilder(std::string arch) { catalog_.arch = std::move(arch); }

  // `layer` < 0: it belongs to none, and everybody holds it.
  UnitId AddUnit(std::string name, std::string kind, int64_t layer = -1);
  // Its index.
  int AddTensor(TensorSpec tensor);
  TensorSpec& tensor(int index) { return catalog_.tensors[static_cast<size_t>(index)]; }
  // A unit's block grows by a tensor, or by indices [begin, end) of one along `dim`.
  void TakeWhole(UnitId unit, int tensor);
  void TakePart(UnitId unit, int tensor, int dim, int64_t begin, int64_t end);
  // Per sample.
  void AddCost(UnitId unit, int64_t macs, int64_t activation_elements);
  StageSpec& AddStage(std::string name, std::vector<UnitId> units, int64_t boundary_elements);

  Catalog Take() { return std::move(catalog_); }

 private:
  UnitSpec& Unit(UnitId id) { return catalog_.units[static_cast<size_t>(id.value())]; }
  void Take(UnitId unit, const Slice& slice);

  Catalog catalog_;
};

}  // namespace sdp
