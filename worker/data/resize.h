#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "worker/data/jpeg.h"

namespace sdp {

// One direction of a resize: the source's pixels [begin, begin + size) become `scaled` pixels, of
// which [first, first + count) are wanted.
struct ResizeAxis {
  int64_t begin = 0, size = 0;
  int64_t scaled = 0;
  int64_t first = 0, count = 0;
};

// Bilinear with antialias, as Pillow and torchvision define it: a pixel of the result is the mean
// of the region's pixels weighted by a triangle around its place, which reaches max(1, size /
// scaled) pixels to both sides; nothing outside of the region counts. Weights are made in f64, sums
// in f32 and in order, along rows first, without rounding to bytes in between.
// Fills `out` [3, rows.count, columns.count] with values in [0, 255]. Precondition: the region lies
// in the image, what is wanted in what it becomes, and both have a pixel.
void Resize(const RgbImage& image, const ResizeAxis& rows, const ResizeAxis& columns,
            absl::Span<float> out);

}  // namespace sdp
