#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/llama_case.h"

// A model in bf16 against the naive one in f64 at the same, bf16, weights. u = 2^-8 is the largest
// relative error of one rounding. On its way through two layers, forth and back, a gradient's value
// depends on some 40 roundings; as they are of either sign, their sum is near sqrt(40) u / sqrt(3)
// = 3.7 u of a block's gradient in the 2-norm. 8 u (3%) leaves room for what softmax magnifies.
namespace sdp {
namespace {

constexpr double kU = 0x1p-8;

ModelOptions Bf16() { return {.threads = 1, .precision = WireType::kBf16}; }

// |a - b| / |b| in the 2-norm.
double Error(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b).norm() / b.norm()).item<double>();
}

// Its weights are bf16 numbers, and matrices half as large as usual: near a corner of a softmax
// errors are magnified.
LlamaCase MakeCase(const LlamaSpec& spec = LlamaCase::Spec(), int64_t length = 11) {
  LlamaCase c(spec, TransformerUnit::kSublayer, length, 1000, Bf16());
  for (auto& [name, value] : c.weights) {
    if (value.dim() > 1) value = value / 2;
    value = value.to(at::kBFloat16).to(at::kFloat);
  }
  return c;
}

FakeExchange MakeExchange(const LlamaCase& c) {
  return FakeExchange(c.layout, c.Fragments(c.weights), WireType::kBf16);
}

TrainTask Task(const LlamaCase& c, std::vector<int64_t> samples, int64_t micro_batch) {
  TrainTask task;
  task.units = c.Held({}, 0.7);
  task.samples = std::move(samples);
  task.micro_batch = micro_batch;
  return task;
}

TEST(Bf16ModelTest, WeightsOfAnotherType_Internal) {
  const LlamaCase c = MakeCase();
  FakeExchange f32 = c.MakeExchange();
  const absl::Status status = c.model->Train(Task(c, {1}, 0), f32).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("4 bytes an element, not 2"));
}

TEST(Bf16ModelTest, LossAndGradients_NearNaive) {
  LlamaSpec tied = LlamaCase::Spec();
  tied.tied = true;
  LlamaSpec chunked = LlamaCase::Spec();
  chunked.vocab = 8191;
  for (const auto& [spec, length, micro_batch] :
       {std::tuple<LlamaSpec, int64_t, int64_t>{LlamaCase::Spec(), 11, 0},
        {LlamaCase::Spec(), 90, 3},
        {tied, 11, 1},
        {chunked, 100, 0}}) {
    const LlamaCase c = MakeCase(spec, length);
    const std::vector<int64_t> samples = {3, 0, 7, 12};
    const naive::Weights reference = c.ReferenceWeights();
    const at::Tensor loss = c.ReferenceLoss(reference, samples, c.Factors(0.7));
    loss.backward();
    const naive::Weights gradients = LlamaCase::Gradients(reference);
    FakeExchange exchange = MakeExchange(c);
    const auto result = c.model->Train(Task(c, samples, micro_batch), exchange);
    ASSERT_TRUE(result.ok()) << result.status();
    const double mean = loss.item<double>();
    // Errors of single losses are of either sign.
    EXPECT_NEAR(result->loss.loss_sum / static_cast<double>(result->loss.terms), mean,
                3 * kU * mean);
    for (const HeldUnit& held : c.Held()) {
      EXPECT_LT(Error(c.BlockGradient(exchange, held.unit), c.Block(held.unit, gradients)), 8 * kU)
          << c.catalog.unit(held.unit).name;
    }
  }
}

// A micro-batch's gradient is bf16; their sum is f32 and rounded once. A task of one sample has
// gradients that are larger by a power of two, so it gives the same bf16 digits.
TEST(Bf16ModelTest, MicroBatches_AddUpInOrderInF32) {
  const LlamaCase c = MakeCase();
  const std::vector<int64_t> samples = {3, 0, 7, 12};
  std::vector<at::Tensor> sums(c.catalog.units.size());
  for (const int64_t sample : samples) {
    FakeExchange one = MakeExchange(c);
    ASSERT_TRUE(c.model->Train(Task(c, {sample}, 0), one).ok());
    for (const HeldUnit& held : c.Held()) {
      at::Tensor& sum = sums[static_cast<size_t>(held.unit.value())];
      const at::Tensor gradient = c.BlockGradient(one, held.unit) / 4;
      sum = sum.defined() ? sum + gradient : gradient;
    }
  }
  FakeExchange exchange = MakeExchange(c);
  ASSERT_TRUE(c.model->Train(Task(c, samples, 1), exchange).ok());
  for (const HeldUnit& held : c.Held()) {
    const at::Tensor& sum = sums[static_cast<size_t>(held.unit.value())];
    EXPECT_TRUE(
        at::equal(c.BlockGradient(exchange, held.unit), sum.to(at::kBFloat16).to(at::kFloat)))
        << c.catalog.unit(held.unit).name;
  }
}

TEST(Bf16ModelTest, Repeated_SameBits) {
  const LlamaCase c = MakeCase(LlamaCase::Spec(), 90);
  FakeExchange first = MakeExchange(c), second = MakeExchange(c);
  const auto a = c.model->Train(Task(c, {1, 2, 3}, 2), first);
  const auto b = c.model->Train(Task(c, {1, 2, 3}, 2), second);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->loss.loss_sum, b->loss.loss_sum);
  for (const HeldUnit& held : c.Held()) {
    EXPECT_TRUE(at::equal(c.BlockGradient(first, held.unit), c.BlockGradient(second, held.unit)));
  }
}

TEST(Bf16ModelTest, Evaluation_NearNaive_AnyMicroBatch) {
  const LlamaCase c = MakeCase();
  const double mean =
      c.ReferenceLoss(c.ReferenceWeights(), {2, 3, 4, 5, 6}, c.Factors(0.5)).item<double>();
  for (const int64_t micro_batch : {0, 2}) {
    FakeExchange exchange = MakeExchange(c);
    EvaluateTask task;
    task.units = c.Held({}, 0.5);
    task.first_sample = 2;
    task.samples = 5;
    task.micro_batch = micro_batch;
    const absl::StatusOr<LossSum> result = c.model->Evaluate(task, exchange);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->terms, 55);
    EXPECT_NEAR(result->loss_sum / 55, mean, 3 * kU * mean);
  }
}

// A worker that is to use a GPU and cannot says so and what to do.
TEST(DeviceTest, CudaWhereThereIsNone_FailedPreconditionAndWhatToDo) {
  const LlamaCase c;
  const absl::Status status =
      MakeTorchModel(c.catalog, c.layout, c.spec, &c.data, nullptr, {.device = Device::kCuda})
          .status();
  if (status.ok()) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("worker.device = \"cuda\": "));
  EXPECT_THAT(status.message(), ::testing::HasSubstr("set worker.device = \"cpu\""));
  EXPECT_THAT(status.message(), ::testing::AnyOf(::testing::HasSubstr("cmake --preset cuda"),
                                                 ::testing::HasSubstr("install --cuda"),
                                                 ::testing::HasSubstr("nvidia-smi")));
}

}  // namespace
}  // namespace sdp
