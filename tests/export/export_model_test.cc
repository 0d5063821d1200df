#include "common/export/export_model.h"

#include <bit>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_format.h"
#include "common/data/safetensors.h"
#include "common/export/byte_tokenizer.h"
#include "common/export/exported_model.h"
#include "common/export/run_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/export/stored_run.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
namespace fs = std::filesystem;

std::set<std::string> Names(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

class ExportModelTest : public ::testing::Test {
 protected:
  static absl::StatusOr<ExportResult> Export(const StoredRun& run, const ExportOptions& options,
                                             std::optional<Step> step = std::nullopt) {
    SDP_ASSIGN_OR_RETURN(const StoredModel model, OpenRun(run.dir(), step));
    return ExportModel(model, options);
  }
  // Whether the tensor is one that factors are folded into.
  static bool Folded(const std::string& name) {
    return name.ends_with("self_attn.o_proj.weight") || name.ends_with("mlp.down_proj.weight");
  }
};

TEST_F(ExportModelTest, RunWithoutCheckpoint_IsNotFoundAndSaysSo) {
  const StoredRun run;
  const absl::Status status = Export(run, {.out = run.folder() / "out"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("no complete checkpoint yet"));
  // One that was being written when its shards died.
  run.WriteCheckpoint(7);
  fs::remove(run.CheckpointPath(7) + "/manifest.json");
  EXPECT_EQ(Export(run, {.out = run.folder() / "out"}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenRun(run.folder().path(), std::nullopt).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(ExportModelTest, StepThatIsNotThere_NamesThoseThatAre) {
  const StoredRun run;
  run.WriteCheckpoint(7);
  run.WriteCheckpoint(9);
  const absl::Status status = Export(run, {.out = run.folder() / "out"}, 8).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("steps 7, 9"));
}

TEST_F(ExportModelTest, FlippedBit_IsDataLossAndLeavesNothing) {
  const StoredRun run;
  run.WriteCheckpoint(7);
  const std::string path = run.CheckpointPath(7) + "/shard-1-of-2.gen-1.safetensors";
  std::string bytes = ReadAll(path);
  bytes.back() ^= 1;
  WriteAll(path, bytes);
  const std::set<std::string> before = Names(run.folder().path());
  const absl::Status status = Export(run, {.out = run.folder() / "out"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_EQ(Names(run.folder().path()), before);
}

TEST_F(ExportModelTest, OutThatIsInUse_IsRefusedAndUntouched) {
  const StoredRun run;
  run.WriteCheckpoint(7);
  const std::string out = run.folder() / "out";
  fs::create_directory(out);
  WriteAll(out + "/mine", "x");
  EXPECT_EQ(Export(run, {.out = out}).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Names(out), std::set<std::string>{"mine"});
  EXPECT_EQ(Export(run, {.out = out + "/mine"}).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Export(run, {.out = run.folder() / "no/such"}).status().code(),
            absl::StatusCode::kNotFound);
  fs::remove(out + "/mine");
  EXPECT_TRUE(Export(run, {.out = out + "/"}).ok());  // empty: welcome
}

TEST_F(ExportModelTest, OnePart_HasTheTensorsWithFactorsFoldedIn) {
  const StoredRun run;
  run.WriteCheckpoint(7);
  run.WriteCheckpoint(9);
  const std::string out = run.folder() / "out";
  const auto result = Export(run, {.out = out});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Names(out),
            (std::set<std::string>{"config.json", "generation_config.json", "model.safetensors",
                                   "tokenizer.json", "tokenizer_config.json"}));
  const auto reader = SafetensorsReader::Open(out + "/model.safetensors");
  ASSERT_TRUE(reader.ok()) << reader.status();
  const Catalog& catalog = run.setup().catalog;
  ASSERT_EQ((*reader)->tensors().size(), catalog.tensors.size());
  int folded = 0;
  for (size_t i = 0; i < catalog.tensors.size(); ++i) {
    const TensorSpec& spec = catalog.tensors[i];
    ASSERT_NE((*reader)->Find(spec.name), nullptr) << spec.name;
    EXPECT_EQ((*reader)->Find(spec.name)->dtype, "F32");
    std::vector<float> expected = run.Tensor(static_cast<int>(i), 9);  // the newest
    if (Folded(spec.name)) {
      ++folded;
      for (float& value : expected) value *= 0.75f;  // 3 holders of 4
    }
    std::vector<float> values(expected.size());
    ASSERT_EQ((*reader)->Read(spec.name, 0, absl::MakeSpan(values)), absl::OkStatus());
    EXPECT_EQ(values, expected) << spec.name;
  }
  EXPECT_EQ(folded, 4);
}

// Parts of one tensor with factors of their own, in columns.
TEST_F(ExportModelTest, Neurons_EachUnitsColumnsHaveItsFactor) {
  for (const std::string attention : {"split", "shared"}) {
    const StoredRun run({"sdp.granularity=neuron", "sdp.groups=5", "sdp.attention=" + attention});
    run.WriteCheckpoint(9);
    auto model = OpenRun(run.dir(), std::nullopt);
    ASSERT_TRUE(model.ok()) << model.status();
    const Catalog& catalog = model->catalog;
    for (size_t unit = 0; unit < catalog.units.size(); ++unit) {
      EXPECT_EQ(model->factors[unit], catalog.units[unit].shared ? 1 : 0.75);
      if (!catalog.units[unit].shared)
        model->factors[unit] = 0.5 + 0.01 * static_cast<double>(unit);
    }
    const std::string out = run.folder() / "out";
    ASSERT_TRUE(ExportModel(*model, {.out = out}).ok());
    const auto reader = SafetensorsReader::Open(out + "/model.safetensors");
    ASSERT_TRUE(reader.ok()) << reader.status();
    std::vector<std::vector<float>> expected;
    for (size_t i = 0; i < catalog.tensors.size(); ++i)
      expected.push_back(run.Tensor(static_cast<int>(i), 9));
    for (size_t unit = 0; unit < catalog.units.size(); ++unit) {
      for (const Slice& slice : catalog.units[unit].slices) {
        const TensorSpec& spec = catalog.tensors[static_cast<size_t>(slice.tensor)];
        if (!spec.ends_branch || slice.whole()) continue;
        for (int64_t row = 0; row < spec.shape[0]; ++row) {
          for (int64_t column = slice.begin; column < slice.end; ++column) {
            expected[static_cast<size_t>(slice.tensor)]
                    [static_cast<size_t>(row * spec.shape[1] + column)] *=
                static_cast<float>(model->factors[unit]);
          }
        }
      }
    }
    for (size_t i = 0; i < catalog.tensors.size(); ++i) {
      std::vector<float> values(expected[i].size());
      ASSERT_EQ((*reader)->Read(catalog.tensors[i].name, 0, absl::MakeSpan(values)),
                absl::OkStatus());
      EXPECT_EQ(values, expected[i]) << catalog.tensors[i].name;
    }
  }
}

TEST_F(ExportModelTest, WithoutFactorsOrInTraining_FoldsNothing) {
  for (const char* without : {"sdp.rescale=none", "sdp.rescale=inverted", "sdp.masking=backward"}) {
    const StoredRun run({without});
    run.WriteCheckpoint(7);
    const std::string out = run.folder() / "out";
    ASSERT_TRUE(Export(run, {.out = out}).ok());
    const auto model = OpenExported(out);
    ASSERT_TRUE(model.ok()) << model.status();
    for (int id = 0; id < model->layout.fragments(); ++id) {
      FloatBuffer values(model->layout.fragment(FragmentId(id)).size);
      ASSERT_EQ(model->read(FragmentId(id), values.span()), absl::OkStatus());
      EXPECT_EQ(values.span(), run.Fragment(FragmentId(id), 7).span());
    }
    EXPECT_THAT(ReadAll(out + "/model.safetensors"),
                HasSubstr("\"sdp.coverage_factors\":\"none\""));
  }
}

TEST_F(ExportModelTest, SmallParts_AreWithinTheLimitAndIndexed) {
  const StoredRun run;
  run.WriteCheckpoint(7);
  const std::string out = run.folder() / "out", whole = run.folder() / "whole";
  // Room for one of the two tensors of vocab x dim, with its header.
  constexpr int64_t kLimit = 300 * 16 * 4 + 700;
  const auto result = Export(run, {.out = out, .part_bytes = kLimit});
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_TRUE(Export(run, {.out = whole}).ok());
  ASSERT_GE(result->parts, 3);
  const Json index = Json::parse(ReadAll(out + "/model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], run.setup().catalog.params() * 4);
  EXPECT_EQ(index["weight_map"].size(), run.setup().catalog.tensors.size());
  int64_t bytes = 0;
  for (int part = 0; part < result->parts; ++part) {
    const std::string name =
        absl::StrFormat("model-%05d-of-%05d.safetensors", part + 1, result->parts);
    EXPECT_LE(fs::file_size(out + "/" + name), kLimit) << name;
    bytes += static_cast<int64_t>(fs::file_size(out + "/" + name));
    const auto reader = SafetensorsReader::Open(out + "/" + name);
    ASSERT_TRUE(reader.ok()) << reader.status();
    for (const auto& tensor : (*reader)->tensors()) {
      EXPECT_EQ(index["weight_map"][tensor.name], name) << tensor.name;
    }
  }
  EXPECT_EQ(bytes, result->bytes);
  EXPECT_FALSE(fs::exists(out + "/model.safetensors"));

  // Parts or not: the same model.
  const auto a = OpenExported(out), b = OpenExported(whole);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
  for (int id = 0; id < a->layout.fragments(); ++id) {
    FloatBuffer x(a->layout.fragment(FragmentId(id)).size), y(x.size());
    ASSERT_EQ(a->read(FragmentId(id), x.span()), absl::OkStatus());
    ASSERT_EQ(b->read(FragmentId(id), y.span()), absl::OkStatus());
    EXPECT_EQ(x.span(), y.span());
  }
}

TEST_F(ExportModelTest, Bf16_RoundsTheFoldedValueToNearestEven) {
  const StoredRun run;
  run.WriteCheckpoint(7);
  const std::string out = run.folder() / "out";
  ASSERT_TRUE(Export(run, {.out = out, .type = ExportType::kBf16}).ok());
  EXPECT_THAT(ReadAll(out + "/config.json"), HasSubstr("bfloat16"));
  const auto reader = SafetensorsReader::Open(out + "/model.safetensors");
  ASSERT_TRUE(reader.ok()) << reader.status();
  const Catalog& catalog = run.setup().catalog;
  for (size_t i = 0; i < catalog.tensors.size(); ++i) {
    const std::string& name = catalog.tensors[i].name;
    EXPECT_EQ((*reader)->Find(name)->dtype, "BF16");
    std::vector<float> values(static_cast<size_t>(catalog.tensors[i].elements()));
    ASSERT_EQ((*reader)->Read(name, 0, absl::MakeSpan(values)), absl::OkStatus());
    const std::vector<float> full = run.Tensor(static_cast<int>(i), 7);
    for (size_t k = 0; k < values.size(); ++k) {
      const float value = full[k] * (Folded(name) ? 0.75f : 1.0f);
      // Neighbours below and above, of which the nearer one counts; of two as near, the even one.
      const uint32_t low = std::bit_cast<uint32_t>(value) & 0xFFFF0000, high = low + 0x10000;
      const double below = std::abs(double{value} - double{std::bit_cast<float>(low)});
      const double above = std::abs(double{std::bit_cast<float>(high)} - double{value});
      const bool up = below != above ? above < below : (low & 0x10000) != 0;
      ASSERT_EQ(std::bit_cast<uint32_t>(values[k]), up ? high : low) << name << " " << k;
    }
  }
}

TEST_F(ExportModelTest, Safetensors_DependOnTheModelAlone) {
  const StoredRun one, two;  // other paths, other times
  one.WriteCheckpoint(7);
  two.WriteCheckpoint(7);
  ASSERT_TRUE(Export(one, {.out = one.folder() / "out"}).ok());
  ASSERT_TRUE(Export(two, {.out = two.folder() / "elsewhere"}).ok());
  const std::string bytes = ReadAll(one.folder() / "out/model.safetensors");
  EXPECT_EQ(bytes, ReadAll(two.folder() / "elsewhere/model.safetensors"));
  EXPECT_THAT(bytes, HasSubstr("\"format\":\"pt\""));
  EXPECT_THAT(bytes, HasSubstr("\"sdp.coverage_factors\":\"folded into o_proj and down_proj\""));
  EXPECT_THAT(bytes, HasSubstr("\"sdp.factors\":\"0.75\""));
  EXPECT_THAT(bytes, HasSubstr("\"sdp.step\":\"7\""));
}

TEST_F(ExportModelTest, ReadAgain_IsTheRunsModelWithoutFactors) {
  const StoredRun run(
      {"model.tied=true", "sdp.unit='layer'", "model.norm_eps=1e-6", "model.rope_theta=5e5"});
  run.WriteCheckpoint(7);
  const std::string out = run.folder() / "out", again = run.folder() / "again";
  ASSERT_TRUE(Export(run, {.out = out}).ok());
  const auto model = OpenStoredModel(out);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->positions, 40);
  EXPECT_EQ(model->tokens, TokenKind::kBytes);
  EXPECT_EQ(model->factors, std::vector<double>(model->catalog.units.size(), 1.0));
  const auto& spec = std::get<LlamaSpec>(model->model);
  const auto& expected = std::get<LlamaSpec>(run.setup().model);
  EXPECT_EQ(spec.dim, expected.dim);
  EXPECT_EQ(spec.layers, expected.layers);
  EXPECT_EQ(spec.heads, expected.heads);
  EXPECT_EQ(spec.kv_heads, expected.kv_heads);
  EXPECT_EQ(spec.ffn_dim, expected.ffn_dim);
  EXPECT_EQ(spec.vocab, expected.vocab);
  EXPECT_EQ(spec.rope_theta, 5e5);
  EXPECT_EQ(spec.norm_eps, 1e-6);
  EXPECT_TRUE(spec.tied);
  // What was folded in once is not folded in again.
  ASSERT_TRUE(ExportModel(*model, {.out = again}).ok());
  const auto first = SafetensorsReader::Open(out + "/model.safetensors");
  const auto second = SafetensorsReader::Open(again + "/model.safetensors");
  ASSERT_TRUE(first.ok() && second.ok());
  for (const auto& tensor : (*first)->tensors()) {
    std::vector<float> a(static_cast<size_t>(tensor.elements)), b(a.size());
    ASSERT_EQ((*first)->Read(tensor.name, 0, absl::MakeSpan(a)), absl::OkStatus());
    ASSERT_EQ((*second)->Read(tensor.name, 0, absl::MakeSpan(b)), absl::OkStatus());
    EXPECT_EQ(a, b) << tensor.name;
  }
}

class TokenizerTest : public ExportModelTest {
 protected:
  // A run of token ids whose data.tokenizer is `path`.
  static std::unique_ptr<StoredRun> Run(const std::string& path) {
    auto run = std::make_unique<StoredRun>(
        std::vector<std::string>{"data.kind='tokens'", "data.tokenizer='" + path + "'"});
    run->WriteCheckpoint(7);
    return run;
  }
  TempFolder files_;
};

TEST_F(TokenizerTest, None_IsSaid) {
  const auto run = Run("");
  const auto result = Export(*run, {.out = run->folder() / "out"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->tokenizer);
  EXPECT_FALSE(fs::exists(run->folder() / "out/tokenizer.json"));
  const auto model = OpenExported(run->folder() / "out");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->tokens, TokenKind::kIds);
}

TEST_F(TokenizerTest, WrongPath_IsInvalidArgument) {
  WriteAll(files_ / "tokenizer.txt", "x");
  for (const std::string& path : {files_ / "none.txt", files_ / "tokenizer.txt", files_.path()}) {
    const auto run = Run(path);
    const absl::Status status = Export(*run, {.out = run->folder() / "out"}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_THAT(status.message(), HasSubstr("data.tokenizer"));
    EXPECT_FALSE(fs::exists(run->folder() / "out"));
  }
}

TEST_F(TokenizerTest, FolderOrFile_IsCopied) {
  WriteAll(files_ / "tokenizer.json", "{\"mine\": 1}");
  WriteAll(files_ / "vocab.json", "{}");
  WriteAll(files_ / "unrelated.txt", "x");
  const auto folder = Run(files_.path());
  ASSERT_TRUE(Export(*folder, {.out = folder->folder() / "out"}).ok());
  EXPECT_EQ(ReadAll(folder->folder() / "out/tokenizer.json"), "{\"mine\": 1}");
  EXPECT_TRUE(fs::exists(folder->folder() / "out/vocab.json"));
  EXPECT_TRUE(fs::exists(folder->folder() / "out/tokenizer_config.json"));
  EXPECT_FALSE(fs::exists(folder->folder() / "out/unrelated.txt"));

  WriteAll(files_ / "gpt2.json", "{\"other\": 1}");
  const auto file = Run(files_ / "gpt2.json");
  ASSERT_TRUE(Export(*file, {.out = file->folder() / "out"}).ok());
  EXPECT_EQ(ReadAll(file->folder() / "out/tokenizer.json"), "{\"other\": 1}");
}

}  // namespace
}  // namespace sdp
