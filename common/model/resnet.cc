#include "common/model/resnet.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/model/catalog_builder.h"

// What a stage costs, per sample: multiply-accumulates and what it stores. c: channels of its
// output, s x s their size, b: channels of its input; G: norm_groups; a = c s^2 the elements of an
// activation; n: inner channels of a block's part, of c. As worker/model/resnet.cc computes:
//
//                  products               elements stored for the backward pass
//   stem           k^2 b c s^2            post: a + 2 G   input of the norm, mean and 1 / std
//                                               a         output, for ReLU's gradient
//                                         pre:  0         (of a maximum: Pooling() below)
//   block, branch                         post: a + 2 G   output of the second convolution, and its
//                                                         norm's mean and 1 / std
//                                               a         output; with a projection that unit's
//                                         pre:  b's a     input; with a projection that unit's
//     channels     9 (b + c) n s^2        n s^2           output of the first convolution
//   block, shortcut  b c s^2              post: a + 2 G   output of the projection; as above
//                                               a         output
//                                         pre:  b's a     input
//   head           C c                    c               gradient of the pooled activation
//                                         pre: + a        input
//
// Normed activations and what ReLU makes of them are not stored but made anew. The input of a post
// stage is the output that the stage before it stores. Of a branch in parts the lines without
// products belong to its shared norm.

namespace sdp {
namespace {

int64_t Halved(int64_t size) { return (size - 1) / 2 + 1; }

class Builder : public CatalogBuilder {
 public:
  // `groups` 0: whole branches.
  Builder(const ResnetSpec& spec, int64_t groups)
      : CatalogBuilder("resnet"),
        spec_(spec),
        groups_(groups),
        post_(spec.order == ResnetSpec::Order::kPost) {}

  void AddStem() {
    const UnitId unit = AddUnit("stem", "stem");
    const bool pooled = spec_.stem == ResnetSpec::Stem::kImagenet;
    const int64_t width = spec_.widths.front(), kernel = pooled ? 7 : 3;
    const int64_t size = pooled ? Halved(spec_.image_size) : spec_.image_size;
    const int64_t output = width * spec_.stem_size() * spec_.stem_size();
    TakeWhole(unit, AddConv("conv1.weight", spec_.channels, width, kernel));
    if (post_) TakeNorm(unit, AddNorm("bn1", width));
    AddCost(unit, spec_.channels * width * kernel * kernel * size * size,
            post_ ? width * size * size + Statistics() + output : 0);
    if (pooled) AddCost(unit, 0, Pooling(width * size * size, output));
    AddStage("stem", {unit}, output);
    width_ = width;
    size_ = spec_.stem_size();
  }

  void AddBlock(size_t level, int64_t index) {
    Block block = {.name = absl::StrCat("layer", level + 1, ".", index),
                   .layer = layer_++,
                   .projected = level > 0 && index == 0,
                   .in = width_,
                   .width = spec_.widths[level],
                   .size = spec_.level_size(level),
                   .input = width_ * size_ * size_};
    std::vector<UnitId> units;
    if (block.projected) units.push_back(AddProjection(block));
    AddBranchTensors(block);
    if (groups_ == 0) {
      units.push_back(AddBranch(block));
    } else {
      AddParts(block, units);
    }
    StageSpec& stage = AddStage(block.name, std::move(units), block.output());
    stage.has_shortcut = block.projected;
    stage.shared_end = post_ && groups_ > 0;
    width_ = block.width;
    size_ = block.size;
  }

  void AddHead() {
    const UnitId unit = AddUnit("head", "head");
    if (!post_) TakeNorm(unit, AddNorm("bn", width_));
    // The variance of torch's default for linear layers.
    const double stddev = 1 / std::sqrt(3.0 * static_cast<double>(width_));
    TakeWhole(
        unit,
        AddTensor({"fc.weight", {spec_.classes, width_}, {InitialValues::Kind::kNormal, stddev}}));
    TakeWhole(unit, AddTensor({"fc.bias", {spec_.classes}, {}, /*decay=*/false}));
    AddCost(unit, spec_.classes * width_, width_ + (post_ ? 0 : width_ * size_ * size_));
    AddStage("head", {unit}, 0);
  }

 private:
  // A block: its convolutions go from `in` to `width` channels and from `width` to `width`.
  struct Block {
    std::string name;
    int64_t layer;
    bool projected;
    int64_t in, width;
    int64_t size;   // of its output
    int64_t input;  // elements
    // Tensors. A norm is its weight, which its bias follows.
    int conv1 = -1, inner_norm = -1, conv2 = -1;
    int outer_norm = -1;  // of the residual width: of the branch's end, with kPre of its begin

    int64_t output() const { return width * size * size; }
  };

  UnitId AddProjection(const Block& b) {
    const UnitId unit = AddUnit(b.name + ".downsample", "downsample");
    TakeWhole(unit, AddConv(b.name + ".downsample.0.weight", b.in, b.width, 1));
    if (post_) TakeNorm(unit, AddNorm(b.name + ".downsample.1", b.width));
    AddCost(unit, b.in * b.output(), post_ ? 2 * b.output() + Statistics() : b.input);
    return unit;
  }

  void AddBranchTensors(Block& b) {
    if (!post_) b.outer_norm = AddNorm(b.name + ".bn1", b.in);
    b.conv1 = AddConv(b.name + ".conv1.weight", b.in, b.width, 3);
    b.inner_norm = AddNorm(b.name + (post_ ? ".bn1" : ".bn2"), b.width);
    b.conv2 = AddConv(b.name + ".conv2.weight", b.width, b.width, 3);
    if (post_) b.outer_norm = AddNorm(b.name + ".bn2", b.width);
    const bool norm_ends = post_ && groups_ == 0;
    tensor(b.conv2).ends_branch = !norm_ends;
    for (const int part : {0, 1}) tensor(b.outer_norm + part).ends_branch = norm_ends;
  }

