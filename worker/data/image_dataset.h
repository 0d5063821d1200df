#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/data/image_kinds.h"
#include "worker/data/dataset.h"

namespace sdp {

// Images with one class each.
class ImageDataset : public Dataset {
 public:
  struct Shape {
    int64_t channels = 0, height = 0, width = 0;
    int64_t elements() const { return channels * height * width; }
  };
  virtual Shape shape() const = 0;
  virtual int64_t classes() const = 0;
  // Where classes have names: [classes] of them; else none.
  virtual std::vector<std::string> class_names() const { return {}; }
  // Fills `pixels` [channels, height, width], normed per channel, and returns the class, in
  // [0, classes). The same bits for the same sample and epoch; an epoch that shows a sample once
  // more may show it differently. Precondition: 0 <= sample < samples(). Errors name the file that
  // the sample is in: it is missing or damaged.
  virtual absl::StatusOr<int64_t> Read(int64_t sample, int64_t epoch,
                                       absl::Span<float> pixels) const = 0;

  int64_t terms_per_sample() const final { return 1; }
  const ImageDataset* images() const final { return this; }
};

// How a model takes images.
struct ImageOptions {
  int64_t image_size = 0;  // height and width
  int64_t classes = 0;
  // Of training, which sees an image anew in every epoch; none: as it is.
  std::optional<uint64_t> augmentation_seed = std::nullopt;
};

// The images of one kind. Those of CIFAR are 32 x 32 and of its classes, whatever `options` say.
// Errors name file or folder; of a folder of images InvalidArgument also - more than one path.
absl::StatusOr<std::unique_ptr<ImageDataset>> OpenImages(const ImageKind& kind,
                                                         absl::Span<const std::string> paths,
                                                         const ImageOptions& options);

// CIFAR's binary files, joined in this order. A pixel becomes (byte / 255 - mean) / std with the
// training set's mean and std of its channel (common/data/image_kinds.h).
//
// With `augmentation_seed`, for training: the image gets a frame of 4 black pixels, of which a
// window of 32 x 32 is cut, and it is mirrored or not. One number decides, r = RandomBits(seed,
// Hash64("augmentation") + epoch, sample) of common/base/random.h: with k = (r mod 2^32) * 81 div
// 2^32 the window begins at row k div 9 and column k mod 9 of the framed image; the highest bit of
// r mirrors it. Errors name the file: NotFound - no such file. InvalidArgument - a folder, an empty
// file, a size that is no number of images, a class that does not exist.
absl::StatusOr<std::unique_ptr<ImageDataset>> OpenCifar(absl::Span<const std::string> paths,
                                                        const ImageKind& kind,
                                                        std::optional<uint64_t> augmentation_seed);

// The JPEG files of a folder with a sub-folder per class (jpeg_listing.h), of s = image_size. Each
// is opened and decoded when it is its turn (jpeg.h): what is wrong with it is an error then. Sizes
// change as in resize.h, and a value v in [0, 255] becomes (v / 255 - mean) / std.
//
// Without a seed, for evaluation: the short side becomes s * 256 div 224 pixels and the long one as
// many as keep the proportion (rounded down); of that the middle s x s.
//
// With `augmentation_seed`, for training: a region of random size, place and proportion becomes
// s x s and is mirrored or not (torchvision's RandomResizedCrop and RandomHorizontalFlip, with
// their usual numbers). With u(k) = (RandomBits(seed, Hash64("augmentation") + epoch, 64 sample +
// k) mod 2^32) / 2^32: it is mirrored if u(0) < 1/2. Up to ten times, a = 0, 1, ..., a region is
// drawn of area A = height * width * (0.08 + 0.92 u(4a + 1)) and proportion R = (4/3)^(2 u(4a + 2)
// - 1), so of width round(sqrt(A R)) and height round(sqrt(A / R)). The first that has pixels and
// fits is taken, at row floor(u(4a + 3) (rows it may begin at)) and the same with u(4a + 4) for
// the column. If none does, the largest one in the middle of a proportion in [3/4, 4/3].
//
// InvalidArgument - other than options.classes sub-folders; others as JpegListing.
absl::StatusOr<std::unique_ptr<ImageDataset>> OpenJpegFolder(const std::string& folder,
                                                             const ImageOptions& options);

}  // namespace sdp
