#include "common/model/image_mlp.h"

#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

// What a stage costs, per sample, as in worker/model/image_mlp.cc:
//           multiply-accumulates   elements stored for the backward pass
//   stem    inputs d               0
//   layer   2 d f                  d + f   input, and what ReLU makes of the hidden neurons
//   head    C d                    d       gradient of its input, made with the loss
namespace sdp {
namespace {

class Builder {
 public:
  Builder() { catalog_.arch = "mlp"; }

  // `layer` < 0: it belongs to none, and everybody holds it.
  UnitId AddUnit(std::string name, std::string kind, int64_t layer = -1) {
    UnitSpec unit;
    unit.name = std::move(name);
    unit.kind = std::move(kind);
    unit.shared = layer < 0;
    unit.layer = static_cast<int>(layer);
    catalog_.units.push_back(std::move(unit));
    return UnitId(static_cast<int32_t>(catalog_.units.size()) - 1);
  }

  // [out, in] and its bias. `gain`: of the weights' variance, gain / in.
  void AddLinear(UnitId unit, const std::string& name, int64_t in, int64_t out, double gain) {
    const double stddev = std::sqrt(gain / static_cast<double>(in));
    AddTensor(unit, {name + ".weight", {out, in}, {InitialValues::Kind::kNormal, stddev}});
    AddTensor(unit, {name + ".bias", {out}, {}, /*decay=*/false});
    Unit(unit).macs += in * out;
  }

  // The two tensors added last.
  void EndBranch() {
    for (size_t back = 1; back <= 2; ++back) {
      catalog_.tensors[catalog_.tensors.size() - back].ends_branch = true;
    }
  }

  void AddStage(UnitId unit, int64_t stored, int64_t boundary_elements) {
    Unit(unit).activation_elements = stored;
    catalog_.stages.push_back({Unit(unit).name, {unit}, boundary_elements});
  }

  Catalog Take() { return std::move(catalog_); }

 private:
  void AddTensor(UnitId id, TensorSpec tensor) {
    Slice slice;
    slice.tensor = static_cast<int>(catalog_.tensors.size());
    Unit(id).slices.push_back(slice);
    Unit(id).params += tensor.elements();
    catalog_.tensors.push_back(std::move(tensor));
  }

  UnitSpec& Unit(UnitId id) { return catalog_.units[static_cast<size_t>(id.value())]; }

  Catalog catalog_;
};

}  // namespace

Catalog ImageMlpCatalog(const ImageMlpSpec& spec) {
  const int64_t d = spec.dim, f = spec.ffn_dim;
  Builder builder;
  const UnitId stem = builder.AddUnit("stem", "stem");
  builder.AddLinear(stem, "stem", spec.inputs, d, 1);
  builder.AddStage(stem, 0, d);
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    const std::string name = absl::StrCat("layers.", layer);
    const UnitId unit = builder.AddUnit(name, "layer", layer);
    builder.AddLinear(unit, name + ".fc1", d, f, 2);
    // The sum of all branches then has about the scale of one.
    builder.AddLinear(unit, name + ".fc2", f, d, 1.0 / static_cast<double>(spec.layers));
    builder.EndBranch();
    builder.AddStage(unit, d + f, d);
  }
  const UnitId head = builder.AddUnit("head", "head");
  builder.AddLinear(head, "head", d, spec.classes, 1);
  builder.AddStage(head, d, 0);
  return builder.Take();
}

}  // namespace sdp
