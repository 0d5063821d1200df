// The resize against its definition in f64: every pixel of the result as one sum over the region,
// rows and columns at once. Tolerance: 1e-3 of 255 levels for sums in f32 of a few hundred terms.
#include "worker/data/resize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/data/jpeg_files.h"
#include "tests/data/naive_resize.h"

namespace sdp {
namespace {

std::vector<float> Resized(const RgbImage& image, const ResizeAxis& rows,
                           const ResizeAxis& columns) {
  std::vector<float> out(static_cast<size_t>(3 * rows.count * columns.count));
  Resize(image, rows, columns, absl::MakeSpan(out));
  return out;
}

void ExpectIsNaive(const RgbImage& image, const ResizeAxis& rows, const ResizeAxis& columns) {
  const std::vector<float> out = Resized(image, rows, columns);
  size_t at = 0;
  for (int c = 0; c < 3; ++c) {
    for (int64_t y = 0; y < rows.count; ++y) {
      for (int64_t x = 0; x < columns.count; ++x) {
        ASSERT_NEAR(out[at++], NaiveResize(image, rows, columns, c, y, x), 1e-3)
            << c << " " << y << " " << x;
      }
    }
  }
}

TEST(ResizeTest, SameSize_IsTheImage) {
  const RgbImage image = Waves(9, 14, 1);
  const std::vector<float> out = Resized(image, {0, 9, 9, 0, 9}, {0, 14, 14, 0, 14});
  for (size_t i = 0; i < image.pixels.size(); ++i) {
    EXPECT_EQ(out[i % 3 * (9 * 14) + i / 3], static_cast<float>(image.pixels[i])) << i;
  }
}

// Larger, smaller by no whole number, much smaller; one way in one direction and the other in the
// other; of a region and of a window.
TEST(ResizeTest, IsTheDefinition) {
  const RgbImage image = Waves(61, 47, 2);
  ExpectIsNaive(image, {0, 61, 80, 0, 80}, {0, 47, 100, 0, 100});
  ExpectIsNaive(image, {0, 61, 23, 0, 23}, {0, 47, 19, 0, 19});
  ExpectIsNaive(image, {0, 61, 3, 0, 3}, {0, 47, 1, 0, 1});
  ExpectIsNaive(image, {0, 61, 7, 0, 7}, {0, 47, 90, 0, 90});
  ExpectIsNaive(image, {11, 30, 13, 0, 13}, {5, 40, 13, 0, 13});
  ExpectIsNaive(image, {0, 61, 40, 9, 20}, {0, 47, 31, 5, 20});
  ExpectIsNaive(image, {60, 1, 5, 0, 5}, {46, 1, 5, 0, 5});
}

// What lies outside of the region plays no part, and what is even stays so.
TEST(ResizeTest, EvenRegion_StaysEven) {
  RgbImage image = Waves(30, 30, 3);
  for (size_t y = 10; y < 20; ++y) {
    for (size_t i = 10 * 3; i < 20 * 3; ++i) image.pixels[y * 90 + i] = 77;
  }
  for (const int64_t scaled : {4, 10, 33}) {
    for (const float value :
         Resized(image, {10, 10, scaled, 0, scaled}, {10, 10, scaled, 0, scaled}))
      EXPECT_NEAR(value, 77, 1e-4) << scaled;
  }
}

TEST(ResizeTest, Window_IsAPartOfTheWhole) {
  const RgbImage image = Waves(50, 40, 4);
  const std::vector<float> whole = Resized(image, {0, 50, 30, 0, 30}, {0, 40, 24, 0, 24});
  const std::vector<float> part = Resized(image, {0, 50, 30, 12, 5}, {0, 40, 24, 3, 8});
  for (int64_t c = 0; c < 3; ++c) {
    for (int64_t y = 0; y < 5; ++y) {
      for (int64_t x = 0; x < 8; ++x) {
        EXPECT_EQ(part[static_cast<size_t>((c * 5 + y) * 8 + x)],
                  whole[static_cast<size_t>((c * 30 + y + 12) * 24 + x + 3)]);
      }
    }
  }
}

}  // namespace
}  // namespace sdp
