#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/model/masking.h"
#include "gtest/gtest.h"
#include "tests/worker_model/image_case.h"
#include "tests/worker_model/llama_case.h"
#include "worker/model/device.h"

// A training step and an evaluation on a GPU against the same on the CPU: two roundings of the same
// computation. f32: 2e-5 of the largest, as for the CPU against f64 (train_test.cc); bf16: 0.15,
// as random weights this large magnify roundings of 2^-8. Needs a GPU.
namespace sdp {
namespace {

// One step of the same task on both, and again on the GPU.
void ExpectSameStep(const ModelCase& cpu, const ModelCase& gpu, const TrainTask& task,
                    WireType type, double tolerance) {
  FakeExchange a(cpu.layout, cpu.Fragments(cpu.weights), type);
  FakeExchange b(gpu.layout, gpu.Fragments(gpu.weights), type);
  FakeExchange c(gpu.layout, gpu.Fragments(gpu.weights), type);
  const auto expected = cpu.model->Train(task, a);
  const auto result = gpu.model->Train(task, b), again = gpu.model->Train(task, c);
  ASSERT_TRUE(expected.ok() && result.ok() && again.ok()) << result.status();
  EXPECT_NEAR(result->loss.loss_sum, expected->loss.loss_sum, tolerance * expected->loss.loss_sum);
  EXPECT_EQ(result->loss.loss_sum, again->loss.loss_sum);
  for (const HeldUnit& held : task.units) {
    const at::Tensor gradient = gpu.BlockGradient(b, held.unit);
    EXPECT_LT(Difference(gradient, cpu.BlockGradient(a, held.unit)), tolerance)
        << cpu.catalog.unit(held.unit).name;
    EXPECT_TRUE(at::equal(gradient, gpu.BlockGradient(c, held.unit)))
        << cpu.catalog.unit(held.unit).name;
  }
}

// Every third masked unit is not held, or read only.
TrainTask TwoThirds(const ModelCase& c, Masking masking) {
  TrainTask task;
  int masked = 0;
  for (const HeldUnit& unit : c.Held({}, 0.7)) {
    if (c.catalog.unit(unit.unit).shared || ++masked % 3 != 0) {
      task.units.push_back(unit);
    } else if (masking == Masking::kBackward) {
      task.read_only.push_back(unit.unit);
    }
  }
  task.samples = {3, 0, 7, 12};
  return task;
}

class CudaModelTest : public ::testing::TestWithParam<WireType> {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> device = OpenDevice(Device::kCuda);
    if (!device.ok()) GTEST_SKIP() << device.status().message();
  }
  double tolerance() const { return GetParam() == WireType::kF32 ? 2e-5 : 0.15; }
};

LlamaSpec Spec(bool tied) {
  LlamaSpec spec = LlamaCase::Spec();
  spec.dim = 64;  // heads of 16: flash attention in bf16
  spec.tied = tied;
  return spec;
}

LlamaCase MakeCase(WireType type, Device device, bool tied) {
  return LlamaCase(Spec(tied), TransformerUnit::kSublayer, 90, 1000,
                   {.threads = 1, .precision = type, .device = device});
}

TEST_P(CudaModelTest, TrainingStep_NearTheCpus_AndRepeatable) {
  for (const bool tied : {false, true}) {
    for (const int64_t micro_batch : {0, 2}) {
      const LlamaCase cpu = MakeCase(GetParam(), Device::kCpu, tied);
      const LlamaCase gpu = MakeCase(GetParam(), Device::kCuda, tied);
      TrainTask task;
      task.units = cpu.Held({"layers.0.mlp"}, 0.7);
      task.samples = {3, 0, 7, 12};
      task.micro_batch = micro_batch;
      ExpectSameStep(cpu, gpu, task, GetParam(), tolerance());
    }
  }
}

// Both maskings of blocks and of heads and neurons, and recomputation.
TEST_P(CudaModelTest, PartsOfTheModel_NearTheCpus_AndRepeatable) {
  const LlamaSpec spec = Spec(false);
  for (const int64_t groups : {0, 5}) {
    for (const bool recompute : {false, true}) {
      CatalogOptions options = {.seq_len = 90, .recompute = recompute};
      if (groups > 0) options.neurons = NeuronUnits{.groups = groups};
      const auto make = [&](Device device) {
        return LlamaCase(spec, MakeCatalog(spec, options), 90, 1000,
                         {.threads = 1, .precision = GetParam(), .device = device});
      };
      const LlamaCase cpu = make(Device::kCpu), gpu = make(Device::kCuda);
      for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
        SCOPED_TRACE(absl::StrCat(groups, recompute ? " recomputed" : "",
                                  masking == Masking::kBackward ? " backward" : ""));
        ExpectSameStep(cpu, gpu, TwoThirds(cpu, masking), GetParam(), tolerance());
      }
    }
  }
}

