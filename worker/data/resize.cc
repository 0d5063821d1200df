#include "worker/data/resize.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>
#include <vector>

namespace sdp {
namespace {

constexpr int64_t kChannels = 3;

// The pixels of the source that one of the result is made of.
struct Taps {
  int64_t first;               // in the source
  std::vector<float> weights;  // of `first` and those behind it; they add up to 1
};

// [axis.count]
std::vector<Taps> TapsOf(const ResizeAxis& axis) {
  const double scale = static_cast<double>(axis.size) / static_cast<double>(axis.scaled);
  const double reach = std::max(1.0, scale);
  std::vector<Taps> all;
  for (int64_t i = axis.first; i < axis.first + axis.count; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    const int64_t begin = std::max<int64_t>(0, static_cast<int64_t>(centre - reach + 0.5));
    const int64_t end = std::min(axis.size, static_cast<int64_t>(centre + reach + 0.5));
    std::vector<double> triangle;
    double sum = 0;
    for (int64_t x = begin; x < end; ++x) {
      const double distance = std::abs(static_cast<double>(x) + 0.5 - centre);
      triangle.push_back(std::max(0.0, 1 - distance / reach));
      sum += triangle.back();
    }
    Taps taps{axis.begin + begin, {}};
    for (const double weight : triangle) taps.weights.push_back(static_cast<float>(weight / sum));
    all.push_back(std::move(taps));
  }
  return all;
}

int64_t End(const Taps& taps) { return taps.first + static_cast<int64_t>(taps.weights.size()); }

// One row of the source along its columns: `out` [columns, 3].
void ResizeRow(const unsigned char* row, const std::vector<Taps>& columns, float* out) {
  for (const Taps& taps : columns) {
    float red = 0, green = 0, blue = 0;
    const unsigned char* pixel = row + taps.first * kChannels;
    for (const float weight : taps.weights) {
      red += weight * static_cast<float>(pixel[0]);
      green += weight * static_cast<float>(pixel[1]);
      blue += weight * static_cast<float>(pixel[2]);
      pixel += kChannels;
    }
    *out++ = red;
    *out++ = green;
    *out++ = blue;
  }
}

}  // namespace

void Resize(const RgbImage& image, const ResizeAxis& rows, const ResizeAxis& columns,
            absl::Span<float> out) {
  assert(static_cast<int64_t>(out.size()) == kChannels * rows.count * columns.count);
  const std::vector<Taps> across = TapsOf(columns), down = TapsOf(rows);
  const int64_t first = down.front().first, last = End(down.back());
  const int64_t width = columns.count * kChannels;
  std::vector<float> narrow(static_cast<size_t>((last - first) * width));
  for (int64_t y = first; y < last; ++y) {
    ResizeRow(image.pixels.data() + y * image.width * kChannels, across,
              narrow.data() + (y - first) * width);
  }
  std::vector<float> sums(static_cast<size_t>(width));
  for (int64_t y = 0; y < rows.count; ++y) {
    const Taps& taps = down[static_cast<size_t>(y)];
    std::fill(sums.begin(), sums.end(), 0.0f);
    const float* row = narrow.data() + (taps.first - first) * width;
    for (const float weight : taps.weights) {
      for (int64_t i = 0; i < width; ++i) sums[static_cast<size_t>(i)] += weight * row[i];
      row += width;
    }
    for (int64_t i = 0; i < width; ++i) {
      const int64_t channel = i % kChannels, x = i / kChannels;
      out[static_cast<size_t>((channel * rows.count + y) * columns.count + x)] =
          sums[static_cast<size_t>(i)];
    }
  }
}

}  // namespace sdp
