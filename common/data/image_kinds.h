#pragma once

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace sdp {

// A kind of images, each of one class. CIFAR's binary files have, per image of 32 x 32 pixels, its
// class, then 1,024 bytes each of red, green and blue, row by row. A folder has JPEG files of any
// size, in a sub-folder for each class.
struct ImageKind {
  absl::string_view kind;  // as `data.kind` has it
  absl::string_view name;  // for people
  // Of the images as a model takes them: height and width, and how many classes there are. A
  // folder's size is a default, and its classes are 0: the model's configuration says both.
  int64_t image_size, classes;
  int64_t label_bytes;              // CIFAR: before an image's pixels; the last one counts
  std::array<double, 3> mean, std;  // of the training set's channels, a pixel being byte / 255

  bool IsFolder() const { return classes == 0; }
};

inline constexpr ImageKind kCifar10 = {
    "cifar10", "CIFAR-10", 32, 10, 1, {0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}};
inline constexpr ImageKind kCifar100 = {  // coarse, then fine class
    "cifar100", "CIFAR-100", 32, 100, 2, {0.5071, 0.4865, 0.4409}, {0.2673, 0.2564, 0.2762}};
inline constexpr ImageKind kJpegFolder = {  // ImageNet's numbers
    "images", "JPEG", 224, 0, 0, {0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}};

// Null: no such kind of images.
inline const ImageKind* FindImageKind(absl::string_view kind) {
  for (const ImageKind* const known : {&kCifar10, &kCifar100, &kJpegFolder}) {
    if (known->kind == kind) return known;
  }
  return nullptr;
}

}  // namespace sdp
