// sdp eval and sdp generate as functions: on a run's checkpoint, on the folder exported from it.
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/data/safetensors.h"
#include "common/export/export_model.h"
#include "common/export/run_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/data/files.h"
#include "tests/export/stored_run.h"
#include "worker/inference/evaluate.h"
#include "worker/inference/generate.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

class InferenceTest : public ::testing::Test {
 protected:
  explicit InferenceTest(const std::vector<std::string>& sets = {}) : run_(sets) {
    run_.WriteCheckpoint(7);
    const auto model = OpenRun(run_.dir(), std::nullopt);
    EXPECT_TRUE(model.ok()) << model.status();
    EXPECT_TRUE(ExportModel(*model, {.out = out_}).ok());
    for (int i = 0; i < 60; ++i) text_ += "line " + std::to_string(i * i) + " of a text\n";
    WriteAll(data_, text_);
  }

  EvaluateRequest Evaluation(const std::string& model) const {
    EvaluateRequest request{.model = model, .data = {data_}, .threads = 1};
    request.format = EvaluateRequest::Format::kJson;
    return request;
  }
  static Json Loss(const EvaluateRequest& request) {
    std::stringstream out;
    const absl::Status status = Evaluate(request, out);
    EXPECT_EQ(status, absl::OkStatus());
    return Json::parse(out.str());
  }
  static std::string Text(const GenerateRequest& request) {
    std::stringstream out, messages;
    const absl::Status status = Generate(request, out, messages);
    EXPECT_EQ(status, absl::OkStatus());
    return out.str();
  }
  void ExpectRefused(const GenerateRequest& request, const std::string& says) const {
    std::stringstream out, messages;
    const absl::Status status = Generate(request, out, messages);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr(says));
    EXPECT_EQ(out.str(), "");
  }

  const StoredRun run_;
  const std::string out_ = run_.folder() / "out";
  const std::string data_ = run_.folder() / "data.txt";
  std::string text_;
};

TEST_F(InferenceTest, Evaluate_WrongData_IsRefused) {
  std::stringstream out;
  EvaluateRequest request = Evaluation(out_);
  request.data = {run_.folder() / "none"};
  EXPECT_EQ(Evaluate(request, out).code(), absl::StatusCode::kNotFound);
  const std::vector<int32_t> shard = {20240520, 1, 0};
  WriteAll(run_.folder() / "shard", AsBytes(shard));
  request.data = {run_.folder() / "shard"};
  EXPECT_THAT(Evaluate(request, out).message(), HasSubstr("token ids"));
  request = Evaluation(out_);
  request.seq_len = 41;
  EXPECT_THAT(Evaluate(request, out).message(), HasSubstr("40 positions"));
  request = Evaluation(run_.folder().path());
  EXPECT_EQ(Evaluate(request, out).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(out.str(), "");
}

// Folding rounds each weight of two matrices per layer once, in f32.
TEST_F(InferenceTest, Evaluate_ExportedEqualsRun) {
  const Json run = Loss(Evaluation(run_.dir())), exported = Loss(Evaluation(out_));
  EXPECT_EQ(run["targets"], static_cast<int64_t>(text_.size() - 1) / 40 * 40);
  EXPECT_EQ(run["seq_len"], 40);
  EXPECT_GT(run["loss"], 1.0);
  EXPECT_NEAR(run["loss"].get<double>(), exported["loss"].get<double>(),
              1e-6 * run["loss"].get<double>());
  EXPECT_NEAR(exported["perplexity"].get<double>(), std::exp(exported["loss"].get<double>()), 1e-9);
  EXPECT_NEAR(exported["bits_per_byte"].get<double>() * std::log(2.0),
              exported["loss"].get<double>(), 1e-12);
}

TEST_F(InferenceTest, Evaluate_SamplesAndLength) {
  EvaluateRequest request = Evaluation(out_);
  request.seq_len = 10;
  request.samples = 3;
  const Json few = Loss(request);
  EXPECT_EQ(few["samples"], 3);
  EXPECT_EQ(few["targets"], 30);
}

// The loss again, from the logits that are written.
TEST_F(InferenceTest, Evaluate_LogitsGiveTheLoss) {
  EvaluateRequest request = Evaluation(out_);
  request.seq_len = 13;
  request.samples = 4;
  request.logits = run_.folder() / "logits.safetensors";
  const double loss = Loss(request)["loss"];
  const auto reader = SafetensorsReader::Open(request.logits);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->Find("tokens")->shape, (std::vector<int64_t>{4, 13}));
  ASSERT_EQ((*reader)->Find("logits")->shape, (std::vector<int64_t>{4, 13, 300}));
  std::vector<float> logits(4 * 13 * 300);
  ASSERT_EQ((*reader)->Read("logits", 0, absl::MakeSpan(logits)), absl::OkStatus());
  double sum = 0;
  for (size_t i = 0; i < 4 * 13; ++i) {
    const float* row = logits.data() + i * 300;
    double total = 0;
    for (int id = 0; id < 300; ++id) total += std::exp(static_cast<double>(row[id]));
    sum += std::log(total) - row[static_cast<unsigned char>(text_[i + 1])];
  }
  EXPECT_NEAR(sum / 52, loss, 1e-6 * loss);
}

