#pragma once

#include <cstring>
#include <ostream>
#include <string>
#include <variant>
#include <vector>

#include "common/model/architectures.h"
#include "tests/worker_model/model_case.h"
#include "tests/worker_model/naive_images.h"
#include "tests/worker_model/naive_swin.h"
#include "worker/data/image_dataset.h"

namespace sdp {

// Random images, the same for the same seed; in epoch e all pixels are e / 8 larger.
class RandomImages : public ImageDataset {
 public:
  RandomImages(int64_t samples, Shape shape, int64_t classes, uint64_t seed)
      : shape_(shape), classes_(classes) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
    pixels_ =
        at::randn({samples, shape.channels, shape.height, shape.width}, generator, at::kFloat);
    labels_ = at::randint(classes, {samples}, generator, at::kLong);
  }
  int64_t samples() const override { return pixels_.size(0); }
  uint64_t checksum() const override { return 0; }
  Shape shape() const override { return shape_; }
  int64_t classes() const override { return classes_; }
  absl::StatusOr<int64_t> Read(int64_t sample, int64_t epoch,
                               absl::Span<float> pixels) const override {
    const at::Tensor image = pixels_[sample] + static_cast<float>(epoch) / 8;
    std::memcpy(pixels.data(), image.const_data_ptr<float>(), pixels.size() * sizeof(float));
    return labels_[sample].item<int64_t>();
  }

  at::Tensor Images(const std::vector<int64_t>& samples) const {
    return pixels_.index_select(0, at::tensor(samples));
  }
  at::Tensor Labels(const std::vector<int64_t>& samples) const {
    return labels_.index_select(0, at::tensor(samples));
  }

 private:
  const Shape shape_;
  const int64_t classes_;
  at::Tensor pixels_, labels_;
};

// A small image model with odd sizes.
struct ImageCase : ModelCase {
  static constexpr int64_t kSize = 11, kClasses = 7, kSamples = 16;

  // Two levels of two blocks: three with the identity as shortcut, one with a projection.
  static ResnetSpec Resnet(ResnetSpec::Order order,
                           ResnetSpec::Stem stem = ResnetSpec::Stem::kCifar) {
    ResnetSpec spec;
    spec.widths = {8, 12};
    spec.depths = {2, 2};
    spec.stem = stem;
    spec.order = order;
    spec.norm_groups = 4;
    spec.image_size = kSize;
    spec.classes = kClasses;
    return spec;
  }
  static ImageMlpSpec Mlp() {
    return {
        .dim = 14, .layers = 3, .ffn_dim = 10, .inputs = 3 * kSize * kSize, .classes = kClasses};
  }
  static ResnetSpec BatchNorm(ResnetSpec::Order order) {
    ResnetSpec spec = Resnet(order);
    spec.norm_groups = 0;
    return spec;
  }
  // 6 x 6 tokens in windows of 3 x 3, shifted in the second block; then 3 x 3, which one window is.
  static SwinSpec Swin() {
    SwinSpec spec;
    spec.dim = 12;
    spec.depths = {2, 2};
    spec.heads = {3, 4};
    spec.window = 3;
    spec.patch = 2;
    spec.mlp_ratio = 2;
    spec.image_size = 12;
    spec.classes = kClasses;
    return spec;
  }
  // One level, and windows of an even size: 8 x 8 tokens in those of 4 x 4.
  static SwinSpec OneLevelSwin() {
    SwinSpec spec = Swin();
    spec.dim = 8;
    spec.depths = {2};
    spec.heads = {2};
    spec.window = 4;
    spec.image_size = 16;
    return spec;
  }
  static int64_t SizeOf(const ModelSpec& spec) {
    if (const auto* const resnet = std::get_if<ResnetSpec>(&spec)) return resnet->image_size;
    if (const auto* const swin = std::get_if<SwinSpec>(&spec)) return swin->image_size;
    return kSize;
  }
  struct Named {
    std::string name;
    ModelSpec spec;
    friend void PrintTo(const Named& named, std::ostream* out) { *out << named.name; }
  };
  // Of which every branch has the same number of parts.
  static std::vector<Named> CutIntoGroups() {
    using Order = ResnetSpec::Order;
    using Stem = ResnetSpec::Stem;
    return {{"Post", Resnet(Order::kPost)},
            {"Pre", Resnet(Order::kPre)},
            {"PostImagenet", Resnet(Order::kPost, Stem::kImagenet)},
            {"PreImagenet", Resnet(Order::kPre, Stem::kImagenet)},
            {"PostBatchNorm", BatchNorm(Order::kPost)},
            {"PreBatchNorm", BatchNorm(Order::kPre)},
            {"Mlp", Mlp()}};
  }
  static std::vector<Named> All() {
    std::vector<Named> all = CutIntoGroups();
    all.push_back({"Swin", Swin()});
    all.push_back({"SwinOfOneLevel", OneLevelSwin()});
    return all;
  }

  ModelSpec spec;
  RandomImages data;

  // `groups` > 0: parts of branches as units.
  explicit ImageCase(const ModelSpec& sizes, int64_t max_fragment = Layout::kMaxFragment,
                     ModelOptions options = {1, 0}, const CatalogOptions& cut = {})
      : ModelCase(MakeCatalog(sizes, cut), max_fragment),
        spec(sizes),
        data(kSamples, {3, SizeOf(sizes), SizeOf(sizes)}, kClasses, 7) {
    MakeModel(spec, data, options);
  }

  static CatalogOptions OptionsOf(int64_t groups) {
    CatalogOptions options;
    if (groups > 0) options.neurons = NeuronUnits{.groups = groups};
    return options;
  }

  // Units that can be absent, in order.
  std::vector<std::string> Masked() const {
    std::vector<std::string> names;
    for (const UnitSpec& unit : catalog.units) {
      if (!unit.shared) names.push_back(unit.name);
    }
    return names;
  }
  naive::BranchFactors Factors(double factor) const {
    naive::BranchFactors factors;
    for (const std::string& name : Masked()) factors[name] = factor;
    return factors;
  }
  // In the type of the weights. `statistics`: naive_images.h.
  at::Tensor ReferenceLogits(const naive::Weights& w, const std::vector<int64_t>& samples,
                             const naive::BranchFactors& factors, double epoch = 0,
                             naive::Statistics* statistics = nullptr) const {
    const at::Tensor images = data.Images(samples).to(w.begin()->second.scalar_type()) + epoch / 8;
    if (const auto* const resnet = std::get_if<ResnetSpec>(&spec)) {
      return naive::Logits(*resnet, w, images, factors, statistics);
    }
    if (const auto* const swin = std::get_if<SwinSpec>(&spec)) {
      return naive::Logits(*swin, w, images, factors);
    }
    return naive::Logits(std::get<ImageMlpSpec>(spec), w, images, factors);
  }
  at::Tensor ReferenceLoss(const naive::Weights& w, const std::vector<int64_t>& samples,
                           const naive::BranchFactors& factors, double epoch = 0) const {
    return naive::MeanLoss(ReferenceLogits(w, samples, factors, epoch), data.Labels(samples));
  }
};

}  // namespace sdp
