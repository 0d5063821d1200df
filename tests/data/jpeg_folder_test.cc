// Folders of images: how they are listed, what is refused and how it is named, and what evaluation
// and training see of an image, against the definition (worker/data/image_dataset.h), computed here
// in f64 from the decoded file. Tolerance: 1e-4, for sums in f32 of values up to 2.7.
#include <cmath>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "common/base/hash.h"
#include "common/base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cluster_process/temp_folder.h"
#include "tests/data/jpeg_files.h"
#include "tests/data/naive_resize.h"
#include "worker/data/image_dataset.h"
#include "worker/data/jpeg_listing.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class JpegFolderTest : public ::testing::Test {
 protected:
  void Write(const std::string& name, const std::string& bytes) const {
    fs::create_directories(fs::path(folder_ / name).parent_path());
    WriteAll(folder_ / name, bytes);
  }
  void WriteWaves(const std::string& name, int64_t height, int64_t width, int seed) const {
    Write(name, EncodeJpeg(Waves(height, width, seed)));
  }
  void ExpectRefused(const std::string& says) const {
    const auto listing = JpegListing::Read(folder_.path());
    EXPECT_EQ(listing.status().code(), absl::StatusCode::kInvalidArgument) << listing.status();
    EXPECT_THAT(std::string(listing.status().message()), HasSubstr(says));
  }
  std::unique_ptr<ImageDataset> Open(const ImageOptions& options) const {
    auto data = OpenJpegFolder(folder_.path(), options);
    EXPECT_TRUE(data.ok()) << data.status();
    return data.ok() ? *std::move(data) : nullptr;
  }
  uint64_t Checksum(int64_t whole_bytes = 1 << 30) const {
    const auto sum = JpegListing::Read(folder_.path())->Checksum(whole_bytes);
    EXPECT_TRUE(sum.ok()) << sum.status();
    return sum.value_or(0);
  }

  TempFolder folder_;
};

std::vector<float> Pixels(const ImageDataset& data, int64_t sample, int64_t epoch = 0) {
  std::vector<float> pixels(static_cast<size_t>(data.shape().elements()));
  const auto label = data.Read(sample, epoch, absl::MakeSpan(pixels));
  EXPECT_TRUE(label.ok()) << label.status();
  return pixels;
}

// ---- Listing ----

TEST_F(JpegFolderTest, ClassesAndFiles_AreInTheOrderOfTheirNames) {
  for (const char* const name : {"b/2.jpg", "b/10.JPEG", "a b/x.Jpg", "C/z.jpeg"}) Write(name, "x");
  // None of these counts.
  for (const char* const name : {"readme.txt", "b/.hidden", ".cache/file"}) Write(name, "x");
  const auto listing = JpegListing::Read(folder_.path());
  ASSERT_TRUE(listing.ok()) << listing.status();
  EXPECT_THAT(listing->classes(), ElementsAre("C", "a b", "b"));
  std::vector<std::string> paths;
  std::vector<int64_t> classes;
  for (int64_t sample = 0; sample < listing->samples(); ++sample) {
    paths.push_back(listing->PathOf(sample));
    classes.push_back(listing->ClassOf(sample));
  }
  EXPECT_THAT(paths, ElementsAre(folder_ / "C/z.jpeg", folder_ / "a b/x.Jpg", folder_ / "b/10.JPEG",
                                 folder_ / "b/2.jpg"));
  EXPECT_THAT(classes, ElementsAre(0, 1, 2, 2));
}

