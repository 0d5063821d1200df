#include "server/shard/service/snapshot_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/checkpoint/manifest.h"
#include "common/data/safetensors.h"
#include "tests/base/signal.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kSize = 100'000;  // elements of a fragment
constexpr int kFragments = 8;

class SnapshotWriterTest : public ::testing::Test {
 protected:
  SnapshotWriterTest() {
    std::string path = ::testing::TempDir() + "sdp-snapshot-XXXXXX";
    folder_ = mkdtemp(path.data());
    for (int f = 0; f < kFragments; ++f) {
      auto value = std::make_shared<FloatBuffer>(FloatBuffer::Zeros(kSize));
      value->data()[0] = static_cast<float>(f);
      values_.push_back(std::move(value));
      auto state = std::make_shared<OptimizerState>();
      state->moments.push_back(FloatBuffer::Zeros(kSize));
      state->updates = f;
      states_.push_back(std::move(state));
    }
  }
  ~SnapshotWriterTest() override { fs::remove_all(folder_); }

  SnapshotWriter::Options Options(const fs::path& folder) const {
    return {.folder = folder, .shard = ShardId(0), .shards = 1, .generation = Generation(1)};
  }
  Snapshot At(Step step) const {
    Snapshot snapshot;
    snapshot.step = step;
    for (size_t f = 0; f < kFragments; ++f) {
      snapshot.parts.push_back({FragmentId(static_cast<int>(f)), values_[f], states_[f]});
    }
    return snapshot;
  }

  fs::path folder_;
  std::vector<std::shared_ptr<FloatBuffer>> values_;
  std::vector<std::shared_ptr<OptimizerState>> states_;
};

// Three snapshots while the owner makes new versions and others ask how far it is. Each file has
// the numbers that its snapshot had, and a part is told once its values are let go of.
TEST_F(SnapshotWriterTest, FilesInOrder_WhileTheOwnerGoesOn) {
  Signal ended;
  std::atomic<bool> asking = true;
  std::vector<CheckpointPart> parts;
  std::vector<int> written;
  EventLoop owner("owner");
  SnapshotWriter writer(Options(folder_), &owner);
  std::thread asks([&] {
    while (asking) {
      const std::string phase = writer.phase();
      EXPECT_THAT(phase, AnyOf(IsEmpty(), HasSubstr("writing checkpoint")));
    }
  });
  owner.Post([&] {
    for (Step step = 1; step <= 3; ++step) {
      writer.Write(
          At(step), [&](FragmentId fragment) { written.push_back(fragment.value()); },
          [&](const CheckpointPart& part) {
            parts.push_back(part);
            if (parts.size() == 3) ended.Set();
          });
      // The next version is another buffer, since a snapshot holds this one.
      for (std::shared_ptr<FloatBuffer>& value : values_) {
        value = std::make_shared<FloatBuffer>(value->Clone());
        value->data()[0] += 100;
      }
    }
  });
  EXPECT_TRUE(ended.Wait());
  asking = false;
  asks.join();
  ASSERT_EQ(parts.size(), 3u);
  ASSERT_EQ(written.size(), static_cast<size_t>(3 * kFragments));
  for (size_t i = 0; i < written.size(); ++i) EXPECT_EQ(written[i], i % kFragments);
  for (Step step = 1; step <= 3; ++step) {
    const CheckpointPart& part = parts[static_cast<size_t>(step - 1)];
    EXPECT_EQ(part.step, step);
    EXPECT_EQ(part.error, "");
    ASSERT_EQ(part.file.fragments.size(), static_cast<size_t>(kFragments));
    const auto file = SafetensorsReader::Open(folder_ / CheckpointName(step) / part.file.name);
    ASSERT_TRUE(file.ok()) << file.status();
    for (int f = 0; f < kFragments; ++f) {
      EXPECT_EQ(part.file.fragments[static_cast<size_t>(f)].updates, f);
      std::vector<float> value(kSize);
      ASSERT_EQ((*file)->Read(ValueTensor(FragmentId(f)), 0, absl::MakeSpan(value)),
                absl::OkStatus());
      EXPECT_EQ(value[0], static_cast<float>(f + 100 * (step - 1)));
    }
  }
  EXPECT_EQ(writer.phase(), "");
}

TEST_F(SnapshotWriterTest, FolderThatCannotBe_IsThePartsError) {
  Signal ended;
  CheckpointPart told;
  EventLoop owner("owner");
  SnapshotWriter writer(Options("/dev/null/checkpoints"), &owner);
  writer.Write(
      At(5), [](FragmentId) { FAIL(); },
      [&](const CheckpointPart& part) {
        told = part;
        ended.Set();
      });
  ASSERT_TRUE(ended.Wait());
  EXPECT_EQ(told.step, 5);
  EXPECT_THAT(told.error, HasSubstr("/dev/null/checkpoints"));
}

TEST_F(SnapshotWriterTest, Destructor_LeavesAWholeFileOrNone) {
  EventLoop owner("owner");
  {
    SnapshotWriter writer(Options(folder_), &owner);
    for (Step step = 1; step <= 20; ++step)
      writer.Write(
          At(step), [](FragmentId) {}, [](const CheckpointPart&) {});
  }
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
    if (!entry.is_regular_file()) continue;
    ++files;
    const auto file = SafetensorsReader::Open(entry.path());
    EXPECT_TRUE(file.ok()) << file.status();
  }
  EXPECT_LE(files, 20);
}

}  // namespace
}  // namespace sdp
