#include "common/model/norm_values.h"

#include "absl/strings/strip.h"

namespace sdp {

std::vector<NormSpec> NormsOf(const Catalog& catalog, const StageSpec& stage) {
  std::vector<NormSpec> norms;
  for (const UnitId unit : stage.units) {
    for (const Slice& slice : catalog.unit(unit).slices) {
      const TensorSpec& tensor = catalog.tensors[static_cast<size_t>(slice.tensor)];
      if (tensor.initial.kind != InitialValues::Kind::kOnes) continue;  // as norms' weights alone
      norms.push_back({std::string(absl::StripSuffix(tensor.name, ".weight")), tensor.elements()});
    }
  }
  return norms;
}

}  // namespace sdp