TEST_F(JpegFolderTest, WhatIsNoFolderOfImages_IsNamed) {
  EXPECT_EQ(JpegListing::Read(folder_ / "none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(JpegListing::Read(folder_ / "none").status().message()),
              HasSubstr(folder_ / "none"));
  ExpectRefused(folder_.path() + ": has no sub-folder");
  Write("a/1.jpg", "x");
  fs::create_directory(folder_ / "b");
  ExpectRefused(folder_ / "b: is empty");
  Write("b/1.png", "x");
  ExpectRefused(folder_ / "b/1.png: the sub-folder of a class may have files named .jpg");
  fs::rename(folder_ / "b/1.png", folder_ / "b/1.jpg");
  fs::create_directory(folder_ / "b/2.jpg");
  ExpectRefused(folder_ / "b/2.jpg: is a folder");
  fs::remove(folder_ / "b/2.jpg");
  fs::create_symlink("nowhere", folder_ / "b/3.jpg");
  EXPECT_THAT(
      std::string(
          OpenJpegFolder(folder_.path(), {.image_size = 8, .classes = 2}).status().message()),
      HasSubstr(folder_ / "b/3.jpg"));
}

TEST_F(JpegFolderTest, OtherNumberOfClasses_SaysBoth) {
  WriteWaves("a/1.jpg", 8, 8, 1);
  const auto data = OpenJpegFolder(folder_.path(), {.image_size = 8, .classes = 10});
  EXPECT_EQ(data.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(data.status().message()),
              HasSubstr("has 1 sub-folders, each a class; the model has 10 classes"));
  const std::string twice[] = {folder_.path(), folder_.path()};
  EXPECT_THAT(
      std::string(
          OpenImages(kJpegFolder, twice, {.image_size = 8, .classes = 1}).status().message()),
      HasSubstr("give one folder of images"));
}

TEST_F(JpegFolderTest, Checksum_IsOfNamesAndContent) {
  WriteWaves("a/1.jpg", 8, 8, 1);
  WriteWaves("a/2.jpg", 8, 8, 2);
  WriteWaves("b/1.jpg", 8, 8, 3);
  const uint64_t sum = Checksum(), pieces = Checksum(1);
  EXPECT_EQ(Checksum(), sum);
  WriteWaves("a/2.jpg", 8, 8, 4);
  EXPECT_NE(Checksum(), sum);
  EXPECT_NE(Checksum(1), pieces);  // Of few files every one is looked at.
  WriteWaves("a/2.jpg", 8, 8, 2);
  EXPECT_EQ(Checksum(), sum);
  fs::rename(folder_ / "a/2.jpg", folder_ / "a/3.jpg");
  EXPECT_NE(Checksum(), sum);
  fs::rename(folder_ / "a/3.jpg", folder_ / "b/0.jpg");
  EXPECT_NE(Checksum(), sum);
}

TEST_F(JpegFolderTest, FilesThatAreNoJpegFiles_AreFoundAtTheStart) {
  WriteWaves("a/1.jpg", 8, 8, 1);
  Write("a/2.jpg", "\x89PNG");
  const auto data = OpenJpegFolder(folder_.path(), {.image_size = 8, .classes = 1});
  EXPECT_EQ(data.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(data.status().message()), HasSubstr(folder_ / "a/2.jpg: is no JPEG"));
}

TEST_F(JpegFolderTest, DamagedOrMissingFile_IsAnErrorThatNamesIt) {
  WriteWaves("a/1.jpg", 20, 20, 1);
  Write("a/2.jpg", EncodeJpeg(Waves(20, 20, 2)).substr(0, 300));
  WriteWaves("a/3.jpg", 20, 20, 3);
  const auto data = Open({.image_size = 8, .classes = 1, .augmentation_seed = 0});
  std::vector<float> pixels(3 * 8 * 8);
  EXPECT_EQ(data->Read(0, 0, absl::MakeSpan(pixels)).value_or(-1), 0);
  absl::Status status = data->Read(1, 0, absl::MakeSpan(pixels)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(folder_ / "a/2.jpg: Premature end"));
  fs::remove(folder_ / "a/3.jpg");
  status = data->Read(2, 0, absl::MakeSpan(pixels)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(folder_ / "a/3.jpg"));
}

// ---- What is seen ----

struct View {
  ResizeAxis rows, columns;
  bool mirrored = false;
};

void ExpectSees(const std::vector<float>& pixels, const RgbImage& image, const View& view) {
  const double mean[] = {0.485, 0.456, 0.406}, std[] = {0.229, 0.224, 0.225};
  const int64_t size = view.rows.count;
  size_t at = 0;
  for (int c = 0; c < 3; ++c) {
    for (int64_t y = 0; y < size; ++y) {
      for (int64_t i = 0; i < size; ++i) {
        const int64_t x = view.mirrored ? size - 1 - i : i;
        const double value = NaiveResize(image, view.rows, view.columns, c, y, x);
        ASSERT_NEAR(pixels[at++], (value / 255 - mean[c]) / std[c], 1e-4)
            << "channel " << c << " row " << y << " column " << i;
      }
    }
  }
}

TEST_F(JpegFolderTest, Evaluation_SeesTheMiddleOfTheResizedImage) {
  WriteWaves("a/high.jpg", 50, 33, 1);
  WriteWaves("a/wide.jpg", 40, 90, 2);
  WriteWaves("b/small.jpg", 5, 9, 3);
  const auto data = Open({.image_size = 14, .classes = 2});
  EXPECT_EQ(data->samples(), 3);
  EXPECT_EQ(data->shape().elements(), 3 * 14 * 14);
  EXPECT_THAT(data->class_names(), ElementsAre("a", "b"));
  // 14 * 256 / 224 = 16 for the short side.
  const View views[] = {{{0, 50, 24, 5, 14}, {0, 33, 16, 1, 14}, false},
                        {{0, 40, 16, 1, 14}, {0, 90, 36, 11, 14}, false},
                        {{0, 5, 16, 1, 14}, {0, 9, 28, 7, 14}, false}};
  const char* const files[] = {"a/high.jpg", "a/wide.jpg", "b/small.jpg"};
  for (int64_t sample = 0; sample < 3; ++sample) {
    const auto index = static_cast<size_t>(sample);
    const auto image = DecodeJpeg(ReadAll(folder_ / files[index]));
    ASSERT_TRUE(image.ok()) << image.status();
    ExpectSees(Pixels(*data, sample, /*epoch=*/4), *image, views[index]);
  }
}

// The header's words, with the standard library's functions.
View Drawn(uint64_t seed, int64_t epoch, int64_t sample, int64_t height, int64_t width,
           int64_t size) {
  const auto u = [&](int k) {
    const uint64_t r = RandomBits(seed, Hash64("augmentation") + static_cast<uint64_t>(epoch),
                                  static_cast<uint64_t>(64 * sample + k));
    return static_cast<double>(r % (uint64_t{1} << 32)) / 0x1p32;
  };
  const bool mirrored = u(0) < 0.5;
  for (int a = 0; a < 10; ++a) {
    const double area = static_cast<double>(height * width) * (0.08 + 0.92 * u(4 * a + 1));
    const double proportion = std::pow(4.0 / 3, 2 * u(4 * a + 2) - 1);
    const auto w = static_cast<int64_t>(std::nearbyint(std::sqrt(area * proportion)));
    const auto h = static_cast<int64_t>(std::nearbyint(std::sqrt(area / proportion)));
    if (w == 0 || h == 0 || w > width || h > height) continue;
    const auto row = static_cast<int64_t>(u(4 * a + 3) * static_cast<double>(height - h + 1));
    const auto column = static_cast<int64_t>(u(4 * a + 4) * static_cast<double>(width - w + 1));
    return {{row, h, size, 0, size}, {column, w, size, 0, size}, mirrored};
  }
  int64_t h = height, w = width;
  if (3 * height > 4 * width) h = static_cast<int64_t>(std::nearbyint(width * 4.0 / 3));
  if (3 * width > 4 * height) w = static_cast<int64_t>(std::nearbyint(height * 4.0 / 3));
  return {{(height - h) / 2, h, size, 0, size}, {(width - w) / 2, w, size, 0, size}, mirrored};
}

TEST_F(JpegFolderTest, Training_SeesTheSpecifiedRegionOfSeedEpochAndSample) {
  const int64_t heights[] = {30, 41, 6, 1}, widths[] = {40, 22, 60, 1};
  std::vector<RgbImage> images;
  for (size_t i = 0; i < 4; ++i) {
    WriteWaves(absl::StrCat("a/", i, ".jpg"), heights[i], widths[i], static_cast<int>(i));
    images.push_back(*DecodeJpeg(ReadAll(folder_ / absl::StrCat("a/", i, ".jpg"))));
  }
  std::set<std::vector<float>> seen;
  int mirrored = 0, middles = 0;
  for (const uint64_t seed : {0, 5}) {
    const auto data = Open({.image_size = 7, .classes = 1, .augmentation_seed = seed});
    for (int64_t epoch = 0; epoch < 8; ++epoch) {
      for (size_t i = 0; i < 4; ++i) {
        const auto sample = static_cast<int64_t>(i);
        const View view = Drawn(seed, epoch, sample, heights[i], widths[i], 7);
        const std::vector<float> pixels = Pixels(*data, sample, epoch);
        ASSERT_NO_FATAL_FAILURE(ExpectSees(pixels, images[i], view)) << epoch << " " << i;
        EXPECT_EQ(Pixels(*data, sample, epoch), pixels);
        if (i < 2) seen.insert(pixels);
        mirrored += view.mirrored ? 1 : 0;
        middles += i == 2 && view.columns.size == 8 && view.columns.begin == 26 ? 1 : 0;
      }
    }
  }
  EXPECT_EQ(seen.size(), 32u);
  EXPECT_GT(mirrored, 16);
  EXPECT_LT(mirrored, 48);
  EXPECT_GT(middles,
            0);  // Ten tries without a region that fits, where an image is ten times wider.
}

}  // namespace
}  // namespace sdp
