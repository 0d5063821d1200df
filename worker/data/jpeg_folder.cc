#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/hash.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/data/small_file.h"
#include "worker/data/image_dataset.h"
#include "worker/data/jpeg.h"
#include "worker/data/jpeg_listing.h"
#include "worker/data/resize.h"

namespace sdp {
namespace {

constexpr int64_t kChannels = 3;
// Of evaluation: what the short side becomes for a window of so many pixels.
constexpr int64_t kShortSide = 256, kWindow = 224;
// Of training.
constexpr double kLeastArea = 0.08;
constexpr double kMostProportion = 4.0 / 3;  // of width and height; the least is its inverse
constexpr double kLogMostProportion = 0.28768207245178085;
constexpr int kTries = 10;
constexpr uint64_t kNumbersPerSample = 64;

// What of an image is seen.
struct View {
  ResizeAxis rows, columns;
  bool mirrored = false;
};

// The numbers u(k) of one sample in one epoch.
class Numbers {
 public:
  Numbers(uint64_t seed, int64_t epoch, int64_t sample)
      : seed_(seed),
        stream_(Hash64("augmentation") + static_cast<uint64_t>(epoch)),
        first_(static_cast<uint64_t>(sample) * kNumbersPerSample) {}
  double operator()(int k) const {
    const uint64_t bits = RandomBits(seed_, stream_, first_ + static_cast<uint64_t>(k));
    return static_cast<double>(bits & 0xffffffffu) * 0x1p-32;
  }
  // u(k) as a whole number in [0, bound).
  int64_t Below(int64_t bound, int k) const {
    return static_cast<int64_t>((*this)(k) * static_cast<double>(bound));
  }

 private:
  const uint64_t seed_, stream_, first_;
};

// For small x, to the last bits: the library's differs by version and by CPU.
double Exp(double x) {
  double sum = 1;
  for (int i = 16; i > 0; --i) sum = 1 + sum * x / i;
  return sum;
}

// The largest region of an allowed proportion.
View Middle(const RgbImage& image, int64_t size) {
  const auto most = [](int64_t side) {
    return int64_t{std::lrint(static_cast<double>(side) * kMostProportion)};
  };
  const int64_t height = std::min(image.height, most(image.width));
  const int64_t width = std::min(image.width, most(image.height));
  return {.rows = {(image.height - height) / 2, height, size, 0, size},
          .columns = {(image.width - width) / 2, width, size, 0, size}};
}

View DrawView(const Numbers& u, const RgbImage& image, int64_t size) {
  View view = Middle(image, size);
  const double all = static_cast<double>(image.height) * static_cast<double>(image.width);
  for (int a = 0; a < kTries; ++a) {
    const double area = all * (kLeastArea + (1 - kLeastArea) * u(4 * a + 1));
    const double proportion = Exp((2 * u(4 * a + 2) - 1) * kLogMostProportion);
    const int64_t width = std::lrint(std::sqrt(area * proportion));
    const int64_t height = std::lrint(std::sqrt(area / proportion));
    if (width < 1 || height < 1 || width > image.width || height > image.height) continue;
    view.rows.begin = u.Below(image.height - height + 1, 4 * a + 3);
    view.rows.size = height;
    view.columns.begin = u.Below(image.width - width + 1, 4 * a + 4);
    view.columns.size = width;
    break;
  }
  view.mirrored = u(0) < 0.5;
  return view;
}

View WholeView(const RgbImage& image, int64_t size) {
  const int64_t least = std::min(image.height, image.width);
  const auto axis = [&](int64_t side) {
    const int64_t scaled = size * kShortSide / kWindow * side / least;
    const int64_t first = std::lrint(static_cast<double>(scaled - size) / 2);
    return ResizeAxis{0, side, scaled, first, size};
  };
  return {.rows = axis(image.height), .columns = axis(image.width)};
}

class JpegFolder : public ImageDataset {
 public:
  JpegFolder(JpegListing listing, uint64_t checksum, const ImageOptions& options)
      : listing_(std::move(listing)), checksum_(checksum), options_(options) {}

  int64_t samples() const override { return listing_.samples(); }
  uint64_t checksum() const override { return checksum_; }
  Shape shape() const override { return {kChannels, options_.image_size, options_.image_size}; }
  int64_t classes() const override { return options_.classes; }
  std::vector<std::string> class_names() const override { return listing_.classes(); }

  absl::StatusOr<int64_t> Read(int64_t sample, int64_t epoch,
                               absl::Span<float> pixels) const override {
    assert(static_cast<int64_t>(pixels.size()) == shape().elements());
    const std::string path = listing_.PathOf(sample);
    SDP_ASSIGN_OR_RETURN(const std::string bytes, ReadSmallFile(path, kLargestJpegFile));
    const absl::StatusOr<RgbImage> image = DecodeJpeg(bytes);
    if (!image.ok()) return Context(image.status(), path);
    const int64_t size = options_.image_size;
    const View view =
        options_.augmentation_seed.has_value()
            ? DrawView(Numbers(*options_.augmentation_seed, epoch, sample), *image, size)
            : WholeView(*image, size);
    Resize(*image, view.rows, view.columns, pixels);
    if (view.mirrored) {
      for (auto row = pixels.begin(); row != pixels.end(); row += size) {
        std::reverse(row, row + size);
      }
    }
    Norm(pixels);
    return listing_.ClassOf(sample);
  }

 private:
  static void Norm(absl::Span<float> pixels) {
    const size_t plane = pixels.size() / kChannels;
    for (size_t c = 0; c < kChannels; ++c) {
      const auto mean = static_cast<float>(255 * kJpegFolder.mean[c]);
      const auto std = static_cast<float>(255 * kJpegFolder.std[c]);
      for (float& value : pixels.subspan(c * plane, plane)) value = (value - mean) / std;
    }
  }

  const JpegListing listing_;
  const uint64_t checksum_;
  const ImageOptions options_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ImageDataset>> OpenJpegFolder(const std::string& folder,
                                                             const ImageOptions& options) {
  SDP_ASSIGN_OR_RETURN(JpegListing listing, JpegListing::Read(folder));
  if (static_cast<int64_t>(listing.classes().size()) != options.classes) {
    return absl::InvalidArgumentError(absl::StrCat(folder, ": has ", listing.classes().size(),
                                                   " sub-folders, each a class; the model has ",
                                                   options.classes, " classes"));
  }
  SDP_ASSIGN_OR_RETURN(const uint64_t checksum, listing.Checksum());
  return std::make_unique<JpegFolder>(std::move(listing), checksum, options);
}

absl::StatusOr<std::unique_ptr<ImageDataset>> OpenImages(const ImageKind& kind,
                                                         absl::Span<const std::string> paths,
                                                         const ImageOptions& options) {
  if (!kind.IsFolder()) return OpenCifar(paths, kind, options.augmentation_seed);
  if (paths.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        absl::StrJoin(paths, ", "), ": give one folder of images, with a sub-folder per class"));
  }
  return OpenJpegFolder(paths.front(), options);
}

}  // namespace sdp
