#include <array>
#include <cassert>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/hash.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "worker/data/image_dataset.h"
#include "worker/data/joined_bytes.h"

namespace sdp {
namespace {

constexpr int64_t kSide = 32, kChannels = 3, kPixels = kSide * kSide;
constexpr int64_t kFrame = 4;                // black pixels around an image
constexpr int64_t kPlaces = 2 * kFrame + 1;  // of a window, in each direction

int64_t ImageBytes(const ImageKind& kind) { return kind.label_bytes + kChannels * kPixels; }

// Where the window of an image is cut from, and whether it is mirrored.
struct View {
  int64_t row = kFrame, column = kFrame;  // of the framed image
  bool mirrored = false;
};

View DrawView(uint64_t seed, int64_t epoch, int64_t sample) {
  const uint64_t bits = RandomBits(seed, Hash64("augmentation") + static_cast<uint64_t>(epoch),
                                   static_cast<uint64_t>(sample));
  const auto place = static_cast<int64_t>(((bits & 0xffffffffu) * (kPlaces * kPlaces)) >> 32);
  return {place / kPlaces, place % kPlaces, (bits >> 63) != 0};
}

class CifarDataset : public ImageDataset {
 public:
  CifarDataset(JoinedBytes bytes, const ImageKind& kind, std::optional<uint64_t> seed)
      : bytes_(std::move(bytes)), kind_(kind), seed_(seed), checksum_(bytes_.Checksum()) {
    for (size_t c = 0; c < normed_.size(); ++c) {
      for (size_t byte = 0; byte < normed_[c].size(); ++byte) {
        normed_[c][byte] =
            static_cast<float>((static_cast<double>(byte) / 255 - kind.mean[c]) / kind.std[c]);
      }
    }
  }

  int64_t samples() const override { return bytes_.size() / ImageBytes(kind_); }
  uint64_t checksum() const override { return checksum_; }
  Shape shape() const override { return {kChannels, kSide, kSide}; }
  int64_t classes() const override { return kind_.classes; }

  absl::StatusOr<int64_t> Read(int64_t sample, int64_t epoch,
                               absl::Span<float> pixels) const override {
    assert(sample >= 0 && sample < samples());
    assert(static_cast<int64_t>(pixels.size()) == kChannels * kPixels);
    std::vector<char> image(static_cast<size_t>(ImageBytes(kind_)));
    bytes_.Read(sample * ImageBytes(kind_), absl::MakeSpan(image));
    const View view = seed_.has_value() ? DrawView(*seed_, epoch, sample) : View();
    const auto* const planes =
        reinterpret_cast<const unsigned char*>(image.data()) + kind_.label_bytes;
    float* out = pixels.data();
    for (size_t c = 0; c < normed_.size(); ++c) {
      const unsigned char* const plane = planes + static_cast<int64_t>(c) * kPixels;
      for (int64_t y = 0; y < kSide; ++y) {
        for (int64_t x = 0; x < kSide; ++x) {
          const int64_t row = y + view.row - kFrame;
          const int64_t column = (view.mirrored ? kSide - 1 - x : x) + view.column - kFrame;
          const bool inside = row >= 0 && row < kSide && column >= 0 && column < kSide;
          *out++ = normed_[c][inside ? plane[row * kSide + column] : 0];
        }
      }
    }
    return static_cast<unsigned char>(image[static_cast<size_t>(kind_.label_bytes) - 1]);
  }

 private:
  const JoinedBytes bytes_;
  const ImageKind& kind_;
  const std::optional<uint64_t> seed_;
  const uint64_t checksum_;
  std::array<std::array<float, 256>, kChannels> normed_;  // of each byte
};

absl::Status Check(const MappedFile& file, const ImageKind& kind) {
  const auto size = static_cast<int64_t>(file.bytes().size());
  if (size % ImageBytes(kind) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", size,
                                                   " bytes are no number of ", kind.name,
                                                   " images, each of ", ImageBytes(kind)));
  }
  for (int64_t image = 0; image < size / ImageBytes(kind); ++image) {
    const auto at = static_cast<size_t>(image * ImageBytes(kind) + kind.label_bytes - 1);
    const auto label = static_cast<unsigned char>(file.bytes()[at]);
    if (label >= kind.classes) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path(), ": class ", static_cast<int>(label), " of image ", image, "; ",
                       kind.name, " has classes 0 to ", kind.classes - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ImageDataset>> OpenCifar(absl::Span<const std::string> paths,
                                                        const ImageKind& kind,
                                                        std::optional<uint64_t> augmentation_seed) {
  JoinedBytes bytes;
  for (const std::string& path : paths) {
    SDP_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
    SDP_RETURN_IF_ERROR(Check(file, kind));
    bytes.Append(std::move(file), 0);
  }
  return std::make_unique<CifarDataset>(std::move(bytes), kind, augmentation_seed);
}

}  // namespace sdp