TEST_P(CudaModelTest, Evaluation_NearTheCpus) {
  EvaluateTask task;
  task.samples = 13;
  task.micro_batch = 3;
  double sums[2] = {};
  for (const Device device : {Device::kCpu, Device::kCuda}) {
    const LlamaCase c = MakeCase(GetParam(), device, false);
    task.units = c.Held({}, 0.5);
    FakeExchange exchange(c.layout, c.Fragments(c.weights), GetParam());
    const absl::StatusOr<LossSum> sum = c.model->Evaluate(task, exchange);
    ASSERT_TRUE(sum.ok()) << sum.status();
    sums[device == Device::kCuda] = sum->loss_sum;
  }
  EXPECT_NEAR(sums[1], sums[0], tolerance() * sums[0]);
}

INSTANTIATE_TEST_SUITE_P(Types, CudaModelTest, ::testing::Values(WireType::kF32, WireType::kBf16));

// Image models: convolutions and norms are the libraries', so this is about where everything is,
// and that sums are made in f32 in a fixed order. Tolerance 2e-5, as image_model_test.cc.
class CudaImageModelTest : public ::testing::TestWithParam<ImageCase::Named> {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> device = OpenDevice(Device::kCuda);
    if (!device.ok()) GTEST_SKIP() << device.status().message();
  }
};

TEST_P(CudaImageModelTest, TrainingStep_NearTheCpus_AndRepeatable) {
  const ImageCase cpu(GetParam().spec);
  const ImageCase gpu(GetParam().spec, 1000, {.threads = 1, .device = Device::kCuda});
  TrainTask task;
  task.units = cpu.Held({cpu.Masked().front()}, 0.7);
  task.samples = {3, 0, 7, 12};
  ExpectSameStep(cpu, gpu, task, WireType::kF32, 2e-5);
}

TEST_P(CudaImageModelTest, PartsOfTheModel_NearTheCpus_AndRepeatable) {
  const bool swin = std::holds_alternative<SwinSpec>(GetParam().spec);
  for (const int64_t groups : {0, 2}) {
    const auto make = [&](Device device) {
      return ImageCase(GetParam().spec, 1000, {.threads = 1, .device = device},
                       ImageCase::OptionsOf(groups));
    };
    const ImageCase cpu = make(Device::kCpu), gpu = make(Device::kCuda);
    for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
      if (swin && groups > 0 && masking == Masking::kBackward) continue;  // Not built.
      SCOPED_TRACE(absl::StrCat(groups, masking == Masking::kBackward ? " backward" : ""));
      ExpectSameStep(cpu, gpu, TwoThirds(cpu, masking), WireType::kF32, 2e-5);
    }
  }
}

// With BatchNorm's statistics, which are learnt there too.
TEST_P(CudaImageModelTest, Evaluation_NearTheCpus) {
  LossSum sums[2];
  for (const Device device : {Device::kCpu, Device::kCuda}) {
    const ImageCase c(GetParam().spec, 1000, {.threads = 1, .device = device});
    EvaluateTask task;
    task.units = c.Held({}, 0.5);
    task.samples = 13;
    task.micro_batch = 4;
    FakeExchange exchange = c.MakeExchange();
    const absl::StatusOr<LossSum> sum = c.model->Evaluate(task, exchange);
    ASSERT_TRUE(sum.ok()) << sum.status();
    sums[device == Device::kCuda] = *sum;
  }
  EXPECT_NEAR(sums[1].loss_sum, sums[0].loss_sum, 2e-5 * sums[0].loss_sum);
  EXPECT_EQ(sums[1].correct, sums[0].correct);
}

INSTANTIATE_TEST_SUITE_P(All, CudaImageModelTest, ::testing::ValuesIn(ImageCase::All()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace sdp
