#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/data/cifar.h"
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
  // Fills `pixels` [channels, height, width], normed per channel, and returns the class, in
  // [0, classes). The same bits for the same sample and epoch; an epoch that shows a sample once
  // more may show it differently. Precondition: 0 <= sample < samples().
  virtual int64_t Read(int64_t sample, int64_t epoch, absl::Span<float> pixels) const = 0;

  int64_t terms_per_sample() const final { return 1; }
  const ImageDataset* images() const final { return this; }
};

// CIFAR's binary files, joined in this order. A pixel becomes (byte / 255 - mean) / std with the
// training set's mean and std of its channel (common/data/cifar.h).
//
// With `augmentation_seed`, for training: the image gets a frame of 4 black pixels, of which a
// window of 32 x 32 is cut, and it is mirrored or not. One number decides, r = RandomBits(seed,
// Hash64("augmentation") + epoch, sample) of common/base/random.h: with k = (r mod 2^32) * 81 div
// 2^32 the window begins at row k div 9 and column k mod 9 of the framed image; the highest bit of
// r mirrors it. Errors name the file: NotFound - no such file. InvalidArgument - a folder, an empty
// file, a size that is no number of images, a class that does not exist.
absl::StatusOr<std::unique_ptr<ImageDataset>> OpenCifar(absl::Span<const std::string> paths,
                                                        const CifarFormat& format,
                                                        std::optional<uint64_t> augmentation_seed);

}  // namespace sdp
