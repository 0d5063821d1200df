#include "common/data/init_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/model/llama.h"
#include "tests/data/files.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

Catalog Model() {
  const LlamaSpec spec = {
      .dim = 8, .layers = 1, .heads = 2, .kv_heads = 1, .ffn_dim = 12, .vocab = 10};
  return LlamaCatalog(spec, TransformerUnit::kSublayer, 4);
}

// Element i of tensor t is 1000 t + i. Written in reverse, since a file's order means nothing.
std::vector<TensorToWrite> Contents(const Catalog& catalog) {
  std::vector<TensorToWrite> tensors;
  for (size_t t = catalog.tensors.size(); t-- > 0;) {
    const TensorSpec& spec = catalog.tensors[t];
    std::vector<float> values;
    for (int64_t i = 0; i < spec.elements(); ++i) {
      values.push_back(static_cast<float>(1000 * static_cast<int64_t>(t) + i));
    }
    tensors.push_back({spec.name, "F32", spec.shape, AsBytes(values)});
  }
  return tensors;
}

std::unique_ptr<const TensorFiles> Open(const std::vector<TensorToWrite>& tensors) {
  const std::string path = WriteFile("init.safetensors", SafetensorsBytes(tensors));
  auto files = TensorFiles::Open(path, {path});
  EXPECT_TRUE(files.ok()) << files.status();
  return *std::move(files);
}

absl::Status ReadAll(const TensorFiles& files, const Catalog& catalog) {
  const Layout layout(catalog, 50);
  for (int f = 0; f < layout.fragments(); ++f) {
    std::vector<float> values(static_cast<size_t>(layout.fragment(FragmentId(f)).size));
    const absl::Status status =
        ReadFragment(files, catalog, layout, FragmentId(f), absl::MakeSpan(values));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// Both ways to meet a bad file say the same.
void ExpectRefused(const std::function<void(TensorToWrite&)>& change, absl::StatusCode code,
                   const std::vector<std::string>& parts) {
  const Catalog catalog = Model();
  std::vector<TensorToWrite> tensors = Contents(catalog);
  change(tensors[4]);
  const auto files = Open(tensors);
  for (const absl::Status& status : {CheckAgainst(*files, catalog), ReadAll(*files, catalog)}) {
    EXPECT_EQ(status.code(), code) << status;
    for (const std::string& part : parts) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(part));
    }
  }
}

TEST(InitFileTest, MissingTensor_IsNamed) {
  const std::string name = Contents(Model())[4].name;
  ExpectRefused([](TensorToWrite& tensor) { tensor.name = "other"; }, absl::StatusCode::kNotFound,
                {"init.safetensors", name, "missing"});
}

TEST(InitFileTest, OtherShape_IsNamedWithBoth) {
  const TensorToWrite tensor = Contents(Model())[4];
  ASSERT_EQ(tensor.shape, (std::vector<int64_t>{12, 8}));
  ExpectRefused(
      [](TensorToWrite& t) {
        t.shape = {8, 12};
      },
      absl::StatusCode::kInvalidArgument, {tensor.name, "[8, 12]", "[12, 8]"});
}

TEST(InitFileTest, OtherType_IsNamed) {
  ExpectRefused([](TensorToWrite& t) { t.dtype = "I32"; }, absl::StatusCode::kInvalidArgument,
                {"I32", "BF16"});
}

TEST(InitFileTest, TensorOfAnotherModel_IsNamed) {
  const Catalog catalog = Model();
  std::vector<TensorToWrite> tensors = Contents(catalog);
  tensors.push_back({"model.layers.1.mlp.up_proj.weight", "F32", {1}, std::string(4, '\0')});
  const absl::Status status = CheckAgainst(*Open(tensors), catalog);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.layers.1.mlp.up_proj.weight"));
}

TEST(InitFileTest, ValueThatIsNotFinite_IsNamedWithItsPlace) {
  const Catalog catalog = Model();
  for (const float value : {NAN, INFINITY, -INFINITY}) {
    std::vector<TensorToWrite> tensors = Contents(catalog);
    std::memcpy(tensors[4].bytes.data() + 4 * 77, &value, sizeof(value));
    const absl::Status status = ReadAll(*Open(tensors), catalog);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(tensors[4].name));
    EXPECT_THAT(std::string(status.message()), HasSubstr("element 77"));
  }
}

TEST(InitFileTest, Fragments_GetTheirElements) {
  const Catalog catalog = Model();
  const auto files = Open(Contents(catalog));
  EXPECT_TRUE(CheckAgainst(*files, catalog).ok());
  for (const int64_t max_fragment : {1, 7, 1 << 20}) {
    const Layout layout(catalog, max_fragment);
    for (int f = 0; f < layout.fragments(); ++f) {
      std::vector<float> values(static_cast<size_t>(layout.fragment(FragmentId(f)).size));
      const absl::Status status =
          ReadFragment(*files, catalog, layout, FragmentId(f), absl::MakeSpan(values));
      ASSERT_TRUE(status.ok()) << status;
      for (const Piece& piece : layout.pieces(FragmentId(f))) {
        for (int64_t i = 0; i < piece.size; ++i) {
          ASSERT_EQ(values[static_cast<size_t>(piece.fragment_offset + i)],
                    static_cast<float>(1000 * piece.tensor + piece.tensor_offset + i));
        }
      }
    }
  }
}

// A tensor is found in whichever file it lies.
TEST(InitFileTest, SeveralFiles_AreOneModel) {
  const Catalog catalog = Model();
  const std::vector<TensorToWrite> all = Contents(catalog);
  std::vector<std::string> paths;
  for (size_t i = 0; i < 3; ++i) {
    std::vector<TensorToWrite> some;
    for (size_t t = i; t < all.size(); t += 3) some.push_back(all[t]);
    paths.push_back(WriteFile(absl::StrCat("part", i), SafetensorsBytes(some)));
  }
  const auto files = TensorFiles::Open("folder", paths);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(CheckAgainst(**files, catalog), absl::OkStatus());
  EXPECT_EQ(ReadAll(**files, catalog), absl::OkStatus());

  const auto two = TensorFiles::Open("folder", absl::MakeSpan(paths).first(2));
  ASSERT_TRUE(two.ok()) << two.status();
  const absl::Status missing = CheckAgainst(**two, catalog);
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("folder: tensor model."));

  paths.push_back(paths[1]);
  const absl::Status twice = TensorFiles::Open("folder", paths).status();
  EXPECT_EQ(twice.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(twice.message()), HasSubstr("another part"));
}

}  // namespace
}  // namespace sdp
