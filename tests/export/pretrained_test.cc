#include "common/export/pretrained.h"

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/config/config.h"
#include "common/export/byte_tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cluster_process/temp_folder.h"
#include "tests/export/dense_folder.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class PretrainedTest : public ::testing::Test {
 protected:
  PretrainedTest() { dense_.Write(model_); }

  // A run with the folder's [model], then `sets`.
  RunSetup MakeSetup(std::vector<std::string> sets = {}) const {
    const auto settings = ModelSettings(model_);
    EXPECT_TRUE(settings.ok()) << settings.status();
    sets.insert(sets.begin(), settings->begin(), settings->end());
    const auto loaded = LoadConfigText("[data]\ntrain = ['a']\nseq_len = 64\n", "run.toml", sets);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    auto setup = MakeRunSetup(loaded->config);
    EXPECT_TRUE(setup.ok()) << setup.status();
    return *std::move(setup);
  }
  void ExpectRefused(const RunSetup& setup, absl::StatusCode code, const std::string& says) const {
    const absl::Status status = CheckPretrained(model_, setup);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  }

  TempFolder folder_;
  DenseFolder dense_;
  const std::string model_ = folder_ / "model";
};

TEST_F(PretrainedTest, OtherModelThanTheRuns_NamesKeyAndBothValues) {
  const struct {
    const char* key;
    const char* run;
    const char* folder;
  } cases[] = {
      {"model.dim", "32", "16"},          {"model.layers", "3", "4"},
      {"model.heads", "2", "4"},          {"model.kv_heads", "4", "2"},
      {"model.ffn_dim", "25", "24"},      {"model.vocab", "257", "256"},
      {"model.rope_theta", "1e4", "5e4"}, {"model.norm_eps", "1e-5", "1e-6"},
      {"model.tied", "false", "true"},
  };
  for (const auto& c : cases) {
    const RunSetup setup = MakeSetup({absl::StrCat(c.key, "=", c.run)});
    const absl::Status status = CheckPretrained(model_, setup);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.key;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(c.key), HasSubstr(model_)));
  }
}

TEST_F(PretrainedTest, LongerSamplesThanPositions_AreRefused) {
  ExpectRefused(MakeSetup({"data.seq_len=65"}), absl::StatusCode::kInvalidArgument, "64 positions");
}

// Bytes are ids of the byte tokenizer; without any, the user says what the ids are.
TEST_F(PretrainedTest, TextForAnotherTokenizer_IsRefused) {
  WriteAll(model_ + "/tokenizer.json", "{\"model\": {\"type\": \"BPE\"}}");
  ExpectRefused(MakeSetup(), absl::StatusCode::kInvalidArgument, "another tokenizer");
  EXPECT_EQ(CheckPretrained(model_, MakeSetup({"data.kind=tokens"})), absl::OkStatus());
  WriteAll(model_ + "/tokenizer.json", ByteTokenizerJson());
  EXPECT_EQ(CheckPretrained(model_, MakeSetup()), absl::OkStatus());
}

TEST_F(PretrainedTest, FolderThatCannotBe_IsNamed) {
  const RunSetup setup = MakeSetup();
  dense_.more_config = ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}";
  dense_.Write(model_);
  ExpectRefused(setup, absl::StatusCode::kInvalidArgument, "rope_scaling");
  dense_.more_config = ", \"sliding_window\": 7";
  dense_.Write(model_);
  ExpectRefused(setup, absl::StatusCode::kInvalidArgument, "sliding_window");
  dense_.more_config = "";
  dense_.Write(model_);
  fs::remove(model_ + "/" + DenseFolder::PartName(1));
  ExpectRefused(setup, absl::StatusCode::kNotFound, DenseFolder::PartName(1));
  fs::remove(model_ + "/config.json");
  ExpectRefused(setup, absl::StatusCode::kNotFound, "config.json");
}

TEST_F(PretrainedTest, AnyUnitsAndWorkers_Fit) {
  EXPECT_EQ(CheckPretrained(model_, MakeSetup()), absl::OkStatus());
  EXPECT_EQ(CheckPretrained(model_, MakeSetup({"sdp.unit=layer", "cluster.workers=2"})),
            absl::OkStatus());
  dense_.spec.tied = false;
  dense_.Write(model_);
  EXPECT_EQ(CheckPretrained(model_, MakeSetup()), absl::OkStatus());
}

TEST_F(PretrainedTest, ModelSettings_AreTheFoldersModel) {
  const LlamaSpec spec = std::get<LlamaSpec>(MakeSetup().model);
  EXPECT_EQ(spec.dim, 16);
  EXPECT_EQ(spec.layers, 4);
  EXPECT_EQ(spec.heads, 4);
  EXPECT_EQ(spec.kv_heads, 2);
  EXPECT_EQ(spec.ffn_dim, 24);
  EXPECT_EQ(spec.vocab, 256);
  EXPECT_EQ(spec.rope_theta, 5e4);
  EXPECT_EQ(spec.norm_eps, 1e-6);
  EXPECT_TRUE(spec.tied);
}

TEST_F(PretrainedTest, Checksum_CoversConfigAndEveryPart) {
  const auto before = StartChecksum(model_);
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_EQ(*StartChecksum(model_), *before);
  for (const std::string& name :
       {std::string("config.json"), DenseFolder::PartName(0), DenseFolder::PartName(2)}) {
    const std::string path = model_ + "/" + name, text = ReadAll(path);
    std::string other = text;
    other.back() ^= 0x20;                           // of a weight
    if (name == "config.json") other = text + " ";  // still JSON
    WriteAll(path, other);
    const auto after = StartChecksum(model_);
    ASSERT_TRUE(after.ok()) << after.status();
    EXPECT_NE(*after, *before) << name;
    WriteAll(path, text);
  }
  EXPECT_EQ(*StartChecksum(model_), *before);
  EXPECT_EQ(StartChecksum(folder_ / "nowhere").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace sdp
