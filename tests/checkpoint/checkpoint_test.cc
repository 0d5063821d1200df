#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/checkpoint/checkpoint_reader.h"
#include "common/checkpoint/checkpoint_writer.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kSize = 1000;  // elements of a fragment

std::vector<float> Numbers(int fragment, int tensor) {
  std::vector<float> numbers(kSize);
  std::iota(numbers.begin(), numbers.end(), static_cast<float>(10000 * fragment + 1000 * tensor));
  return numbers;
}

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    std::string path = ::testing::TempDir() + "sdp-checkpoint-XXXXXX";
    folder_ = mkdtemp(path.data());
  }
  ~CheckpointTest() override { fs::remove_all(folder_); }

  std::string Path(Step step) const { return folder_ / CheckpointName(step); }

  // Fragments 0 and 2 by shard 0, 1 by shard 1; a value and two moments each.
  void Write(Step step, bool complete = true) {
    CheckpointManifest manifest;
    manifest.step = step;
    manifest.generation = Generation(1);
    const std::vector<std::vector<int>> shards = {{0, 2}, {1}};
    for (int s = 0; s < 2; ++s) {
      std::vector<CheckpointFileWriter::Fragment> fragments;
      for (const int f : shards[static_cast<size_t>(s)])
        fragments.push_back({FragmentId(f), kSize});
      auto writer = CheckpointFileWriter::Create(
          Path(step), CheckpointFileName(ShardId(s), 2, Generation(1)), fragments, 2);
      ASSERT_TRUE(writer.ok()) << writer.status();
      for (const int f : shards[static_cast<size_t>(s)]) {
        const auto value = Numbers(f, 0), first = Numbers(f, 1), second = Numbers(f, 2);
        ASSERT_EQ((*writer)->Add(value, {first, second}, 100 + f), absl::OkStatus());
      }
      const auto file = (*writer)->Finish();
      ASSERT_TRUE(file.ok()) << file.status();
      EXPECT_EQ(file->bytes, static_cast<int64_t>(fs::file_size(Path(step) + "/" + file->name)));
      manifest.files.push_back(*file);
    }
    if (!complete) return;
    ASSERT_EQ(WriteManifest(Path(step), manifest), absl::OkStatus());
  }

  // What opening and verifying says.
  absl::Status Check(Step step) const {
    const auto reader = CheckpointReader::Open(Path(step));
    return reader.ok() ? (*reader)->Verify() : reader.status();
  }

  fs::path folder_;
};

TEST_F(CheckpointTest, WhatWasWritten_IsRead) {
  Write(5);
  const auto reader = CheckpointReader::Open(Path(5));
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->Verify(), absl::OkStatus());
  EXPECT_EQ((*reader)->manifest().step, 5);
  std::vector<float> read(kSize);
  for (int f = 0; f < 3; ++f) {
    ASSERT_EQ((*reader)->ReadValue(FragmentId(f), absl::MakeSpan(read)), absl::OkStatus());
    EXPECT_EQ(read, Numbers(f, 0));
    for (int m = 0; m < 2; ++m) {
      ASSERT_EQ((*reader)->ReadMoment(FragmentId(f), m, absl::MakeSpan(read)), absl::OkStatus());
      EXPECT_EQ(read, Numbers(f, 1 + m));
    }
    EXPECT_EQ((*reader)->moments(FragmentId(f)), 2);
    EXPECT_EQ((*reader)->updates(FragmentId(f)), 100 + f);
  }
  EXPECT_TRUE(absl::IsNotFound((*reader)->ReadValue(FragmentId(3), absl::MakeSpan(read))));
  EXPECT_TRUE(absl::IsNotFound((*reader)->ReadMoment(FragmentId(0), 2, absl::MakeSpan(read))));
}

TEST_F(CheckpointTest, List_HasThoseWithAManifest_Ascending) {
  EXPECT_THAT(*ListCheckpoints(folder_ / "nowhere"), ElementsAre());
  Write(20);
  Write(3);
  Write(100);
  Write(50, /*complete=*/false);
  fs::create_directory(folder_ / "else");
  EXPECT_THAT(*ListCheckpoints(folder_), ElementsAre(3, 20, 100));
  EXPECT_TRUE(absl::IsNotFound(Check(50)));
}

