#include "common/model/norm_values.h"

#include <set>

#include "absl/strings/strip.h"

namespace sdp {

std::vector<NormSpec> NormsOf(const Catalog& catalog, const StageSpec& stage) {
  std::set<int> tensors;  // in the catalog's order, each once: several units may have parts of one
  for (const UnitId unit : stage.units) {
    for (const Slice& slice : catalog.unit(unit).slices) tensors.insert(slice.tensor);
  }
  std::vector<NormSpec> norms;
  for (const int index : tensors) {
    const TensorSpec& tensor = catalog.tensors[static_cast<size_t>(index)];
    if (tensor.initial.kind != InitialValues::Kind::kOnes) continue;  // as norms' weights alone
    norms.push_back({std::string(absl::StripSuffix(tensor.name, ".weight")), tensor.elements()});
  }
  return norms;
}

}  // namespace sdp
