#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sdp {

// An image as files have it.
struct RgbImage {
  int64_t height = 0, width = 0;
  std::vector<unsigned char> pixels;  // [height, width, 3]: red, green, blue
};

// Files with more pixels are refused: they would take 400 MB and more.
inline constexpr int64_t kMostJpegPixels = int64_t{1} << 27;

// Decodes a JPEG file: baseline or progressive; in color, in gray, whose channels are then equal,
// or in CMYK as Adobe writes it (light instead of ink), of which a color is its light times that of
// black. The same bits for the same file and version of libjpeg-turbo. Threads: any, at once.
// InvalidArgument - what libjpeg says: no JPEG file, damaged, cut off. Warnings that leave the
// pixels in doubt are errors too.
absl::StatusOr<RgbImage> DecodeJpeg(absl::string_view bytes);

}  // namespace sdp
