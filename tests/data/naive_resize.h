#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "worker/data/resize.h"

namespace sdp {

// One pixel of what Resize gives, by its definition: channel `c` of row `y` and column `x` of the
// window, in f64.
inline double NaiveResize(const RgbImage& image, const ResizeAxis& rows, const ResizeAxis& columns,
                          int c, int64_t y, int64_t x) {
  const auto weight = [](const ResizeAxis& axis, int64_t wanted, int64_t source) {
    const double scale = static_cast<double>(axis.size) / static_cast<double>(axis.scaled);
    const double place = (static_cast<double>(axis.first + wanted) + 0.5) * scale;
    const double distance = std::abs(static_cast<double>(source) + 0.5 - place);
    return std::max(0.0, 1 - distance / std::max(1.0, scale));
  };
  double sum = 0, weights = 0;
  for (int64_t row = 0; row < rows.size; ++row) {
    for (int64_t column = 0; column < columns.size; ++column) {
      const double w = weight(rows, y, row) * weight(columns, x, column);
      const int64_t pixel = (rows.begin + row) * image.width + columns.begin + column;
      sum += w * image.pixels[static_cast<size_t>(3 * pixel + c)];
      weights += w;
    }
  }
  return sum / weights;
}

}  // namespace sdp
