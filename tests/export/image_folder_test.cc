#include "common/export/image_folder.h"

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/data/safetensors.h"
#include "common/export/export_model.h"
#include "common/export/exported_model.h"
#include "common/export/run_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/export/stored_run.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

// The folder of a run of a small model, 3 of 4 workers holding each branch, or each part of one.
class ImageFolderTest : public ::testing::Test {
 protected:
  void Export(const std::vector<std::string>& sets = {}, const char* sizes = StoredRun::kResnet) {
    run_ = std::make_unique<StoredRun>(sets, sizes);
    run_->WriteCheckpoint(7);
    auto model = OpenRun(run_->dir(), std::nullopt);
    ASSERT_TRUE(model.ok()) << model.status();
    if (HasBatchNorm(model->model)) model->images->norms = Norms(model->catalog);
    out_ = run_->folder() / "out";
    const auto result = ExportModel(*model, {.out = out_});
    ASSERT_TRUE(result.ok()) << result.status();
  }
  // Other values for each of them.
  static NormValues Norms(const Catalog& catalog) {
    NormValues values;
    float next = 0;
    for (const StageSpec& stage : catalog.stages) {
      for (const NormSpec& norm : NormsOf(catalog, stage)) {
        for (const std::string& name : {norm.mean(), norm.variance()}) {
          for (int64_t i = 0; i < norm.channels; ++i) values[name].push_back(next += 0.25f);
        }
      }
    }
    return values;
  }
  void Change(const std::function<void(Json&)>& change) const {
    Json json = Json::parse(ReadAll(out_ + "/config.json"));
    change(json);
    WriteAll(out_ + "/config.json", json.dump());
  }
  void ExpectRefused(const std::string& says) const {
    const absl::Status status = OpenStoredModel(out_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr(says));
  }

  std::unique_ptr<StoredRun> run_;
  std::string out_;
};

TEST_F(ImageFolderTest, ConfigThatIsNotAsWritten_IsNamed) {
  const std::pair<std::string, std::function<void(Json&)>> cases[] = {
      {"data.kind = \"cifar11\"", [](Json& json) { json["data"] = "cifar11"; }},
      {"model or data is missing", [](Json& json) { json.erase("model"); }},
      {"dropout", [](Json& json) { json["model"]["dropout"] = 0.5; }},
      {"is no key of a model", [](Json& json) { json["model"]["a\n[run]\ndir"] = "x"; }},
      {"model.heads = 4", [](Json& json) { json["model"]["heads"] = 4; }},
      {"norm_groups must divide", [](Json& json) { json["model"]["norm_groups"] = 3; }},
      {"classes is missing", [](Json& json) { json["model"].erase("classes"); }},
      {"image_mean = [0,0,0]: only [0.5071,",
       [](Json& json) {
         json["image_mean"] = {0, 0, 0};
       }},
      {"crop = 0.9: this field is not known here", [](Json& json) { json["crop"] = 0.9; }},
  };
  for (const auto& [says, change] : cases) {
    Export();
    Change(change);
    ExpectRefused(says);
    EXPECT_THAT(std::string(OpenStoredModel(out_).status().message()), HasSubstr("config.json"));
  }
}

TEST_F(ImageFolderTest, SizesOfAnotherModel_NameTheTensor) {
  Export();
  Change([](Json& json) { json["model"]["classes"] = 101; });
  ExpectRefused("fc.weight");
}

TEST_F(ImageFolderTest, Weights_HaveFactorsFoldedInWhereBranchesEnd) {
  // Of three blocks the last norm's weight and bias; of parts of blocks the last convolution.
  for (const auto& [granularity, end, tensors] :
       {std::tuple{"block", ".bn2.", 6}, std::tuple{"neuron", ".conv2.", 3}}) {
    Export({absl::StrCat("sdp.granularity=", granularity)});
    const auto reader = SafetensorsReader::Open(out_ + "/model.safetensors");
    ASSERT_TRUE(reader.ok()) << reader.status();
    const Catalog& catalog = run_->setup().catalog;
    ASSERT_EQ((*reader)->tensors().size(), catalog.tensors.size());
    int folded = 0;
    for (size_t i = 0; i < catalog.tensors.size(); ++i) {
      const TensorSpec& spec = catalog.tensors[i];
      std::vector<float> expected = run_->Tensor(static_cast<int>(i), 7);
      if (spec.name.starts_with("layer") && spec.name.find(end) != spec.name.npos) {
        ++folded;
        for (float& value : expected) value *= 0.75f;
      }
      std::vector<float> values(expected.size());
      ASSERT_EQ((*reader)->Read(spec.name, 0, absl::MakeSpan(values)), absl::OkStatus());
      EXPECT_EQ(values, expected) << spec.name;
    }
    EXPECT_EQ(folded, tensors);
  }
}

