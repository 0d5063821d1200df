#include "worker/model/inference_model.h"

#include <cmath>
#include <string>
#include <vector>

#include "common/base/random.h"
#include "common/model/initial_values.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/naive_llama.h"

// Growing a sequence token by token against the walk over all of it, and both against the naive
// model in f64.
namespace sdp {
namespace {

constexpr int64_t kPositions = 40;

struct Shape {
  const char* name;
  int64_t heads, kv_heads;
  bool tied;
};

// Random weights of a scale that makes logits differ by several nats.
StoredModel Stored(const Shape& shape, double factor = 0.75) {
  const LlamaSpec spec = {.dim = 32,
                          .layers = 3,
                          .heads = shape.heads,
                          .kv_heads = shape.kv_heads,
                          .ffn_dim = 48,
                          .vocab = 60,
                          .tied = shape.tied};
  StoredModel model{.name = "test",
                    .model = spec,
                    .catalog = {},
                    .layout = Layout(Catalog()),
                    .factors = {},
                    .positions = kPositions,
                    .tokens = TokenKind::kIds,
                    .step = std::nullopt,
                    .tokenizer = "",
                    .read = {}};
  model.catalog = LlamaCatalog(spec, TransformerUnit::kSublayer, kPositions);
  model.layout = Layout(model.catalog, 700);
  for (const UnitSpec& unit : model.catalog.units)
    model.factors.push_back(unit.shared ? 1 : factor);
  model.read = [catalog = model.catalog, layout = model.layout](FragmentId id,
                                                                absl::Span<float> out) {
    FillInitialValues(catalog, layout, id, 5, out);
    for (float& value : out) value *= value == 1 ? 0.9f : 12.0f;
    return absl::OkStatus();
  };
  return model;
}

std::vector<int32_t> Tokens(size_t count) {
  RandomStream random(3, 4);
  std::vector<int32_t> tokens;
  while (tokens.size() < count) tokens.push_back(static_cast<int32_t>(random.Below(60)));
  return tokens;
}

at::Tensor NaiveLogits(const StoredModel& model, const std::vector<int32_t>& tokens) {
  naive::Weights weights;
  for (const TensorSpec& spec : model.catalog.tensors)
    weights[spec.name] = at::zeros(spec.shape, at::kDouble);
  for (int id = 0; id < model.layout.fragments(); ++id) {
    std::vector<float> values(static_cast<size_t>(model.layout.fragment(FragmentId(id)).size));
    EXPECT_TRUE(model.read(FragmentId(id), absl::MakeSpan(values)).ok());
    for (const Piece& piece : model.layout.pieces(FragmentId(id))) {
      const TensorSpec& spec = model.catalog.tensors[static_cast<size_t>(piece.tensor)];
      double* data = weights[spec.name].mutable_data_ptr<double>() + piece.tensor_offset;
      for (int64_t i = 0; i < piece.size; ++i) {
        data[i] = values[static_cast<size_t>(piece.fragment_offset + i)];
      }
    }
  }
  const at::Tensor ids =
      at::tensor(std::vector<int64_t>(tokens.begin(), tokens.end()), at::kLong).view({1, -1});
  const auto& spec = std::get<LlamaSpec>(model.model);
  return naive::Logits(spec, weights, ids,
                       naive::Factors(static_cast<size_t>(2 * spec.layers), 0.75))[0];
}

class InferenceModelTest : public ::testing::TestWithParam<Shape> {
 protected:
  std::unique_ptr<InferenceModel> Load() {
    auto model = LoadInferenceModel(stored_, kPositions, 1);
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }

  const StoredModel stored_ = Stored(GetParam());
};

// Logits here are up to 10; f32 rounding of 3 layers leaves about 1e-6 of that.
constexpr double kTolerance = 5e-5;

TEST_P(InferenceModelTest, WholeSequence_EqualsNaive) {
  const std::vector<int32_t> tokens = Tokens(kPositions);
  const auto model = Load();
  const auto logits = model->Logits(tokens);
  ASSERT_TRUE(logits.ok()) << logits.status();
  const at::Tensor expected = NaiveLogits(stored_, tokens);
  EXPECT_GT(expected.std().item<double>(), 0.5);
  const double* e = expected.const_data_ptr<double>();
  for (size_t i = 0; i < logits->size(); ++i) ASSERT_NEAR((*logits)[i], e[i], kTolerance) << i;
}

// The prompt in one go, in two, token by token; then one token at a time to the last position.
TEST_P(InferenceModelTest, GrowingSequence_EqualsTheWholeOne) {
  const std::vector<int32_t> tokens = Tokens(kPositions);
  const auto model = Load();
  const auto whole = model->Logits(tokens);
  ASSERT_TRUE(whole.ok()) << whole.status();
  const std::vector<float> expected(whole->begin(), whole->end());  // [tokens, 60]
  for (const std::vector<size_t>& chunks :
       std::vector<std::vector<size_t>>{{17}, {9, 8}, {1, 1, 1}, {kPositions}}) {
    model->Clear();
    size_t done = 0;
    for (size_t step = 0; done < tokens.size(); ++step) {
      const size_t count = step < chunks.size() ? chunks[step] : 1;
      const auto logits = model->Append(absl::MakeConstSpan(tokens).subspan(done, count));
      ASSERT_TRUE(logits.ok()) << logits.status();
      done += count;
      ASSERT_EQ(logits->size(), 60u);
      ASSERT_EQ(model->length(), static_cast<int64_t>(done));
      for (size_t id = 0; id < 60; ++id) {
        ASSERT_NEAR((*logits)[id], expected[(done - 1) * 60 + id], kTolerance)
            << "after " << done << " tokens, id " << id;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, InferenceModelTest,
                         ::testing::Values(Shape{"AllHeads", 4, 4, false},
                                           Shape{"Grouped", 4, 2, false},
                                           Shape{"GroupedTied", 8, 2, true},
                                           Shape{"OneKeyHead", 4, 1, false}),
                         [](const auto& info) { return info.param.name; });

TEST(InferenceModelErrorTest, WrongTokens_InvalidArgument) {
  const StoredModel stored = Stored({"", 4, 2, false});
  const auto model = LoadInferenceModel(stored, 5, 1);
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<std::vector<int32_t>> wrong = {{}, {-1}, {60}, {1, 2, 3, 4, 5, 6}};
  for (const std::vector<int32_t>& tokens : wrong) {
    EXPECT_EQ((*model)->Logits(tokens).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ((*model)->Append(tokens).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_THAT((*model)->Append({60}).status().message(), ::testing::HasSubstr("from 0 to 59"));
  ASSERT_TRUE((*model)->Append({1, 2, 3, 4}).ok());
  EXPECT_EQ((*model)->Append({5, 6}).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE((*model)->Append({5}).ok());
}

TEST(InferenceModelErrorTest, FragmentThatCannotBeRead_SameError) {
  StoredModel stored = Stored({"", 4, 2, false});
  stored.read = [](FragmentId, absl::Span<float>) { return absl::DataLossError("flipped"); };
  EXPECT_EQ(LoadInferenceModel(stored, 5, 1).status(), absl::DataLossError("flipped"));
}

}  // namespace
}  // namespace sdp
