#include "common/model/resnet.h"

#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

// What a stage costs, per sample: multiply-accumulates and what it stores. c: channels of its
// output, s x s their size, b: channels of its input; G: norm_groups; a = c s^2 the elements of an
// activation. As worker/model/resnet.cc computes:
//
//                  products               elements stored for the backward pass
//   stem           k^2 b c s^2            post: a + 2 G   input of the norm, mean and 1 / std
//                                               a         output, for ReLU's gradient
//                                         pre:  0         (of a maximum: Pooling() below)
//   block, branch  9 b c s^2 + 9 c^2 s^2  post: 2 a       outputs of the convolutions
//                                               2 G       mean and 1 / std of the second norm
//                                               a         output; with a projection that unit's
//                                         pre:  b's a + a input, output of the first convolution
//   block, shortcut  b c s^2              post: a + 2 G   output of the projection; as above
//                                               a         output
//                                         pre:  b's a     input
//   head           C c                    c               gradient of the pooled activation
//                                         pre: + a        input
//
// Normed activations and what ReLU makes of them are not stored but made anew. The input of a post
// stage is the output that the stage before it stores.

namespace sdp {
namespace {

int64_t Halved(int64_t size) { return (size - 1) / 2 + 1; }

class Builder {
 public:
  explicit Builder(const ResnetSpec& spec)
      : spec_(spec), post_(spec.order == ResnetSpec::Order::kPost) {
    catalog_.arch = "resnet";
  }

  void AddStem() {
    const UnitId unit = AddUnit("stem", "stem");
    const bool pooled = spec_.stem == ResnetSpec::Stem::kImagenet;
    const int64_t width = spec_.widths.front(), kernel = pooled ? 7 : 3;
    const int64_t size = pooled ? Halved(spec_.image_size) : spec_.image_size;
    const int64_t output = width * spec_.stem_size() * spec_.stem_size();
    AddConv(unit, "conv1.weight", spec_.channels, width, kernel, size);
    if (post_) AddNorm(unit, "bn1", width);
    AddStored(unit, post_ ? width * size * size + Statistics() + output : 0);
    if (pooled) AddStored(unit, Pooling(width * size * size, output));
    AddStage("stem", {unit}, output);
    width_ = width;
    size_ = spec_.stem_size();
  }

  void AddBlock(size_t level, int64_t index) {
    const std::string name = absl::StrCat("layer", level + 1, ".", index);
    const int64_t width = spec_.widths[level], size = spec_.level_size(level);
    const int64_t input = width_ * size_ * size_, output = width * size * size;
    const bool projected = level > 0 && index == 0;
    std::vector<UnitId> units;
    if (projected) {
      units.push_back(AddUnit(name + ".downsample", "downsample"));
      AddConv(units[0], name + ".downsample.0.weight", width_, width, 1, size);
      if (post_) AddNorm(units[0], name + ".downsample.1", width);
      AddStored(units[0], post_ ? 2 * output + Statistics() : input);
    }
    const UnitId unit = AddUnit(name, "block", layer_++);
    units.push_back(unit);
    if (!post_) AddNorm(unit, name + ".bn1", width_);
    AddConv(unit, name + ".conv1.weight", width_, width, 3, size);
    AddNorm(unit, name + (post_ ? ".bn1" : ".bn2"), width);
    AddConv(unit, name + ".conv2.weight", width, width, 3, size);
    if (!post_) catalog_.tensors.back().ends_branch = true;
    if (post_) {
      AddNorm(unit, name + ".bn2", width);
      for (size_t back = 1; back <= 2; ++back) {  // Its weight and its bias.
        catalog_.tensors[catalog_.tensors.size() - back].ends_branch = true;
      }
      AddStored(unit, 2 * output + Statistics() + (projected ? 0 : output));
    } else {
      AddStored(unit, output + (projected ? 0 : input));
    }
    AddStage(name, std::move(units), output);
    catalog_.stages.back().has_shortcut = projected;
    width_ = width;
    size_ = size;
  }

