#include "server/shard/service/start_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "common/model/llama.h"
#include "server/shard/service/optimizer_options.h"
#include "tests/export/dense_folder.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

Catalog SmallCatalog() {
  Catalog catalog;
  catalog.tensors = {{"w", {3, 2}, {InitialValues::Kind::kOnes, 0}, true}};
  UnitSpec unit;
  unit.name = "u";
  unit.slices = {{0, -1, 0, 0}};
  unit.params = 6;
  catalog.units = {unit};
  return catalog;
}

std::string WriteFile(const std::string& header, const std::vector<float>& data) {
  const std::string path = ::testing::TempDir() + "/start_values_test.safetensors";
  std::ofstream file(path, std::ios::binary);
  const uint64_t size = header.size();
  file.write(reinterpret_cast<const char*>(&size), 8);
  file << header;
  file.write(reinterpret_cast<const char*>(data.data()),
             static_cast<std::streamsize>(4 * data.size()));
  return path;
}

class StartValuesTest : public ::testing::Test {
 protected:
  const Catalog catalog_ = SmallCatalog();
  const Layout layout_{catalog_, 4};
  static StartState InitFile(const std::string& path) {
    StartState start;
    start.init_path = path;
    start.factors = {0.5};  // of a dense model; a file's values are raw
    return start;
  }
  StartValues values_{&catalog_, &layout_, 1};
  OptimizerState state_;  // without moments
};

TEST_F(StartValuesTest, FileThatCannotBe_IsNamed) {
  EXPECT_THAT(values_.ReadFrom(InitFile("/nowhere/x.safetensors")).message(),
              HasSubstr("/nowhere/x.safetensors"));
  const std::string path =
      WriteFile(R"({"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})", {1, 2, 3, 4, 5, 6});
  EXPECT_THAT(values_.ReadFrom(InitFile(path)).message(), HasSubstr("w"));
}

TEST_F(StartValuesTest, Drawn_WithoutAFile) {
  std::vector<float> values(4);
  values_.Fill(FragmentId(0), absl::MakeSpan(values), state_);
  EXPECT_EQ(values, (std::vector<float>{1, 1, 1, 1}));
}

TEST_F(StartValuesTest, Read_OnlyTheFragment) {
  const std::string path =
      WriteFile(R"({"w":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]}})", {1, 2, 3, 4, 5, 6});
  ASSERT_TRUE(values_.ReadFrom(InitFile(path)).ok());
  std::vector<float> values(2);
  values_.Fill(FragmentId(1), absl::MakeSpan(values), state_);
  EXPECT_TRUE(values_.status().ok()) << values_.status();
  EXPECT_EQ(values, (std::vector<float>{5, 6}));
}

// The full model multiplies each branch by its unit's factor, so what ends the branch is divided.
TEST(StartFromFolderTest, LastMapOfABranch_IsDividedByItsUnitsFactor) {
  const std::string path = ::testing::TempDir() + "/start_values_test-folder";
  const DenseFolder dense;
  dense.Write(path);
  for (const Catalog& catalog : {LlamaCatalog(dense.spec, TransformerUnit::kSublayer, 8),
                                 LlamaCatalog(dense.spec, TransformerUnit::kLayer, 8),
                                 LlamaNeuronCatalog(dense.spec, {.groups = 3}, 8)}) {
    const Layout layout(catalog, 100);
    StartState start;
    start.init_path = path;
    for (size_t u = 0; u < catalog.units.size(); ++u) {
      start.factors.push_back(catalog.units[u].shared ? 1 : 1.0 / static_cast<double>(u + 1));
    }
    StartValues values(&catalog, &layout, 1);
    ASSERT_EQ(values.ReadFrom(start), absl::OkStatus());
    int divided = 0;
    OptimizerState state;
    for (int f = 0; f < layout.fragments(); ++f) {
      std::vector<float> read(static_cast<size_t>(layout.fragment(FragmentId(f)).size));
      values.Fill(FragmentId(f), absl::MakeSpan(read), state);
      const int owner = layout.fragment(FragmentId(f)).unit.value();
      for (const Piece& piece : layout.pieces(FragmentId(f))) {
        const std::string& name = catalog.tensors[static_cast<size_t>(piece.tensor)].name;
        const bool last = absl::StrContains(name, "o_proj") || absl::StrContains(name, "down_proj");
        divided += last ? 1 : 0;
        const float divisor = last ? 1.0f / static_cast<float>(owner + 1) : 1.0f;
        for (int64_t i = 0; i < piece.size; ++i) {
          ASSERT_EQ(read[static_cast<size_t>(piece.fragment_offset + i)],
                    DenseFolder::Value(name, piece.tensor_offset + i) / divisor)
              << name;
        }
      }
    }
    EXPECT_EQ(values.status(), absl::OkStatus());
    EXPECT_GT(divided, 0);
  }
  std::filesystem::remove_all(path);
}

