// JPEG files: what they decode to, within what compression changes, and what is refused, with
// libjpeg's reason and the process alive.
#include "worker/data/jpeg.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/data/jpeg_files.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

int LargestDifference(const std::vector<unsigned char>& a, const std::vector<unsigned char>& b) {
  EXPECT_EQ(a.size(), b.size());
  int largest = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

void ExpectRefused(absl::string_view bytes, const char* says) {
  const auto image = DecodeJpeg(bytes);
  EXPECT_EQ(image.status().code(), absl::StatusCode::kInvalidArgument) << image.status();
  EXPECT_THAT(std::string(image.status().message()), HasSubstr(says));
}

// Quality 100: a level of rounding in each channel, some more where they are joined.
TEST(JpegTest, Color_BaselineAndProgressive) {
  const RgbImage image = Waves(37, 51, 1);
  for (const bool progressive : {false, true}) {
    const auto decoded = DecodeJpeg(
        EncodeJpeg({.height = 37, .width = 51, .progressive = progressive}, image.pixels));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->height, 37);
    EXPECT_EQ(decoded->width, 51);
    EXPECT_LE(LargestDifference(decoded->pixels, image.pixels), 4);
  }
}

TEST(JpegTest, Gray_HasThreeEqualChannels) {
  std::vector<unsigned char> gray, expected;
  for (int i = 0; i < 20 * 30; ++i) {
    gray.push_back(static_cast<unsigned char>(i / 3));
    for (int c = 0; c < 3; ++c) expected.push_back(gray.back());
  }
  const auto decoded =
      DecodeJpeg(EncodeJpeg({.height = 20, .width = 30, .pixels_are = JCS_GRAYSCALE}, gray));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_LE(LargestDifference(decoded->pixels, expected), 2);
}

TEST(JpegTest, Cmyk_IsLightTimesTheLightOfBlack) {
  std::vector<unsigned char> cmyk, expected;
  for (int i = 0; i < 16 * 16; ++i) {
    const int color[] = {i / 2, 200 - i / 2, 100 + i / 4}, black = 255 - i / 3;
    for (const int light : color) {
      cmyk.push_back(static_cast<unsigned char>(light));
      expected.push_back(static_cast<unsigned char>(std::lround(light * black / 255.0)));
    }
    cmyk.push_back(static_cast<unsigned char>(black));
  }
  for (const J_COLOR_SPACE space : {JCS_CMYK, JCS_YCCK}) {
    const auto decoded = DecodeJpeg(
        EncodeJpeg({.height = 16, .width = 16, .pixels_are = JCS_CMYK, .file_has = space}, cmyk));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_LE(LargestDifference(decoded->pixels, expected), 6) << space;
  }
}

TEST(JpegTest, WhatIsNoJpegFile_IsRefused) {
  ExpectRefused("", "mpty");
  ExpectRefused("\x89PNG\r\n\x1a\n and so on", "Not a JPEG file: starts with 0x89 0x50");
  ExpectRefused("\xff\xd8", "");
  ExpectRefused("\xff\xd8\xff\xd9", "");
}

// Wherever a file ends too early it is refused, also where all pixels are there and only the end is
// not.
TEST(JpegTest, CutOff_IsRefusedAnywhere) {
  for (const bool progressive : {false, true}) {
    const std::string file = EncodeJpeg({.height = 40, .width = 40, .progressive = progressive},
                                        Waves(40, 40, 2).pixels);
    for (size_t size = 0; size < file.size(); size += 1 + size / 50) {
      EXPECT_FALSE(DecodeJpeg(absl::string_view(file).substr(0, size)).ok()) << size;
    }
    ExpectRefused(absl::string_view(file).substr(0, file.size() - 2), "Premature end of JPEG file");
  }
}

// A flipped bit may go unnoticed, or be an error, but nothing worse.
TEST(JpegTest, FlippedBits_NeverCrash) {
  const std::string file = EncodeJpeg(Waves(24, 24, 3));
  RandomStream random(7, 7);
  int refused = 0;
  for (int i = 0; i < 400; ++i) {
    std::string flipped = file;
    flipped[random.Below(file.size())] ^= static_cast<char>(1 << random.Below(8));
    const auto image = DecodeJpeg(flipped);
    if (!image.ok()) {
      ++refused;
    } else {
      EXPECT_EQ(static_cast<int64_t>(image->pixels.size()), image->height * image->width * 3);
    }
  }
  EXPECT_GT(refused, 20);
}

// Bytes between two markers are no pixels: other programs leave some there.
TEST(JpegTest, BytesBetweenMarkers_AreLeftOut) {
  const RgbImage image = Waves(16, 16, 4);
  std::string file = EncodeJpeg(image);
  const std::string quantization = "\xff\xdb";
  file.insert(file.find(quantization), "some");
  const auto decoded = DecodeJpeg(file);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_LE(LargestDifference(decoded->pixels, image.pixels), 4);
}

// The size stands in the header, whatever follows: refused before there is memory for it.
TEST(JpegTest, HugeImage_IsRefused) {
  std::string file = EncodeJpeg(Waves(16, 16, 5));
  const size_t frame = file.find("\xff\xc0");
  ASSERT_NE(frame, file.npos);
  file.replace(frame + 5, 4, "\xf0\xf0\xf0\xf0");
  ExpectRefused(file, "61680 x 61680 pixels: more than the 134217728 allowed");
}

}  // namespace
}  // namespace sdp