TEST_F(ImageFolderTest, ReadsBackAsTheSameModel) {
  for (const auto& [norm, granularity] : {std::pair<std::string, std::string>{"group", "block"},
                                          {"batch", "block"},
                                          {"batch", "neuron"}}) {
    Export({"model.norm=" + norm, "model.activation=pre", "model.stem=imagenet",
            "sdp.granularity=" + granularity});
    const auto run = OpenRun(run_->dir(), std::nullopt);
    const auto model = OpenStoredModel(out_);
    ASSERT_TRUE(run.ok() && model.ok()) << run.status() << model.status();
    const auto& spec = std::get<ResnetSpec>(model->model);
    EXPECT_EQ(spec.widths, (std::vector<int64_t>{8, 16}));
    EXPECT_EQ(spec.order, ResnetSpec::Order::kPre);
    EXPECT_EQ(spec.stem, ResnetSpec::Stem::kImagenet);
    EXPECT_EQ(spec.norm_groups, norm == "batch" ? 0 : 4);
    EXPECT_EQ(spec.classes, 100);
    EXPECT_EQ(model->images->kind, &kCifar100);
    EXPECT_EQ(model->images->image_size, 32);
    EXPECT_EQ(model->images->classes, 100);
    EXPECT_EQ(model->images->config_json, run->images->config_json);
    EXPECT_EQ(model->images->norms, norm == "batch" ? Norms(model->catalog) : NormValues());
    EXPECT_EQ(model->factors, std::vector<double>(model->catalog.units.size(), 1.0));
  }
}

// Parts of a branch have their factors in their columns; the bias, which all share, has none.
TEST_F(ImageFolderTest, SwinOfHeadsAndNeurons_FactorsAndSizes) {
  for (const bool neurons : {false, true}) {
    SCOPED_TRACE(neurons);
    std::vector<std::string> sets;
    if (neurons) sets = {"sdp.granularity=neuron", "sdp.groups=4"};
    Export(sets, StoredRun::kSwin);
    const auto reader = SafetensorsReader::Open(out_ + "/model.safetensors");
    ASSERT_TRUE(reader.ok()) << reader.status();
    const Catalog& catalog = run_->setup().catalog;
    int folded = 0;
    for (size_t i = 0; i < catalog.tensors.size(); ++i) {
      const TensorSpec& spec = catalog.tensors[i];
      std::vector<float> expected = run_->Tensor(static_cast<int>(i), 7);
      if (spec.name.find("proj.weight") != spec.name.npos ||
          spec.name.find("mlp.3.weight") != spec.name.npos ||
          (!neurons && (spec.name.find("proj.bias") != spec.name.npos ||
                        spec.name.find("mlp.3.bias") != spec.name.npos))) {
        ++folded;
        for (float& value : expected) value *= 0.75f;
      }
      std::vector<float> values(expected.size());
      ASSERT_EQ((*reader)->Read(spec.name, 0, absl::MakeSpan(values)), absl::OkStatus());
      EXPECT_EQ(values, expected) << spec.name;
    }
    EXPECT_EQ(folded, neurons ? 6 : 12);  // of three blocks' two branches
    const auto model = OpenStoredModel(out_);
    ASSERT_TRUE(model.ok()) << model.status();
    const auto& spec = std::get<SwinSpec>(model->model);
    EXPECT_EQ(spec.depths, (std::vector<int64_t>{2, 1}));
    EXPECT_EQ(spec.heads, (std::vector<int64_t>{4, 8}));
    EXPECT_EQ(spec.window, 4);
    EXPECT_EQ(spec.patch, 4);
    EXPECT_EQ(spec.mlp_ratio, 4);
    EXPECT_EQ(spec.image_size, 32);
    EXPECT_EQ(spec.classes, 100);
  }
}

TEST_F(ImageFolderTest, BatchNormWithoutItsStatistics_IsRefused) {
  run_ =
      std::make_unique<StoredRun>(std::vector<std::string>{"model.norm=batch"}, StoredRun::kResnet);
  run_->WriteCheckpoint(7);
  const auto model = OpenRun(run_->dir(), std::nullopt);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(ExportModel(*model, {.out = run_->folder() / "out"}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  // And a folder whose weights are those of another norm.
  Export({"model.norm=group"});
  Change([](Json& json) { json["model"]["norm"] = "batch"; });
  const absl::Status status = OpenStoredModel(out_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_THAT(status.message(), HasSubstr("bn1.running_mean"));
}

}  // namespace
}  // namespace sdp
