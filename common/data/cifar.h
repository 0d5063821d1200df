#pragma once

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace sdp {

// One of CIFAR's data sets of images of 32 x 32 pixels. Its binary files have per image its class,
// then 1,024 bytes each of red, green and blue, row by row.
struct CifarFormat {
  absl::string_view kind;  // as `data.kind` has it
  absl::string_view name;  // for people
  int64_t classes;
  int64_t label_bytes;              // before an image's pixels: the last one counts
  std::array<double, 3> mean, std;  // of the training set's channels, a pixel being byte / 255
};

inline constexpr CifarFormat kCifar10 = {
    "cifar10", "CIFAR-10", 10, 1, {0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}};
inline constexpr CifarFormat kCifar100 = {  // coarse, then fine class
    "cifar100", "CIFAR-100", 100, 2, {0.5071, 0.4865, 0.4409}, {0.2673, 0.2564, 0.2762}};

// Null: no such kind of images.
inline const CifarFormat* FindCifar(absl::string_view kind) {
  for (const CifarFormat* const format : {&kCifar10, &kCifar100}) {
    if (format->kind == kind) return format;
  }
  return nullptr;
}

}  // namespace sdp
