#include <cstdlib>
#include <iostream>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/allocated.h"
#include "common/model/architectures.h"
#include "common/plan/memory.h"
#include "gtest/gtest.h"
#include "tests/worker_model/image_case.h"
#include "tests/worker_model/llama_case.h"
#include "worker/model/device.h"

// What the GPU's allocator tells of tensors there, and what the plan predicts of it. Needs a GPU.
namespace sdp {
namespace {

// The prediction is what there may be at most, but for a few scalars. How late gradients leave the
// GPU, up to kMostPassing fragments, is 6% of the smallest of these models.
constexpr double kScalars = 0.001;
constexpr double kPassing = 0.07;

constexpr MemoryPlace kGpu = MemoryPlace::kGpu;

int64_t Sum(const BytesByKind& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

// What a step took is back, also what copies to the host were reading: the allocator looks when it
// is asked for more.
int64_t AtRest() {
  at::empty({1}, at::kCUDA);
  return Allocated(kGpu).now;
}

class CudaMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> device = OpenDevice(Device::kCuda);
    if (!device.ok()) GTEST_SKIP() << device.status().message();
    ComputeOnThisThread(*device);
    before_ = AtRest();
  }
  int64_t added() const { return Allocated(kGpu).now - before_; }

  int64_t before_ = 0;
};

TEST_F(CudaMemoryTest, Tensors_AreCountedToTheByte) {
  const int64_t host = Allocated().now;
  {
    const at::Tensor a = at::empty({1000}, at::kCUDA);
    EXPECT_EQ(added(), 4000);
    const at::Tensor view = a.narrow(0, 10, 100);
    EXPECT_EQ(added(), 4000);
    at::Tensor b = at::empty({3, 5}, at::TensorOptions(at::kCUDA).dtype(at::kLong));
    EXPECT_EQ(added(), 4000 + 120);
    b.resize_({100, 100});
    EXPECT_EQ(added(), 4000 + 80000);
    const at::Tensor nothing = at::empty({0}, at::kCUDA);
    EXPECT_EQ(added(), 4000 + 80000);
  }
  EXPECT_EQ(added(), 0);
  EXPECT_EQ(Allocated().now, host);
}

TEST_F(CudaMemoryTest, ATensorKeepsTheKindOfItsScope) {
  const auto gradients = [] {
    return AllocatedByKind(kGpu).now[static_cast<size_t>(MemoryKind::kGradients)];
  };
  const int64_t before = gradients();
  at::Tensor tensor;
  {
    const MemoryScope scope(MemoryKind::kGradients);
    tensor = at::empty({1000}, at::kCUDA);
  }
  EXPECT_EQ(gradients(), before + 4000);
  tensor.reset();
  EXPECT_EQ(gradients(), before);
}

// Memory that another stream still reads is not free yet, and is counted.
TEST_F(CudaMemoryTest, OnItsWayToTheHost_ATensorCountsUntilItIsThere) {
  at::Tensor tensor = at::ones({int64_t{1} << 20}, at::kCUDA);
  const HostCopy copy(tensor);
  tensor.reset();
  copy.Await();
  EXPECT_EQ(AtRest(), before_);
}

// The gradients of a backward pass, which torch would run on another thread, have their kind.
TEST_F(CudaMemoryTest, TrainingStep_ByKinds) {
  LlamaSpec spec = LlamaCase::Spec();
  spec.dim = 256;
  spec.ffn_dim = 600;
  spec.vocab = 1000;
  const LlamaCase c(spec, TransformerUnit::kSublayer, 64, Layout::kMaxFragment,
                    {.threads = 1, .device = Device::kCuda});
  TrainTask task;
  task.units = c.Held();
  task.samples = {3, 0, 7, 12};
  FakeExchange exchange = c.MakeExchange();
  ASSERT_TRUE(c.model->Train(task, exchange).ok());  // The first warms what torch keeps.
  AtRest();
  const MemoryLedger rest = AllocatedByKind(kGpu);
  RestartAllocatedPeak();
  ASSERT_TRUE(c.model->Train(task, exchange).ok());
  AtRest();
  const MemoryLedger ledger = AllocatedByKind(kGpu);
  EXPECT_EQ(Sum(ledger.now), Allocated(kGpu).now);
  EXPECT_EQ(Sum(ledger.peak), Allocated(kGpu).peak);
  EXPECT_EQ(ledger.now, rest.now);  // What a step takes, it gives back.
  const auto at_peak = [&](MemoryKind kind) { return ledger.peak[static_cast<size_t>(kind)]; };
  int64_t parameters = 0;
  for (const UnitSpec& unit : c.catalog.units) parameters += unit.params;
  EXPECT_LE(at_peak(MemoryKind::kParameters), 2 * 4 * parameters);  // At most, fragments beside.
  EXPECT_GT(at_peak(MemoryKind::kParameters), 2 * parameters);
  EXPECT_GT(at_peak(MemoryKind::kGradients), 0);
  EXPECT_GT(at_peak(MemoryKind::kActivations), 4 * 64 * spec.dim * 4);
  EXPECT_EQ(at_peak(MemoryKind::kCommunication), 0);
  EXPECT_EQ(at_peak(MemoryKind::kOther), rest.now[static_cast<size_t>(MemoryKind::kOther)]);
}

// cuBLAS takes a workspace for each thread that computes.
TEST_F(CudaMemoryTest, OnAnotherThread_TheWorkspaceIsNoStages) {
  const LlamaCase c(LlamaCase::Spec(), TransformerUnit::kSublayer, 11, Layout::kMaxFragment,
                    {.threads = 1, .device = Device::kCuda});
  AtRest();
  const BytesByKind before = AllocatedByKind(kGpu).now;
  std::thread([&c] {
    TrainTask task;
    task.units = c.Held();
    task.samples = {0, 1};
    FakeExchange exchange = c.MakeExchange();
    EXPECT_TRUE(c.model->Train(task, exchange).ok());
  }).join();
  AtRest();
  BytesByKind added = AllocatedByKind(kGpu).now;
  for (size_t kind = 0; kind < kMemoryKinds; ++kind) added[kind] -= before[kind];
  EXPECT_GE(added[static_cast<size_t>(MemoryKind::kOther)], kCublasWorkspaceBytes);
  EXPECT_EQ(Sum(added), added[static_cast<size_t>(MemoryKind::kOther)]);
}

// ---- Prediction against measurement ----

// The peak of a step beyond what was there before, in the second of two.
int64_t MeasuredPeak(const ModelCase& c, const TrainTask& task, WireType type) {
  FakeExchange exchange(c.layout, c.Fragments(c.weights), type);
  int64_t measured = 0;
  for (int repetition = 0; repetition < 2; ++repetition) {
    const int64_t before = AtRest();
    RestartAllocatedPeak();
    const absl::StatusOr<TrainResult> result = c.model->Train(task, exchange);
    EXPECT_TRUE(result.ok()) << result.status();
    measured = Allocated(kGpu).peak - before;
  }
  return measured;
}

MemoryModel ModelOf(const ModelSpec& spec, int64_t seq_len, WireType type) {
  const int64_t element = BytesPerElement(type);
  MemoryModel model;
  model.worker_place = kGpu;
  model.sizes = {
      .weight = element, .gradient = element, .activation = element, .fragment = element};
  const ModelMemory memory = MemoryOf(spec, seq_len, model.sizes, {.place = kGpu});
  model.stages = memory.stages;
  model.input_bytes = memory.input_bytes;
  model.target_bytes = memory.target_bytes;
  return model;
}

void ExpectNear(int64_t measured, const MemoryPeak& predicted) {
  const double ratio = static_cast<double>(measured) / static_cast<double>(predicted.bytes);
  if (std::getenv("SDP_TEST_PRINT") != nullptr) {
    std::cout << ::testing::UnitTest::GetInstance()->current_test_info()->name() << " measured "
              << measured << " predicted " << predicted.bytes << " " << ratio << " "
              << predicted.when << std::endl;
  }
  EXPECT_GT(ratio, 1 - kPassing) << predicted.when;
  EXPECT_LT(ratio, 1 + kScalars) << predicted.when;
}

// Every other masked unit is absent, or none is.
enum class Held { kAll, kHalf };

void ExpectPredicted(const ModelCase& c, MemoryModel model, WireType type, Masking masking,
                     Held held) {
  TrainTask task;
  std::vector<UnitId> ids;
  int masked = 0;
  for (const HeldUnit& unit : c.Held()) {
    const bool shared = c.catalog.unit(unit.unit).shared;
    if (!shared && held == Held::kHalf && ++masked % 2 == 0) {
      if (masking == Masking::kBackward) task.read_only.push_back(unit.unit);
      continue;
    }
    task.units.push_back(unit);
    ids.push_back(unit.unit);
  }
  for (int64_t sample = 0; sample < 16; ++sample) task.samples.push_back(sample);
  model.masking = masking;
  const int64_t measured = MeasuredPeak(c, task, type);
  const MemoryPeak predicted = TrainingMemory(c.catalog, ids, model, 16);
  ExpectNear(measured, predicted);
}

TEST_F(CudaMemoryTest, Prediction_Llama) {
  LlamaSpec spec = LlamaCase::Spec();
  spec.dim = 256;
  spec.layers = 4;
  spec.heads = 4;
  spec.ffn_dim = 688;
  for (const WireType type : {WireType::kF32, WireType::kBf16}) {
    for (const int64_t kv_heads : {4, 2}) {
      for (const int64_t vocab : {256, 8000}) {
        spec.kv_heads = kv_heads;
        spec.vocab = vocab;
        const LlamaCase c(spec, TransformerUnit::kSublayer, 256, Layout::kMaxFragment,
                          {.threads = 1, .precision = type, .device = Device::kCuda});
        for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
          for (const Held held : {Held::kAll, Held::kHalf}) {
            SCOPED_TRACE(absl::StrCat(BytesPerElement(type), " bytes, ", kv_heads, " kv heads of ",
                                      vocab, masking == Masking::kBackward ? " backward" : "",
                                      held == Held::kHalf ? " half" : ""));
            ExpectPredicted(c, ModelOf(spec, 256, type), type, masking, held);
          }
        }
      }
    }
  }
}