  UnitId AddBranch(const Block& b) {
    const UnitId unit = AddUnit(b.name, "block", b.layer);
    if (!post_) TakeNorm(unit, b.outer_norm);
    TakeWhole(unit, b.conv1);
    TakeNorm(unit, b.inner_norm);
    TakeWhole(unit, b.conv2);
    if (post_) TakeNorm(unit, b.outer_norm);
    AddCost(unit, 0, StoredAround(b));
    AddChannelsCost(unit, b, b.width);
    return unit;
  }

  void AddParts(const Block& b, std::vector<UnitId>& units) {
    const int64_t whole = spec_.norm_groups > 0 ? spec_.norm_groups : b.width;
    for (int64_t i = 0; i < groups_; ++i) {
      const int64_t begin = b.width / whole * (whole * i / groups_);
      const int64_t end = b.width / whole * (whole * (i + 1) / groups_);
      const UnitId unit = AddUnit(absl::StrCat(b.name, ".", i), "block", b.layer);
      TakePart(unit, b.conv1, kOut, begin, end);
      TakePart(unit, b.inner_norm, kOut, begin, end);
      TakePart(unit, b.inner_norm + 1, kOut, begin, end);
      TakePart(unit, b.conv2, kIn, begin, end);
      AddChannelsCost(unit, b, end - begin);
      units.push_back(unit);
    }
    const UnitId norm = AddUnit(b.name + ".norm", "norm");
    TakeNorm(norm, b.outer_norm);
    AddCost(norm, 0, StoredAround(b));
    units.push_back(norm);
  }

  // By a branch beside what its inner channels store.
  int64_t StoredAround(const Block& b) const {
    if (!post_) return b.projected ? 0 : b.input;
    return (b.projected ? 1 : 2) * b.output() + Statistics();
  }
  void AddChannelsCost(UnitId unit, const Block& b, int64_t channels) {
    const int64_t positions = b.size * b.size;
    AddCost(unit, 9 * (b.in + b.width) * channels * positions, channels * positions);
  }

  // [out, in, kernel, kernel]; He's initial values, by the outputs.
  static constexpr int kOut = 0, kIn = 1;
  int AddConv(std::string name, int64_t in, int64_t out, int64_t kernel) {
    const double stddev = std::sqrt(2.0 / static_cast<double>(kernel * kernel * out));
    return AddTensor(
        {std::move(name), {out, in, kernel, kernel}, {InitialValues::Kind::kNormal, stddev}});
  }

  // Its weight; its bias is the next tensor.
  int AddNorm(const std::string& name, int64_t width) {
    const int weight =
        AddTensor({name + ".weight", {width}, {InitialValues::Kind::kOnes, 0}, /*decay=*/false});
    AddTensor({name + ".bias", {width}, {}, /*decay=*/false});
    return weight;
  }
  void TakeNorm(UnitId unit, int weight) {
    TakeWhole(unit, weight);
    TakeWhole(unit, weight + 1);
  }

  // Of one norm: mean and 1 / std of each group. BatchNorm has a few for the whole batch.
  int64_t Statistics() const { return 2 * spec_.norm_groups; }

  // Of the maximum, where each output came from, as 64 bits. Without a norm also its input.
  int64_t Pooling(int64_t input, int64_t output) const { return 2 * output + (post_ ? 0 : input); }

  const ResnetSpec& spec_;
  const int64_t groups_;
  const bool post_;
  int64_t width_ = 0;  // of the activation that the next stage gets
  int64_t size_ = 0;
  int layer_ = 0;  // blocks so far, of all levels
};

Catalog Build(const ResnetSpec& spec, int64_t groups) {
  Builder builder(spec, groups);
  builder.AddStem();
  for (size_t level = 0; level < spec.widths.size(); ++level) {
    for (int64_t index = 0; index < spec.depths[level]; ++index) builder.AddBlock(level, index);
  }
  builder.AddHead();
  return builder.Take();
}

// Of every block, and what says so: BatchNorm has no groups that must stay whole.
int64_t MostParts(const ResnetSpec& spec) {
  return spec.norm_groups > 0 ? spec.norm_groups
                              : *std::min_element(spec.widths.begin(), spec.widths.end());
}
std::string MostPartsText(const ResnetSpec& spec) {
  return absl::StrCat(spec.norm_groups > 0 ? "model.norm_groups = " : "the least of model.widths, ",
                      MostParts(spec));
}

}  // namespace

int64_t ResnetSpec::stem_size() const {
  return stem == Stem::kCifar ? image_size : Halved(Halved(image_size));
}

int64_t ResnetSpec::level_size(size_t level) const {
  int64_t size = stem_size();
  for (size_t i = 0; i < level; ++i) size = Halved(size);
  return size;
}

Catalog ResnetCatalog(const ResnetSpec& spec) { return Build(spec, 0); }

Catalog ResnetNeuronCatalog(const ResnetSpec& spec, const NeuronUnits& units) {
  assert(CheckParts(spec, units).ok());
  return Build(spec, units.groups);
}

absl::Status CheckParts(const ResnetSpec& spec, const NeuronUnits& units) {
  if (units.groups >= 1 && units.groups <= MostParts(spec)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("sdp.groups = ", units.groups, ": must be in [1, ", MostPartsText(spec), "]"));
}

PartsText PartsTextOf(const ResnetSpec& spec, const std::string& stage, const std::string&,
                      int64_t parts) {
  return {absl::StrCat("sdp.groups = ", parts, " of ", stage),
          absl::StrCat("take more groups, up to ", MostPartsText(spec))};
}

}  // namespace sdp