// One flipped bit anywhere in the tensors: found, and the file named.
TEST_F(CheckpointTest, FlippedBits_AreFound) {
  Write(5);
  ASSERT_EQ(Check(5), absl::OkStatus());
  const std::string name = CheckpointFileName(ShardId(1), 2, Generation(1));
  std::fstream file(Path(5) + "/" + name, std::ios::in | std::ios::out | std::ios::binary);
  uint64_t header = 0;
  file.read(reinterpret_cast<char*>(&header), sizeof(header));
  const auto size = static_cast<int64_t>(fs::file_size(Path(5) + "/" + name));
  const auto flip = [&](int64_t at) {
    file.seekg(at);
    const char byte = static_cast<char>(file.get() ^ 0x10);
    file.seekp(at);
    file.put(byte);
    file.flush();
  };
  for (int64_t at = static_cast<int64_t>(sizeof(header) + header); at < size; at += 97) {
    flip(at);
    EXPECT_TRUE(absl::IsDataLoss(Check(5))) << "byte " << at;
    EXPECT_THAT(std::string(Check(5).message()), HasSubstr(name));
    flip(at);
  }
  EXPECT_EQ(Check(5), absl::OkStatus());
}

TEST_F(CheckpointTest, TruncatedOrMissingFiles_AreNamed) {
  Write(5);
  const std::string name = CheckpointFileName(ShardId(1), 2, Generation(1));
  fs::resize_file(Path(5) + "/" + name, fs::file_size(Path(5) + "/" + name) - 1);
  EXPECT_TRUE(absl::IsDataLoss(Check(5)));
  EXPECT_THAT(std::string(Check(5).message()), HasSubstr(name));
  fs::remove(Path(5) + "/" + name);
  EXPECT_TRUE(absl::IsDataLoss(Check(5)));
  EXPECT_THAT(std::string(Check(5).message()), HasSubstr(name));
}

TEST_F(CheckpointTest, SetAside_MovesLaterOnesOnly) {
  for (const Step step : {5, 10, 15}) Write(step, step != 15);
  const auto moved = SetAsideCheckpoints(folder_, 5, Generation(2));
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_THAT(*moved, ElementsAre("step-10.before-gen-2", "step-15.before-gen-2"));
  EXPECT_THAT(*ListCheckpoints(folder_), ElementsAre(5));
  EXPECT_EQ(Check(5), absl::OkStatus());
  EXPECT_THAT(*SetAsideCheckpoints(folder_, 5, Generation(3)), ElementsAre());
}

TEST_F(CheckpointTest, Remove_LeavesNothing_AndTwiceIsFine) {
  Write(5);
  EXPECT_EQ(RemoveCheckpoint(Path(5)), absl::OkStatus());
  EXPECT_FALSE(fs::exists(Path(5)));
  EXPECT_EQ(RemoveCheckpoint(Path(5)), absl::OkStatus());
}

TEST_F(CheckpointTest, WhatIsNotFinished_LeavesNoFile) {
  {
    auto writer = CheckpointFileWriter::Create(Path(1), "a.safetensors", {{FragmentId(0), 4}}, 0);
    ASSERT_TRUE(writer.ok());
    EXPECT_FALSE((*writer)->Finish().ok());
  }
  EXPECT_FALSE(fs::exists(Path(1) + "/a.safetensors"));
}

TEST_F(CheckpointTest, FullDisk_IsResourceExhausted) {
  if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full";
  // A file that is /dev/full: writes of it fail as on a full disk.
  fs::create_directories(Path(1));
  fs::create_symlink("/dev/full", Path(1) + "/full.safetensors");
  auto writer =
      CheckpointFileWriter::Create(Path(1), "full.safetensors", {{FragmentId(0), 100000}}, 0);
  absl::Status status = writer.status();
  if (writer.ok()) {
    const std::vector<float> value(100000);
    status = (*writer)->Add(value, {}, 1);
    if (status.ok()) status = (*writer)->Finish().status();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("full.safetensors"));
}

}  // namespace
}  // namespace sdp