TEST(StartFromFolderTest, FolderThatCannotBe_IsNamed) {
  const std::string path = ::testing::TempDir() + "/start_values_test-folder";
  DenseFolder dense;
  dense.Write(path);
  const Catalog catalog = LlamaCatalog(dense.spec, TransformerUnit::kSublayer, 8);
  const Layout layout(catalog);
  StartState start;
  start.init_path = path;
  StartValues values(&catalog, &layout, 1);
  EXPECT_THAT(values.ReadFrom(start).message(), HasSubstr("factors of 0 units"));
  start.factors.assign(catalog.units.size(), 1);
  dense.spec.layers = 5;
  dense.Write(path);
  EXPECT_THAT(values.ReadFrom(start).message(), HasSubstr("model.layers.4."));
  std::filesystem::remove(path + "/config.json");
  EXPECT_THAT(values.ReadFrom(start).message(), HasSubstr(path + "/config.json"));
  std::filesystem::remove_all(path);
}

// A checkpoint's values and optimizer state come back, whatever the number of shards that wrote it.
TEST_F(StartValuesTest, Restored_FromACheckpoint) {
  const std::string path = ::testing::TempDir() + "/start_values_test-step-7";
  const std::vector<float> value = {5, 6}, first = {1, 2}, second = {3, 4};
  auto writer = CheckpointFileWriter::Create(path, "part.safetensors", {{FragmentId(1), 2}}, 2);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Add(value, {first, second}, 7).ok());
  const auto file = (*writer)->Finish();
  ASSERT_TRUE(file.ok());
  CheckpointManifest manifest;
  manifest.step = 7;
  manifest.files = {*file};
  ASSERT_TRUE(WriteManifest(path, manifest).ok());

  StartState start;
  start.step = 7;
  start.checkpoint = path;
  ASSERT_EQ(values_.ReadFrom(start), absl::OkStatus());
  std::vector<float> values(2);
  state_.moments.push_back(FloatBuffer::Zeros(2));
  state_.moments.push_back(FloatBuffer::Zeros(2));
  values_.Fill(FragmentId(1), absl::MakeSpan(values), state_);
  EXPECT_EQ(values_.status(), absl::OkStatus());
  EXPECT_EQ(values, value);
  EXPECT_EQ(std::vector<float>(state_.moments[1].span().begin(), state_.moments[1].span().end()),
            second);
  EXPECT_EQ(state_.updates, 7);

  state_.moments.pop_back();  // SGD on the state of AdamW
  values_.Fill(FragmentId(1), absl::MakeSpan(values), state_);
  EXPECT_EQ(values_.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(RemoveCheckpoint(path), absl::OkStatus());
}

TEST(OptimizerOptionsTest, AreTheConfigs) {
  RunConfig::Train train;
  train.set_optimizer("sgd");
  train.set_schedule("cosine");
  train.set_lr(0.25);
  train.set_momentum(0.5);
  train.set_weight_decay(0.125);
  train.set_steps(7);
  train.set_warmup_steps(2);
  OptimizerOptions options = OptimizerOptionsOf(train);
  EXPECT_EQ(options.kind, OptimizerOptions::Kind::kSgd);
  EXPECT_EQ(options.schedule, OptimizerOptions::Schedule::kCosine);
  EXPECT_EQ(options.lr, 0.25);
  EXPECT_EQ(options.momentum, 0.5);
  EXPECT_EQ(options.weight_decay, 0.125);
  EXPECT_EQ(options.steps, 7);
  EXPECT_EQ(options.warmup_steps, 2);
  EXPECT_FALSE(options.nesterov);
  train.set_nesterov(true);
  train.set_schedule("wsd");
  train.set_decay_fraction(0.75);
  options = OptimizerOptionsOf(train);
  EXPECT_TRUE(options.nesterov);
  EXPECT_EQ(options.schedule, OptimizerOptions::Schedule::kWarmupStableDecay);
  EXPECT_EQ(options.decay_fraction, 0.75);
  train.set_optimizer("adamw");
  train.set_schedule("constant");
  train.add_betas(0.8);
  train.add_betas(0.9);
  train.set_eps(1e-6);
  options = OptimizerOptionsOf(train);
  EXPECT_EQ(options.kind, OptimizerOptions::Kind::kAdamW);
  EXPECT_EQ(options.schedule, OptimizerOptions::Schedule::kConstant);
  EXPECT_EQ(options.beta1, 0.8);
  EXPECT_EQ(options.beta2, 0.9);
  EXPECT_EQ(options.eps, 1e-6);
}

}  // namespace
}  // namespace sdp
