#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/llama_case.h"

// TorchModel::Evaluate against the naive full model in f64. Tolerance 1e-6 of the loss: f32
// rounding of single losses, which mostly averages out over the targets.
namespace sdp {
namespace {

using Kind = FakeExchange::Kind;

EvaluateTask Task(std::vector<HeldUnit> units, int64_t first, int64_t samples,
                  int64_t micro_batch) {
  EvaluateTask task;
  task.step = 9;
  task.units = std::move(units);
  task.first_sample = first;
  task.samples = samples;
  task.micro_batch = micro_batch;
  return task;
}

double NaiveMean(const LlamaCase& c, int64_t first, int64_t samples, double factor) {
  std::vector<int64_t> indices(static_cast<size_t>(samples));
  std::iota(indices.begin(), indices.end(), first);
  return c.ReferenceLoss(c.ReferenceWeights(), indices, c.Factors(factor)).item<double>();
}

// Memory that holds the boundary activations of so many samples.
ModelOptions RoomFor(int64_t samples, const LlamaSpec& spec, int64_t seq_len) {
  return {1, samples * 2 * spec.dim * seq_len * static_cast<int64_t>(sizeof(float))};
}

TEST(EvaluateTest, LossNotFinite_OutOfRange) {
  LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  exchange.value(c.layout.block(c.Unit("layers.0.mlp")).front()).data()[0] = std::nanf("");
  const absl::Status status = c.model->Evaluate(Task(c.Held(), 0, 4, 2), exchange).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << status;
  EXPECT_THAT(status.message(), ::testing::HasSubstr("version 9"));
}

TEST(EvaluateTest, UnitMissing_InvalidArgument) {
  LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  EXPECT_EQ(c.model->Evaluate(Task(c.Held({"layers.0.mlp"}), 0, 4, 2), exchange).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(EvaluateTest, TakeFails_SameCodeAndNamesTheUnit) {
  LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  exchange.FailTake(c.Unit("layers.1.mlp"), absl::DeadlineExceededError("no progress"));
  const absl::Status status = c.model->Evaluate(Task(c.Held(), 0, 4, 2), exchange).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("layers.1.mlp"));
}

TEST(EvaluateTest, NoValidationData_FailedPreconditionUnlessNothingIsAsked) {
  LlamaCase c;
  const auto model = MakeTorchModel(c.catalog, c.layout, c.spec, &c.data, nullptr, {1, 0});
  ASSERT_TRUE(model.ok());
  FakeExchange exchange = c.MakeExchange();
  EXPECT_EQ((*model)->Evaluate(Task(c.Held(), 0, 1, 0), exchange).status().code(),
            absl::StatusCode::kFailedPrecondition);
  const absl::StatusOr<LossSum> nothing = (*model)->Evaluate(Task(c.Held(), 0, 0, 0), exchange);
  ASSERT_TRUE(nothing.ok());
  EXPECT_EQ(nothing->terms, 0);
  EXPECT_TRUE(exchange.events().empty());
}

TEST(EvaluateTest, AnyChunkAndMicroBatch_EqualsNaiveMean) {
  for (const bool tied : {false, true}) {
    LlamaSpec spec = LlamaCase::Spec();
    spec.tied = tied;
    for (const int64_t room : {0, 4, 5, 100}) {
      for (const int64_t micro_batch : {0, 1, 3}) {
        SCOPED_TRACE(::testing::Message()
                     << "tied " << tied << " room " << room << " micro-batch " << micro_batch);
        const LlamaCase c(spec, TransformerUnit::kSublayer, 11, 1000, RoomFor(room, spec, 11));
        FakeExchange exchange = c.MakeExchange();
        const absl::StatusOr<LossSum> result =
            c.model->Evaluate(Task(c.Held({}, 0.5), 2, 13, micro_batch), exchange);
        ASSERT_TRUE(result.ok()) << result.status();
        EXPECT_EQ(result->terms, 13 * 11);
        const double mean = NaiveMean(c, 2, 13, 0.5);
        EXPECT_NEAR(result->loss_sum / 143, mean, 1e-6 * mean);
      }
    }
  }
}

TEST(EvaluateTest, LayerUnits_EqualsNaiveMean) {
  const LlamaCase c(LlamaCase::Spec(), TransformerUnit::kLayer);
  FakeExchange exchange = c.MakeExchange();
  const absl::StatusOr<LossSum> result =
      c.model->Evaluate(Task(c.Held({}, 0.25), 0, 5, 2), exchange);
  ASSERT_TRUE(result.ok()) << result.status();
  const double mean = NaiveMean(c, 0, 5, 0.25);
  EXPECT_NEAR(result->loss_sum / 55, mean, 1e-6 * mean);
}

TEST(EvaluateTest, Events_EachUnitWantedOneStageAheadAndTakenOncePerChunk) {
  const LlamaCase c(LlamaCase::Spec(), TransformerUnit::kSublayer, 11, Layout::kMaxFragment,
                    RoomFor(4, LlamaCase::Spec(), 11));
  FakeExchange exchange = c.MakeExchange();
  ASSERT_TRUE(c.model->Evaluate(Task(c.Held(), 0, 8, 2), exchange).ok());  // two chunks of 4
  std::vector<FakeExchange::Event> expected = {{Kind::kWant, 0}};
  const int units = static_cast<int>(c.catalog.units.size());
  for (const int chunk : {0, 1}) {
    for (int unit = 0; unit < units; ++unit) {
      expected.push_back({Kind::kTake, unit});
      if (unit + 1 < units || chunk == 0) expected.push_back({Kind::kWant, (unit + 1) % units});
    }
  }
  EXPECT_EQ(exchange.events(), expected);
}

TEST(EvaluateTest, TiedHead_EmbeddingIsKeptForTheHead) {
  LlamaSpec spec = LlamaCase::Spec();
  spec.tied = true;
  const LlamaCase c(spec);
  FakeExchange exchange = c.MakeExchange();
  ASSERT_TRUE(c.model->Evaluate(Task(c.Held(), 0, 8, 2), exchange).ok());  // four chunks
  EXPECT_EQ(exchange.Count(Kind::kTake, c.Unit("embed").value()), 4);
  EXPECT_EQ(exchange.Count(Kind::kWant, c.Unit("embed").value()), 4);
}

TEST(EvaluateTest, AfterTraining_SameAsBefore) {
  const LlamaCase c;
  FakeExchange exchange = c.MakeExchange();
  const absl::StatusOr<LossSum> before = c.model->Evaluate(Task(c.Held(), 0, 5, 2), exchange);
  TrainTask train;
  train.units = c.Held();
  train.samples = {1, 2};
  ASSERT_TRUE(c.model->Train(train, exchange).ok());
  const absl::StatusOr<LossSum> after = c.model->Evaluate(Task(c.Held(), 0, 5, 2), exchange);
  ASSERT_TRUE(before.ok() && after.ok());
  EXPECT_EQ(before->loss_sum, after->loss_sum);
}

}  // namespace
}  // namespace sdp
