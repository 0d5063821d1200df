// CIFAR's binary files: what is refused, what a pixel becomes, and how training sees an image.
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/base/hash.h"
#include "common/base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/data/files.h"
#include "tests/places/places.h"
#include "worker/data/image_dataset.h"

namespace sdp {
namespace {

constexpr int kSide = 32, kPlane = kSide * kSide;

// An image whose bytes tell where they are: 1 + a number below 200.
unsigned char Byte(int image, int channel, int row, int column) {
  return static_cast<unsigned char>(1 + (image * 31 + channel * 67 + row * 7 + column * 3) % 199);
}

std::string Image(int image, const std::vector<int>& labels) {
  std::string bytes;
  for (const int label : labels) bytes.push_back(static_cast<char>(label));
  for (int channel = 0; channel < 3; ++channel) {
    for (int i = 0; i < kPlane; ++i)
      bytes.push_back(static_cast<char>(Byte(image, channel, i / kSide, i % kSide)));
  }
  return bytes;
}

std::vector<float> Pixels(const ImageDataset& data, int64_t sample, int64_t epoch = 0) {
  std::vector<float> pixels(3 * kPlane);
  EXPECT_TRUE(data.Read(sample, epoch, absl::MakeSpan(pixels)).ok());
  return pixels;
}

float Cifar10Pixel(int channel, int byte) {
  const double mean[] = {0.4914, 0.4822, 0.4465}, std[] = {0.2470, 0.2435, 0.2616};
  return static_cast<float>((byte / 255.0 - mean[channel]) / std[channel]);
}

void ExpectInvalid(const absl::StatusOr<std::unique_ptr<ImageDataset>>& result,
                   const std::vector<std::string>& says) {
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
  for (const std::string& text : says)
    EXPECT_THAT(result.status().message(), ::testing::HasSubstr(text));
}

// ---- Errors ----

TEST(CifarDatasetTest, BadFiles_AreNamed) {
  EXPECT_EQ(OpenCifar({"no/such.bin"}, kCifar10, {}).status().code(), absl::StatusCode::kNotFound);
  const std::string good = WriteFile("good.bin", Image(0, {3}));
  const std::string empty = WriteFile("empty.bin", "");
  ExpectInvalid(OpenCifar({good, empty}, kCifar10, {}), {empty});
  const std::string cut = WriteFile("cut.bin", Image(0, {3}).substr(0, 3000));
  ExpectInvalid(OpenCifar({good, cut}, kCifar10, {}), {cut, "3000 bytes", "CIFAR-10", "3073"});
  // A file of the other kind.
  ExpectInvalid(OpenCifar({good}, kCifar100, {}), {good, "3073 bytes", "CIFAR-100", "3074"});
}

TEST(CifarDatasetTest, ClassThatDoesNotExist_NamesImageAndClass) {
  const std::string ten = WriteFile("ten.bin", Image(0, {9}) + Image(1, {10}));
  ExpectInvalid(OpenCifar({ten}, kCifar10, {}), {ten, "class 10 of image 1", "0 to 9"});
  const std::string hundred = WriteFile("hundred.bin", Image(0, {255, 99}) + Image(1, {0, 100}));
  ExpectInvalid(OpenCifar({hundred}, kCifar100, {}), {"class 100 of image 1", "0 to 99"});
}

// ---- As it is ----

TEST(CifarDatasetTest, Cifar10_PixelsAreNormedPlaneByPlane) {
  const std::string a = WriteFile("a.bin", Image(0, {3}) + Image(1, {9}));
  const std::string b = WriteFile("b.bin", Image(2, {0}));
  const auto data = OpenCifar({a, b}, kCifar10, {});
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ((*data)->samples(), 3);
  EXPECT_EQ((*data)->classes(), 10);
  EXPECT_EQ((*data)->terms_per_sample(), 1);
  EXPECT_EQ((*data)->shape().elements(), 3 * kPlane);
  std::vector<float> pixels(3 * kPlane);
  for (int image = 0; image < 3; ++image) {
    const int64_t label = *(*data)->Read(image, /*epoch=*/5, absl::MakeSpan(pixels));
    EXPECT_EQ(label, (std::vector<int64_t>{3, 9, 0})[static_cast<size_t>(image)]);
    for (int i = 0; i < 3 * kPlane; ++i) {
      const int channel = i / kPlane, row = i % kPlane / kSide, column = i % kSide;
      ASSERT_EQ(pixels[static_cast<size_t>(i)],
                Cifar10Pixel(channel, Byte(image, channel, row, column)))
          << "image " << image << " at " << i;
    }
  }
}

TEST(CifarDatasetTest, Cifar100_TheFineClassCounts) {
  const std::string file = WriteFile("fine.bin", Image(0, {4, 71}));
  const auto data = OpenCifar({file}, kCifar100, {});
  ASSERT_TRUE(data.ok()) << data.status();
  std::vector<float> pixels(3 * kPlane);
  EXPECT_EQ(*(*data)->Read(0, 0, absl::MakeSpan(pixels)), 71);
  EXPECT_EQ((*data)->classes(), 100);
  EXPECT_EQ(pixels[0], static_cast<float>((Byte(0, 0, 0, 0) / 255.0 - 0.5071) / 0.2673));
}

TEST(CifarDatasetTest, Checksum_IsOfTheContent) {
  const std::string a = WriteFile("a.bin", Image(0, {3})), b = WriteFile("b.bin", Image(1, {3}));
  const std::string joined = WriteFile("ab.bin", Image(0, {3}) + Image(1, {3}));
  const auto checksum = [](const std::vector<std::string>& files) {
    return (*OpenCifar(files, kCifar10, 1))->checksum();
  };
  EXPECT_EQ(checksum({a, b}), checksum({joined}));
  EXPECT_NE(checksum({a, b}), checksum({b, a}));
}

// ---- Augmentation ----

// Where the window of an image was cut, and whether it is mirrored: found by trying all.
struct View {
  int row, column;
  bool mirrored;
  auto operator<=>(const View&) const = default;
};

std::vector<float> Expected(int image, const View& view) {
  std::vector<float> pixels;
  for (int channel = 0; channel < 3; ++channel) {
    for (int row = 0; row < kSide; ++row) {
      for (int i = 0; i < kSide; ++i) {
        const int column = view.mirrored ? kSide - 1 - i : i;
        const int y = row + view.row - 4, x = column + view.column - 4;
        const bool inside = y >= 0 && y < kSide && x >= 0 && x < kSide;
        pixels.push_back(Cifar10Pixel(channel, inside ? Byte(image, channel, y, x) : 0));
      }
    }
  }
  return pixels;
}

TEST(CifarDatasetTest, Augmentation_IsTheSpecifiedFunctionOfSeedEpochAndSample) {
  const std::string file = WriteFile("four.bin", Image(0, {0}) + Image(1, {1}) + Image(2, {2}));
  std::set<View> seen;
  for (const uint64_t seed : {0, 1}) {
    const auto data = OpenCifar({file}, kCifar10, seed);
    ASSERT_TRUE(data.ok()) << data.status();
    for (int64_t epoch = 0; epoch < 60; ++epoch) {
      for (const int64_t sample : {0, 2}) {
        const uint64_t r = RandomBits(seed, Hash64("augmentation") + static_cast<uint64_t>(epoch),
                                      static_cast<uint64_t>(sample));
        const auto place = static_cast<int>(((r & 0xffffffff) * 81) >> 32);
        const View view = {place / 9, place % 9, (r >> 63) == 1};
        ASSERT_EQ(Pixels(**data, sample, epoch), Expected(static_cast<int>(sample), view))
            << "epoch " << epoch << " sample " << sample;
        seen.insert(view);
      }
    }
  }
  // 240 draws of 162 views: about 125 of them; all rows, columns and both ways are among them.
  EXPECT_GT(seen.size(), 100u);
  std::set<int> rows, columns;
  for (const View& view : seen) {
    rows.insert(view.row);
    columns.insert(view.column);
  }
  EXPECT_EQ(rows.size(), 9u);
  EXPECT_EQ(columns.size(), 9u);
}

TEST(CifarDatasetTest, RealFiles_Open) {
  const std::filesystem::path folder = TestDataFolder() / "cifar10";
  if (!std::filesystem::exists(folder)) {
    GTEST_SKIP() << "no " << folder << "; set SDP_TEST_DATA to a folder with the shared test data";
  }
  const auto data = OpenCifar({(folder / "data_batch_1.bin").string()}, kCifar10, {});
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ((*data)->samples(), 10000);
  // Mean 0 and standard deviation 1 over many images, within what differs between images.
  double sum = 0, squares = 0;
  std::map<int64_t, int> classes;
  std::vector<float> pixels(3 * kPlane);
  for (int64_t sample = 0; sample < 500; ++sample) {
    ++classes[*(*data)->Read(sample, 0, absl::MakeSpan(pixels))];
    for (const float pixel : pixels) {
      sum += pixel;
      squares += pixel * pixel;
    }
  }
  EXPECT_EQ(classes.size(), 10u);
  EXPECT_NEAR(sum / (500.0 * 3 * kPlane), 0, 0.05);
  EXPECT_NEAR(squares / (500.0 * 3 * kPlane), 1, 0.1);
}

}  // namespace
}  // namespace sdp
