#include "common/checkpoint/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

CheckpointManifest Example() {
  CheckpointManifest manifest;
  manifest.step = 500;
  manifest.generation = Generation(3);
  manifest.cursor = SampleCursor(16000, {{40, 8}, {500, 1}});
  manifest.config = "[model]\npreset = \"llama-tiny\"  # \"quoted\", \u00e9\n";
  manifest.config_hash = "0123456789abcdef";
  manifest.coverage = {1, 0.5, 1.0 / 3};
  manifest.data = {100, 0xffffffffffffffff, 7, 1};
  manifest.plan_hash = 0x8000000000000001;
  manifest.files = {{"shard-0-of-2.gen-3.safetensors", 1000, {{FragmentId(0), 10, 5, 1, {2, 3}}}},
                    {"shard-1-of-2.gen-3.safetensors",
                     2000,
                     {{FragmentId(1), 4, 5, 4, {5, 6}}, {FragmentId(2), 6, 5, 7, {}}}}};
  return manifest;
}

TEST(ManifestTest, Json_AndBack_IsTheSame) {
  const absl::StatusOr<CheckpointManifest> read = ParseManifest(ManifestJson(Example()));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, Example());
}

TEST(ManifestTest, Format1_HadNothingReturned) {
  CheckpointManifest old = Example();
  old.cursor = SampleCursor(16000);
  const std::string text = absl::StrReplaceAll(
      ManifestJson(old), {{"\"format\": 2", "\"format\": 1"}, {"\"returned\": [],", ""}});
  const absl::StatusOr<CheckpointManifest> read = ParseManifest(text);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, old);
}

// Every prefix of a manifest, as a torn write leaves it, is refused.
TEST(ManifestTest, CutAnywhere_IsRefused) {
  const std::string text = ManifestJson(Example());
  for (size_t size = 0; size + 2 < text.size(); ++size) {
    EXPECT_EQ(ParseManifest(text.substr(0, size)).status().code(),
              absl::StatusCode::kInvalidArgument)
        << size;
  }
}

TEST(ManifestTest, WrongFields_AreNamed) {
  const std::string good = ManifestJson(Example());
  const struct {
    const char* from;
    const char* to;
    const char* says;
  } cases[] = {
      {"\"format\": 2", "\"format\": 3", "format 3"},
      {"\"format\": 2", "\"format\": 0", "format 0"},
      {"\"returned\"", "\"retained\"", "\"returned\""},
      {"\"cursor\": 16000", "\"cursor\": 500", "\"returned\""},  // 500 was not taken yet
      {"\"step\": 500", "\"step\": -1", "\"step\""},
      {"\"step\": 500", "\"step\": 1e300", "\"step\""},
      {"\"step\": 500", "\"step\": 18446744073709551615", "\"step\""},
      {"\"step\": 500", "\"stop\": 500", "\"step\""},
      {"0.5", "0", "\"coverage\""},
      {"0.5", "\"x\"", "\"coverage\""},
      {"\"fragment\": 1,", "\"fragment\": 3000000000,", "\"fragment\""},
      {"\"fragments\": [", "\"fragments\": 3, \"rest\": [", "\"fragments\""},
      {"shard-0-of-2.gen-3.safetensors", "../../etc/passwd", "plain name"},
      {"ffffffffffffffff", "fffffffffffffffg", "train_checksum"},
      {"\"config_hash\": \"0123456789abcdef\"", "\"config_hash\": 7", "\"config_hash\""},
  };
  for (const auto& c : cases) {
    const std::string text = absl::StrReplaceAll(good, {{c.from, c.to}});
    ASSERT_NE(text, good) << c.from;
    const absl::Status status = ParseManifest(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.to;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says)) << c.to;
  }
  for (const char* text : {"", "[]", "7", "null", "{}", "{\"format\":[]}"}) {
    EXPECT_FALSE(ParseManifest(text).ok()) << text;
  }
}

TEST(ManifestTest, CheckComplete_NamesWhatIsMissingTwiceOrOfAnotherSize) {
  Catalog catalog;
  catalog.tensors.push_back({"a", {20}, {}, true});
  UnitSpec unit;
  unit.name = "a";
  unit.slices.push_back({0});
  unit.params = 20;
  catalog.units.push_back(unit);
  const Layout layout(catalog, /*max_fragment=*/10);  // two fragments of 10
  CheckpointManifest manifest;
  manifest.files = {{"x", 1, {{FragmentId(0), 10, 0, 0, {}}, {FragmentId(1), 10, 0, 0, {}}}}};
  EXPECT_EQ(CheckComplete(manifest, layout), absl::OkStatus());
  const auto broken = [&](auto change, const char* says) {
    CheckpointManifest copy = manifest;
    change(copy.files[0].fragments);
    const absl::Status status = CheckComplete(copy, layout);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  };
  broken([](auto& f) { f.pop_back(); }, "fragment 1 is missing");
  broken([](auto& f) { f.push_back(f[0]); }, "fragment 0 is there twice");
  broken([](auto& f) { f[1].size = 9; }, "fragment 1 has 9 elements");
  broken([](auto& f) { f[1].fragment = FragmentId(2); }, "fragment 2 is not one of the model's");
}

TEST(ManifestTest, Names_OnlyOursAreSteps) {
  EXPECT_EQ(StepOfCheckpoint(CheckpointName(0)), 0);
  EXPECT_EQ(StepOfCheckpoint(CheckpointName(123456789012)), 123456789012);
  for (const char* name : {"step-", "step-x", "step--1", "step-01", "step-+1",
                           "step-1.before-gen-2", "manifest.json", "step-99999999999999999999"}) {
    EXPECT_EQ(StepOfCheckpoint(name), -1) << name;
  }
}

}  // namespace
}  // namespace sdp