TEST_F(InferenceTest, Generate_ReproducibleAndKeyedBySeed) {
  GenerateRequest request{.model = out_, .prompt = "line ", .tokens = 30, .threads = 1};
  request.sampling.seed = 1;
  const std::string first = Text(request);
  EXPECT_THAT(first, ::testing::StartsWith("line "));
  EXPECT_EQ(first.size(), 5u + 30 + 1);
  EXPECT_EQ(Text(request), first);
  request.tokens = 10;  // a shorter one is a beginning of it
  EXPECT_EQ(Text(request), first.substr(0, 15) + "\n");
  request.sampling.seed = 2;
  EXPECT_NE(Text(request), first.substr(0, 15) + "\n");
}

TEST_F(InferenceTest, Generate_Greedy_TakesTheMostLikelyOfTheFullWalk) {
  GenerateRequest request{.model = out_, .prompt = "li", .tokens = 12, .threads = 1};
  request.sampling.temperature = 0;
  const std::string text = Text(request);
  WriteAll(data_, text.substr(0, text.size() - 1) + "xx");
  EvaluateRequest logits_of = Evaluation(out_);
  logits_of.seq_len = 14;
  logits_of.logits = run_.folder() / "logits.safetensors";
  Loss(logits_of);
  const auto reader = SafetensorsReader::Open(logits_of.logits);
  ASSERT_TRUE(reader.ok()) << reader.status();
  for (int64_t position = 2; position < 14; ++position) {
    std::vector<float> logits(256);
    ASSERT_EQ((*reader)->Read("logits", (position - 1) * 300, absl::MakeSpan(logits)),
              absl::OkStatus());
    EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(),
              static_cast<unsigned char>(text[static_cast<size_t>(position)]));
  }
}

TEST_F(InferenceTest, Generate_EndsWithThePositions_AndSaysSo) {
  std::stringstream out, messages;
  const GenerateRequest request{.model = run_.dir(), .prompt = "line", .tokens = 100, .threads = 1};
  ASSERT_EQ(Generate(request, out, messages), absl::OkStatus());
  EXPECT_EQ(out.str().size(), 40u + 1);
  EXPECT_THAT(messages.str(), HasSubstr("ended after 36 of 100"));
}

TEST_F(InferenceTest, Generate_Ids_AreWrittenAsIds) {
  GenerateRequest request{.model = out_, .prompt_ids = {108, 105, 299}, .tokens = 2, .threads = 1};
  std::stringstream words(Text(request));
  std::vector<int> ids;
  for (int id; words >> id;) ids.push_back(id);
  ASSERT_EQ(ids.size(), 5u);
  EXPECT_EQ(ids[2], 299);
}

TEST_F(InferenceTest, Generate_WrongPrompt_IsRefused) {
  ExpectRefused({.model = out_, .prompt = ""}, "prompt");
  ExpectRefused({.model = out_, .prompt = std::string(41, 'a')}, "positions for 40");
  ExpectRefused({.model = out_, .prompt_ids = {1, 300}}, "token id 300");
  ExpectRefused({.model = out_, .prompt_ids = {-1}}, "token id -1");
}

class TokenModelTest : public InferenceTest {
 protected:
  TokenModelTest() : InferenceTest({"data.kind='tokens'"}) {}
};

TEST_F(TokenModelTest, TextIsRefused_IdsAreNot) {
  for (const std::string& model : {run_.dir(), out_}) {
    ExpectRefused({.model = model, .prompt = "text"}, "--prompt-ids");
    std::stringstream out;
    EXPECT_THAT(Evaluate(Evaluation(model), out).message(), HasSubstr("no GPT-2 token shard"));
    GenerateRequest request{.model = model, .prompt_ids = {1, 2}, .tokens = 3, .threads = 1};
    EXPECT_NE(Text(request), "");
  }
}

}  // namespace
}  // namespace sdp
