#include "common/model/image_mlp.h"

#include <cassert>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/model/catalog_builder.h"

// What a stage costs, per sample, as in worker/model/image_mlp.cc. A part of a layer costs its part
// of the line "neurons".
//              multiply-accumulates   elements stored for the backward pass
//   stem       inputs d               0
//   layer                             d      input
//     neurons  2 d f                  f      what ReLU makes of them
//   head       C d                    d      gradient of its input, made with the loss
namespace sdp {
namespace {

class Builder : public CatalogBuilder {
 public:
  explicit Builder(const ImageMlpSpec& spec) : CatalogBuilder("mlp"), spec_(spec) {}

  void AddStem() {
    const UnitId unit = AddUnit("stem", "stem");
    TakeBoth(unit, AddLinear("stem", spec_.inputs, spec_.dim, 1));
    AddCost(unit, spec_.inputs * spec_.dim, 0);
    AddStage("stem", {unit}, spec_.dim);
  }

  void AddLayer(int64_t layer) {
    const Layer t = AddLayerTensors(layer);
    const UnitId unit = AddUnit(t.name, "layer", layer);
    TakeBoth(unit, t.fc1);
    TakeBoth(unit, t.fc2);
    tensor(t.fc2.bias).ends_branch = true;
    AddCost(unit, 0, spec_.dim);
    AddNeuronsCost(unit, spec_.ffn_dim);
    AddStage(t.name, {unit}, spec_.dim);
  }

  void AddSplitLayer(int64_t layer, int64_t groups) {
    const Layer t = AddLayerTensors(layer);
    std::vector<UnitId> units;
    for (int64_t i = 0; i < groups; ++i) {
      const int64_t begin = spec_.ffn_dim * i / groups, end = spec_.ffn_dim * (i + 1) / groups;
      units.push_back(AddUnit(absl::StrCat(t.name, ".", i), "layer", layer));
      TakePart(units.back(), t.fc1.weight, kRows, begin, end);
      TakePart(units.back(), t.fc1.bias, kRows, begin, end);
      TakePart(units.back(), t.fc2.weight, kColumns, begin, end);
      AddNeuronsCost(units.back(), end - begin);
    }
    units.push_back(AddUnit(t.name + ".bias", "bias"));
    TakeWhole(units.back(), t.fc2.bias);
    AddCost(units.back(), 0, spec_.dim);
    AddStage(t.name, std::move(units), spec_.dim).shared_end = true;
  }

  void AddHead() {
    const UnitId unit = AddUnit("head", "head");
    TakeBoth(unit, AddLinear("head", spec_.dim, spec_.classes, 1));
    AddCost(unit, spec_.dim * spec_.classes, spec_.dim);
    AddStage("head", {unit}, 0);
  }

 private:
  static constexpr int kRows = 0, kColumns = 1;  // dimensions of a matrix [out, in]

  struct Linear {
    int weight, bias;
  };
  // `gain`: of the weights' variance, gain / in.
  Linear AddLinear(const std::string& name, int64_t in, int64_t out, double gain) {
    const double stddev = std::sqrt(gain / static_cast<double>(in));
    Linear linear;
    linear.weight =
        AddTensor({name + ".weight", {out, in}, {InitialValues::Kind::kNormal, stddev}});
    linear.bias = AddTensor({name + ".bias", {out}, {}, /*decay=*/false});
    return linear;
  }

  struct Layer {
    std::string name;
    Linear fc1 = {}, fc2 = {};
  };
  Layer AddLayerTensors(int64_t layer) {
    Layer t = {.name = absl::StrCat("layers.", layer)};
    t.fc1 = AddLinear(t.name + ".fc1", spec_.dim, spec_.ffn_dim, 2);
    // The sum of all branches then has about the scale of one.
    t.fc2 = AddLinear(t.name + ".fc2", spec_.ffn_dim, spec_.dim,
                      1.0 / static_cast<double>(spec_.layers));
    tensor(t.fc2.weight).ends_branch = true;
    return t;
  }

  void TakeBoth(UnitId unit, const Linear& linear) {
    TakeWhole(unit, linear.weight);
    TakeWhole(unit, linear.bias);
  }

  void AddNeuronsCost(UnitId unit, int64_t neurons) {
    AddCost(unit, 2 * spec_.dim * neurons, neurons);
  }

  const ImageMlpSpec& spec_;
};

}  // namespace

Catalog ImageMlpCatalog(const ImageMlpSpec& spec) {
  Builder builder(spec);
  builder.AddStem();
  for (int64_t layer = 0; layer < spec.layers; ++layer) builder.AddLayer(layer);
  builder.AddHead();
  return builder.Take();
}

Catalog ImageMlpNeuronCatalog(const ImageMlpSpec& spec, const NeuronUnits& units) {
  assert(CheckParts(spec, units).ok());
  Builder builder(spec);
  builder.AddStem();
  for (int64_t layer = 0; layer < spec.layers; ++layer) builder.AddSplitLayer(layer, units.groups);
  builder.AddHead();
  return builder.Take();
}

absl::Status CheckParts(const ImageMlpSpec& spec, const NeuronUnits& units) {
  if (units.groups >= 1 && units.groups <= spec.ffn_dim) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "sdp.groups = ", units.groups, ": must be in [1, model.ffn_dim = ", spec.ffn_dim, "]"));
}

PartsText PartsTextOf(const ImageMlpSpec&, const std::string& stage, const std::string&,
                      int64_t parts) {
  return {absl::StrCat("sdp.groups = ", parts, " of ", stage), "take more groups"};
}

}  // namespace sdp
