#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/float_buffer.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "common/checkpoint/manifest.h"
#include "common/config/config.h"
#include "common/model/initial_values.h"
#include "common/run/run_setup.h"
#include "gtest/gtest.h"
#include "tests/cluster_process/temp_folder.h"

namespace sdp {

// A run folder as a run leaves it, without the run: config.toml and checkpoints of random weights.
class StoredRun {
 public:
  // Sizes of a small model with two kv heads for four heads, and of images.
  static constexpr char kLlama[] =
      "[model]\narch = 'llama'\ndim = 16\nlayers = 2\nheads = 4\nkv_heads = 2\nffn_dim = 24\n"
      "vocab = 300\n[data]\nseq_len = 40\n";
  static constexpr char kResnet[] =
      "[model]\narch = 'resnet'\nwidths = [8, 16]\ndepths = [2, 1]\nnorm_groups = 4\n"
      "[data]\nkind = 'cifar100'\n";

  static constexpr char kSwin[] =
      "[model]\narch = 'swin'\ndim = 8\ndepths = [2, 1]\nlevel_heads = [4, 8]\nwindow = 4\n"
      "patch = 4\n[data]\nkind = 'cifar100'\n";

  // `sets` change the config. The training data do not exist but for a text.
  explicit StoredRun(const std::vector<std::string>& sets = {}, const char* model = kLlama) {
    WriteAll(folder_ / "text", std::string(200, 'a'));
    const std::string config =
        absl::StrCat(model, "train = ['", folder_ / "text", "']\n[run]\ndir = '", dir(),
                     "'\n[cluster]\nworkers = 4\nshards = 2\n[sdp]\nholders = 3\n");
    auto loaded = LoadConfigText(config, "test", sets);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    loaded_ = *std::move(loaded);
    auto setup = MakeRunSetup(loaded_.config);
    EXPECT_TRUE(setup.ok()) << setup.status();
    setup_ = std::make_unique<RunSetup>(*std::move(setup));
    std::filesystem::create_directory(dir());
    EXPECT_EQ(WriteResolved(loaded_, dir() + "/config.toml"), absl::OkStatus());
  }

  std::string dir() const { return folder_ / "run"; }
  const TempFolder& folder() const { return folder_; }
  const RunSetup& setup() const { return *setup_; }
  std::string CheckpointPath(Step step) const {
    return absl::StrCat(dir(), "/checkpoints/", CheckpointName(step));
  }

  // Other values at each step, on two shards.
  void WriteCheckpoint(Step step) const {
    CheckpointManifest manifest;
    manifest.step = step;
    manifest.config = PrintConfig(loaded_);
    manifest.config_hash = setup_->config_hash;
    manifest.coverage = setup_->coverage;
    const std::vector<ShardId> place = setup_->layout.Place(2);
    for (int shard = 0; shard < 2; ++shard) {
      std::vector<CheckpointFileWriter::Fragment> fragments;
      for (int id = 0; id < setup_->layout.fragments(); ++id) {
        if (place[static_cast<size_t>(id)] == ShardId(shard)) {
          fragments.push_back({FragmentId(id), setup_->layout.fragment(FragmentId(id)).size});
        }
      }
      auto file = CheckpointFileWriter::Create(
          CheckpointPath(step), CheckpointFileName(ShardId(shard), 2, Generation(1)), fragments, 0);
      ASSERT_TRUE(file.ok()) << file.status();
      for (const auto& fragment : fragments) {
        ASSERT_EQ((*file)->Add(Fragment(fragment.id, step).span(), {}, 1), absl::OkStatus());
      }
      auto finished = (*file)->Finish();
      ASSERT_TRUE(finished.ok()) << finished.status();
      manifest.files.push_back(*std::move(finished));
    }
    ASSERT_EQ(WriteManifest(CheckpointPath(step), manifest), absl::OkStatus());
  }

  FloatBuffer Fragment(FragmentId id, Step step) const {
    FloatBuffer values(setup_->layout.fragment(id).size);
    FillInitialValues(setup_->catalog, setup_->layout, id, static_cast<uint64_t>(step),
                      values.span());
    // A trained model's norms are not all ones, nor its logits all alike.
    for (int64_t i = 0; i < values.size(); ++i) {
      float& value = values.data()[i];
      value = value == 1 ? 1 + 0.01f * static_cast<float>(i % 17) : 5 * value;
    }
    return values;
  }

  // The tensor's values at a step, put together from the fragments by their pieces.
  std::vector<float> Tensor(int tensor, Step step) const {
    std::vector<float> values(
        static_cast<size_t>(setup_->catalog.tensors[static_cast<size_t>(tensor)].elements()));
    for (int id = 0; id < setup_->layout.fragments(); ++id) {
      const FloatBuffer fragment = Fragment(FragmentId(id), step);
      for (const Piece& piece : setup_->layout.pieces(FragmentId(id))) {
        if (piece.tensor != tensor) continue;
        std::copy_n(fragment.data() + piece.fragment_offset, piece.size,
                    values.data() + piece.tensor_offset);
      }
    }
    return values;
  }

 private:
  TempFolder folder_;
  LoadedConfig loaded_;
  std::unique_ptr<RunSetup> setup_;
};

}  // namespace sdp
