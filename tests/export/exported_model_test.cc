#include "common/export/exported_model.h"

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "common/export/export_model.h"
#include "common/export/run_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/data/files.h"
#include "tests/export/stored_run.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
namespace fs = std::filesystem;

// Each test begins with a good folder and spoils it.
class ExportedModelTest : public ::testing::Test {
 protected:
  void Export(int64_t part_bytes = 5'000'000'000) {
    run_.WriteCheckpoint(7);
    const auto model = OpenRun(run_.dir(), std::nullopt);
    ASSERT_TRUE(model.ok()) << model.status();
    const auto result = ExportModel(*model, {.out = out_, .part_bytes = part_bytes});
    ASSERT_TRUE(result.ok()) << result.status();
  }
  void Change(const std::string& name, const std::function<void(Json&)>& change) {
    Json json = Json::parse(ReadAll(out_ + "/" + name));
    change(json);
    WriteAll(out_ + "/" + name, json.dump());
  }
  void ExpectRefused(absl::StatusCode code, const std::string& says) const {
    const absl::Status status = OpenStoredModel(out_).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(status.message(), HasSubstr(says));
  }

  const StoredRun run_;
  const std::string out_ = run_.folder() / "out";
};

TEST_F(ExportedModelTest, NoModel_IsNotFound) {
  ExpectRefused(absl::StatusCode::kNotFound, "no folder");
  fs::create_directory(out_);
  ExpectRefused(absl::StatusCode::kNotFound, "is no model");
}

TEST_F(ExportedModelTest, OtherArchitecture_IsNamed) {
  Export();
  Change("config.json", [](Json& json) { json["model_type"] = "gpt2"; });
  ExpectRefused(absl::StatusCode::kInvalidArgument, "gpt2");
}

TEST_F(ExportedModelTest, SizesOfAnotherModel_NameTheTensor) {
  Export();
  Change("config.json", [](Json& json) { json["vocab_size"] = 301; });
  ExpectRefused(absl::StatusCode::kInvalidArgument, "model.embed_tokens.weight");
}

TEST_F(ExportedModelTest, MoreOrFewerLayers_NameTheTensor) {
  Export();
  Change("config.json", [](Json& json) { json["num_hidden_layers"] = 3; });
  ExpectRefused(absl::StatusCode::kNotFound, "model.layers.2.input_layernorm.weight");
  Change("config.json", [](Json& json) { json["num_hidden_layers"] = 1; });
  ExpectRefused(absl::StatusCode::kInvalidArgument, "model.layers.1.");
}

TEST_F(ExportedModelTest, WeightsCutOrGone) {
  Export();
  const std::string path = out_ + "/model.safetensors";
  fs::resize_file(path, fs::file_size(path) - 1);
  ExpectRefused(absl::StatusCode::kDataLoss, "model.safetensors");
  fs::remove(path);
  ExpectRefused(absl::StatusCode::kNotFound, "model.safetensors.index.json");
}

TEST_F(ExportedModelTest, TypeThatIsNotRead_IsNamed) {
  Export();
  std::vector<TensorToWrite> tensors;
  for (const TensorSpec& spec : run_.setup().catalog.tensors) {
    tensors.push_back({spec.name, "F64", spec.shape,
                       std::string(static_cast<size_t>(spec.elements()) * 8, '\0')});
  }
  WriteAll(out_ + "/model.safetensors", SafetensorsBytes(tensors));
  ExpectRefused(absl::StatusCode::kInvalidArgument, "F64");
}

TEST_F(ExportedModelTest, IndexThatLeadsElsewhere_IsRefused) {
  Export(300 * 16 * 4 + 700);
  for (const Json& part : {Json("../run/config.toml"), Json("/etc/passwd"), Json(""), Json(".."),
                           Json(7), Json(std::string("a\0b", 3))}) {
    Change("model.safetensors.index.json",
           [&](Json& json) { json["weight_map"]["lm_head.weight"] = part; });
    ExpectRefused(absl::StatusCode::kInvalidArgument, "lm_head.weight");
  }
  Change("model.safetensors.index.json", [](Json& json) { json["weight_map"] = 1; });
  ExpectRefused(absl::StatusCode::kInvalidArgument, "weight_map");
  WriteAll(out_ + "/model.safetensors.index.json", "[]");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "weight_map");
}

TEST_F(ExportedModelTest, TensorInTwoParts_IsRefused) {
  Export(300 * 16 * 4 + 700);
  for (const auto& entry : fs::directory_iterator(out_)) {
    if (!entry.path().filename().string().starts_with("model-00001")) continue;
    fs::copy_file(entry.path(), out_ + "/again.safetensors");
    break;
  }
  Change("model.safetensors.index.json",
         [](Json& json) { json["weight_map"]["more"] = "again.safetensors"; });
  ExpectRefused(absl::StatusCode::kInvalidArgument, "another part");
}

TEST_F(ExportedModelTest, OtherTokenizer_IsOfIds) {
  Export();
  Change("tokenizer.json", [](Json& json) { json["model"]["vocab"]["A"] = 1; });
  const auto model = OpenExported(out_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->tokens, TokenKind::kIds);
}

}  // namespace
}  // namespace sdp