TEST_F(CudaMemoryTest, Prediction_Evaluation) {
  LlamaSpec spec = LlamaCase::Spec();
  spec.dim = 256;
  spec.ffn_dim = 688;
  for (const WireType type : {WireType::kF32, WireType::kBf16}) {
    for (const int64_t vocab : {256, 8000}) {
      spec.vocab = vocab;
      const LlamaCase c(spec, TransformerUnit::kSublayer, 256, Layout::kMaxFragment,
                        {.threads = 1, .precision = type, .device = Device::kCuda});
      MemoryModel model = ModelOf(spec, 256, type);
      EvaluateTask task;
      task.units = c.Held();
      task.samples = 16;
      task.micro_batch = 4;
      model.evaluation = EvaluationSizesFor(c.catalog, 256, 4, 0, BytesPerElement(type));
      FakeExchange exchange(c.layout, c.Fragments(c.weights), type);
      const int64_t before = AtRest();
      RestartAllocatedPeak();
      const absl::StatusOr<LossSum> result = c.model->Evaluate(task, exchange);
      ASSERT_TRUE(result.ok()) << result.status();
      SCOPED_TRACE(absl::StrCat(BytesPerElement(type), " bytes, ", vocab));
      ExpectNear(Allocated(kGpu).peak - before, EvaluationMemory(c.catalog, model));
    }
  }
}

TEST_F(CudaMemoryTest, Prediction_ImageMlp) {
  ImageMlpSpec spec = ImageCase::Mlp();
  spec.dim = 256;
  spec.ffn_dim = 1024;
  const ImageCase c(spec, Layout::kMaxFragment, {.threads = 1, .device = Device::kCuda});
  for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
    for (const Held held : {Held::kAll, Held::kHalf})
      ExpectPredicted(c, ModelOf(spec, 0, WireType::kF32), WireType::kF32, masking, held);
  }
}

}  // namespace
}  // namespace sdp