  void AddHead() {
    const UnitId unit = AddUnit("head", "head");
    if (!post_) AddNorm(unit, "bn", width_);
    // The variance of torch's default for linear layers.
    AddTensor(unit,
              {"fc.weight",
               {spec_.classes, width_},
               {InitialValues::Kind::kNormal, 1 / std::sqrt(3.0 * static_cast<double>(width_))}});
    AddTensor(unit, {"fc.bias", {spec_.classes}, {}, /*decay=*/false});
    Unit(unit).macs += spec_.classes * width_;
    AddStored(unit, width_ + (post_ ? 0 : width_ * size_ * size_));
    AddStage("head", {unit}, 0);
  }

  Catalog Take() { return std::move(catalog_); }

 private:
  // `layer` < 0: it belongs to none, and everybody holds it.
  UnitId AddUnit(std::string name, std::string kind, int layer = -1) {
    UnitSpec unit;
    unit.name = std::move(name);
    unit.kind = std::move(kind);
    unit.shared = layer < 0;
    unit.layer = layer;
    catalog_.units.push_back(std::move(unit));
    return UnitId(static_cast<int32_t>(catalog_.units.size()) - 1);
  }

  // [out, in, kernel, kernel]; He's initial values, by the outputs. `size`: of the output.
  void AddConv(UnitId unit, std::string name, int64_t in, int64_t out, int64_t kernel,
               int64_t size) {
    const double stddev = std::sqrt(2.0 / static_cast<double>(kernel * kernel * out));
    AddTensor(unit,
              {std::move(name), {out, in, kernel, kernel}, {InitialValues::Kind::kNormal, stddev}});
    Unit(unit).macs += out * in * kernel * kernel * size * size;
  }

  void AddNorm(UnitId unit, const std::string& name, int64_t width) {
    AddTensor(unit, {name + ".weight", {width}, {InitialValues::Kind::kOnes, 0}, /*decay=*/false});
    AddTensor(unit, {name + ".bias", {width}, {}, /*decay=*/false});
  }

  void AddTensor(UnitId id, TensorSpec tensor) {
    Slice slice;
    slice.tensor = static_cast<int>(catalog_.tensors.size());
    Unit(id).slices.push_back(slice);
    Unit(id).params += tensor.elements();
    catalog_.tensors.push_back(std::move(tensor));
  }

  // Of one norm: mean and 1 / std of each group. BatchNorm has a few for the whole batch.
  int64_t Statistics() const { return 2 * spec_.norm_groups; }

  // Of the maximum, where each output came from, as 64 bits. Without a norm also its input.
  int64_t Pooling(int64_t input, int64_t output) const { return 2 * output + (post_ ? 0 : input); }

  void AddStored(UnitId id, int64_t elements) { Unit(id).activation_elements += elements; }

  void AddStage(std::string name, std::vector<UnitId> units, int64_t boundary_elements) {
    catalog_.stages.push_back({std::move(name), std::move(units), boundary_elements});
  }

  UnitSpec& Unit(UnitId id) { return catalog_.units[static_cast<size_t>(id.value())]; }

  const ResnetSpec& spec_;
  const bool post_;
  int64_t width_ = 0;  // of the activation that the next stage gets
  int64_t size_ = 0;
  int layer_ = 0;  // blocks so far, of all levels
  Catalog catalog_;
};

}  // namespace

int64_t ResnetSpec::stem_size() const {
  return stem == Stem::kCifar ? image_size : Halved(Halved(image_size));
}

int64_t ResnetSpec::level_size(size_t level) const {
  int64_t size = stem_size();
  for (size_t i = 0; i < level; ++i) size = Halved(size);
  return size;
}

Catalog ResnetCatalog(const ResnetSpec& spec) {
  Builder builder(spec);
  builder.AddStem();
  for (size_t level = 0; level < spec.widths.size(); ++level) {
    for (int64_t index = 0; index < spec.depths[level]; ++index) builder.AddBlock(level, index);
  }
  builder.AddHead();
  return builder.Take();
}

}  // namespace sdp
