#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "common/base/allocated.h"
#include "common/model/llama_memory.h"
#include "common/plan/memory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/image_case.h"
#include "tests/worker_model/llama_case.h"
#include "worker/model/counting_allocator.h"

// What the allocator counts, and what the plan predicts of it.
namespace sdp {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

TEST(CountTensorsTest, Tensors_AreCountedToTheByte) {
  CountTensors();
  CountTensors();  // Once more does not count twice.
  const int64_t before = Allocated().now;
  {
    const at::Tensor a = at::empty({1000}, at::kFloat);
    EXPECT_EQ(Allocated().now - before, 4000);
    const at::Tensor view = a.narrow(0, 10, 100);
    EXPECT_EQ(Allocated().now - before, 4000);
    at::Tensor b = at::empty({3, 5}, at::kLong);
    EXPECT_EQ(Allocated().now - before, 4000 + 120);
    const FloatBuffer buffer(10);
    EXPECT_EQ(Allocated().now - before, 4000 + 120 + 40);
    b.resize_({100, 100});
    EXPECT_EQ(Allocated().now - before, 4000 + 80000 + 40);
    const at::Tensor nothing = at::empty({0}, at::kFloat);
    EXPECT_EQ(Allocated().now - before, 4000 + 80000 + 40);
  }
  EXPECT_EQ(Allocated().now, before);
}

TEST(CountTensorsTest, Peak_IsOfTensorsAndBuffersTogether) {
  CountTensors();
  const int64_t before = Allocated().now;
  RestartAllocatedPeak();
  { const at::Tensor alone = at::empty({kMiB}, at::kByte); }
  {
    const at::Tensor half = at::empty({kMiB / 2}, at::kByte);
    const FloatBuffer rest(kMiB / 16);
  }
  // Not the sum of the two peaks, 1.25 MiB.
  EXPECT_EQ(Allocated().peak - before, kMiB);
}

TEST(CountTensorsTest, FreedByAnotherThread_Counts) {
  CountTensors();
  const int64_t before = Allocated().now;
  at::Tensor tensor = at::empty({1000}, at::kFloat);
  FloatBuffer buffer(1000);
  std::thread([gone = std::move(tensor), other = std::move(buffer)] {}).join();
  EXPECT_EQ(Allocated().now, before);
}

TEST(CountTensorsTest, ATensorKeepsTheKindOfItsScope) {
  CountTensors();
  const auto gradients = [] {
    return AllocatedByKind().now[static_cast<size_t>(MemoryKind::kGradients)];
  };
  const int64_t before = gradients();
  at::Tensor tensor;
  {
    const MemoryScope scope(MemoryKind::kGradients);
    tensor = at::empty({1000}, at::kFloat);
  }
  EXPECT_EQ(gradients(), before + 4000);
  tensor.reset();
  EXPECT_EQ(gradients(), before);
}

// ---- Prediction against measurement ----

LlamaSpec Small() {
  LlamaSpec spec;
  spec.dim = 64;
  spec.layers = 4;
  spec.heads = 4;
  spec.kv_heads = 4;
  spec.ffn_dim = 172;
  spec.vocab = 256;
  return spec;
}

struct Shape {
  LlamaSpec spec = Small();
  std::vector<std::string> absent;
  int64_t seq_len = 128;
  int64_t samples = 4;
  int64_t micro_batch = 0;
  Masking masking = Masking::kForward;  // kBackward: what is absent is read
  int64_t groups = 0;                   // > 0: neuron granularity
  bool recompute = false;

  Catalog Units() const {
    CatalogOptions options = {.seq_len = seq_len, .recompute = recompute};
    if (groups > 0) options.neurons = {.groups = groups};
    return MakeCatalog(spec, options);
  }
};

// Units a worker does without at coverage 1/2 and 1/4.
std::vector<std::string> Half() {
  return {"layers.0.mlp", "layers.1.attention", "layers.2.mlp", "layers.3.attention"};
}
std::vector<std::string> ThreeQuarters() {
  std::vector<std::string> absent = Half();
  absent.insert(absent.end(), {"layers.0.attention", "layers.3.mlp"});
  return absent;
}

MemoryModel ModelOf(const LlamaCase& c, int64_t micro_batch) {
  MemoryModel model;
  model.stages = [spec = c.spec, seq_len = c.seq_len](int64_t samples, const HeldTensors& held) {
    return LlamaMemory(spec, seq_len, samples, held, ElementSizes(), Computer());
  };
  model.input_bytes = model.target_bytes = 8 * c.seq_len;
  model.micro_batch = micro_batch;
  model.evaluation = EvaluationSizesFor(c.catalog, c.seq_len, micro_batch, 0, 4);
  return model;
}

std::vector<UnitId> Ids(const std::vector<HeldUnit>& held) {
  std::vector<UnitId> ids;
  for (const HeldUnit& unit : held) ids.push_back(unit.unit);
  return ids;
}

// A worker with a fast network: it has weights as soon as they are wanted, the next step's as soon
// as there is room, and keeps all gradients.
class EarlyExchange : public FakeExchange {
 public:
  explicit EarlyExchange(const ModelCase& c) : FakeExchange(c.layout, c.Fragments(c.weights)) {}
  void Want(UnitId unit) override { early_[unit] = FakeExchange::Take(unit).value(); }
  void Released(UnitId unit) override { Want(unit); }
  void Restart() {
    Forget();
    early_.clear();
  }
  absl::StatusOr<std::vector<WireBuffer>> Take(UnitId unit) override {
    return std::move(early_.at(unit));
  }

 private:
  absl::flat_hash_map<UnitId, std::vector<WireBuffer>> early_;
};

// The peak of a step, in the second of two.
int64_t MeasuredPeak(const ModelCase& c, const TrainTask& task) {
  EarlyExchange exchange(c);
  int64_t measured = 0;
  for (int repetition = 0; repetition < 2; ++repetition) {  // The first warms what torch keeps.
    exchange.Restart();
    const int64_t before = Allocated().now;
    RestartAllocatedPeak();
    for (const HeldUnit& unit : task.units) exchange.Want(unit.unit);
    for (const UnitId unit : task.read_only) exchange.Want(unit);
    const absl::StatusOr<TrainResult> result = c.model->Train(task, exchange);
    EXPECT_TRUE(result.ok()) << result.status();
    measured = Allocated().peak - before;
  }
  return measured;
}

TrainTask TaskOf(const ModelCase& c, const std::vector<std::string>& absent, Masking masking,
                 int64_t samples, int64_t micro_batch) {
  TrainTask task;
  task.units = c.Held(absent);
  for (const HeldUnit& unit : c.Held()) {
    const std::string& name = c.catalog.unit(unit.unit).name;
    if (masking == Masking::kBackward && absl::c_linear_search(absent, name))
      task.read_only.push_back(unit.unit);
  }
  task.micro_batch = micro_batch;
  for (int64_t i = 0; i < samples; ++i) task.samples.push_back(i);
  return task;
}

void ExpectNear(int64_t measured, const MemoryPeak& predicted, double tolerance) {
  if (std::getenv("SDP_TEST_PRINT") != nullptr) {
    std::cout << "measured " << measured << " predicted " << predicted.bytes << " "
              << static_cast<double>(measured) / static_cast<double>(predicted.bytes) << " "
              << predicted.when << std::endl;
  }
  EXPECT_NEAR(static_cast<double>(measured), static_cast<double>(predicted.bytes),
              tolerance * static_cast<double>(predicted.bytes))
      << predicted.when;
}

void ExpectPredicted(const Shape& shape, double tolerance) {
  CountTensors();
  const LlamaCase c(shape.spec, shape.Units(), shape.seq_len);
  const TrainTask task = TaskOf(c, shape.absent, shape.masking, shape.samples, shape.micro_batch);
  MemoryModel model = ModelOf(c, shape.micro_batch);
  model.masking = shape.masking;
  ExpectNear(MeasuredPeak(c, task),
             TrainingMemory(c.catalog, Ids(task.units), model, shape.samples), tolerance);
}

// The prediction counts bytes; 0.1% is room for a few scalars, and for the order in which autograd
// hands out the gradients of one stage.
constexpr double kTolerance = 0.001;

TEST(MemoryPredictionTest, Training_FullModel) { ExpectPredicted({}, kTolerance); }
TEST(MemoryPredictionTest, Training_Half) { ExpectPredicted({.absent = Half()}, kTolerance); }
TEST(MemoryPredictionTest, Training_Quarter) {
  ExpectPredicted({.absent = ThreeQuarters()}, kTolerance);
}

TEST(MemoryPredictionTest, Training_GroupedQueries) {
  Shape shape;
  shape.spec.kv_heads = 1;
  ExpectPredicted(shape, kTolerance);
}

TEST(MemoryPredictionTest, Training_TiedHead) {
  Shape shape;
  shape.spec.tied = true;
  shape.spec.vocab = 4000;
  ExpectPredicted(shape, kTolerance);
  shape.absent = ThreeQuarters();
  ExpectPredicted(shape, kTolerance);
}

TEST(MemoryPredictionTest, Training_LargeVocabulary) {
  Shape shape;
  shape.spec.vocab = 8000;
  ExpectPredicted(shape, kTolerance);
  shape.absent = Half();
  ExpectPredicted(shape, kTolerance);
}

TEST(MemoryPredictionTest, Training_MicroBatches) {
  for (const int64_t micro_batch : {1, 2, 3}) {  // 4, 2 and 2 (uneven) of them
    for (const bool tied : {false, true}) {
      Shape shape;
      shape.micro_batch = micro_batch;
      shape.spec.tied = tied;
      ExpectPredicted(shape, kTolerance);
      shape.absent = Half();
      ExpectPredicted(shape, kTolerance);
    }
  }
}

// All weights and what all stages store; gradients of what is held.
TEST(MemoryPredictionTest, Training_BackwardMasking) {
  std::vector<std::string> all = ThreeQuarters();
  all.insert(all.end(), {"layers.1.mlp", "layers.2.attention"});
  for (const std::vector<std::string>& absent : {{}, Half(), ThreeQuarters(), all}) {
    for (const int64_t micro_batch : {0, 1, 3}) {
      SCOPED_TRACE(absl::StrCat(absent.size(), " not held, micro-batch ", micro_batch));
      Shape shape{.absent = absent, .micro_batch = micro_batch, .masking = Masking::kBackward};
      ExpectPredicted(shape, kTolerance);
      shape.spec.kv_heads = 1;
      shape.spec.vocab = 3000;
      shape.spec.tied = true;
      ExpectPredicted(shape, kTolerance);
      shape = {.absent = absent,  // weights outweigh activations
               .seq_len = 16,
               .samples = 2,
               .micro_batch = micro_batch,
               .masking = Masking::kBackward};
      ExpectPredicted(shape, kTolerance);
    }
  }
}

TEST(MemoryPredictionTest, Training_WeightsOutweighActivations) {
  Shape shape;
  shape.seq_len = 16;
  shape.samples = 1;
  ExpectPredicted(shape, kTolerance);
  shape.spec.vocab = 5000;
  ExpectPredicted(shape, kTolerance);
  shape.spec.tied = true;
  ExpectPredicted(shape, kTolerance);
}

// A worker of heads and neurons that has the given parts of each layer, of 4 heads and 8 groups.
Shape Parts(const std::vector<int>& heads, const std::vector<int>& groups) {
  Shape shape;
  shape.groups = 8;
  for (int64_t layer = 0; layer < shape.spec.layers; ++layer) {
    for (int i = 0; i < 4; ++i) {
      if (!absl::c_linear_search(heads, i))
        shape.absent.push_back(absl::StrCat("layers.", layer, ".attention.", i));
    }
    for (int i = 0; i < 8; ++i) {
      if (!absl::c_linear_search(groups, i))
        shape.absent.push_back(absl::StrCat("layers.", layer, ".mlp.", i));
    }
  }
  return shape;
}

TEST(MemoryPredictionTest, Training_Neurons) {
  for (Shape shape : {Parts({0, 1, 2, 3}, {0, 1, 2, 3, 4, 5, 6, 7}), Parts({0, 2}, {1, 2, 4, 7}),
                      Parts({3}, {0, 5}), Parts({1}, {}), Parts({}, {2, 3, 4})}) {
    for (const int64_t micro_batch : {0, 2}) {
      shape.micro_batch = micro_batch;
      ExpectPredicted(shape, kTolerance);
    }
  }
}

TEST(MemoryPredictionTest, Training_Neurons_WeightsOutweighActivations) {
  for (Shape shape : {Parts({0, 1, 2, 3}, {0, 1, 2, 3, 4, 5, 6, 7}), Parts({0, 2}, {1, 2, 4, 7})}) {
    shape.seq_len = 16;
    shape.samples = 1;
    ExpectPredicted(shape, kTolerance);
    shape.spec.vocab = 5000;
    ExpectPredicted(shape, kTolerance);
  }
}

// Stages keep their input alone, and for a moment in the backward pass the rest.
TEST(MemoryPredictionTest, Training_Recomputed) {
  for (const std::vector<std::string>& absent : {{}, Half(), ThreeQuarters()}) {
    for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
      for (const int64_t micro_batch : {0, 3}) {
        for (const bool tied : {false, true}) {
          Shape shape{
              .absent = absent, .micro_batch = micro_batch, .masking = masking, .recompute = true};
          shape.spec.tied = tied;
          ExpectPredicted(shape, kTolerance);
        }
      }
    }
  }
  Shape parts = Parts({0, 2}, {1, 2, 4, 7});
  parts.recompute = true;
  ExpectPredicted(parts, kTolerance);
}

constexpr int64_t kLength = 128;

// `chunk` samples walk together, two at a time; then the next chunk.
void ExpectEvaluationPredicted(const LlamaSpec& spec, const Catalog& units, int64_t chunk) {
  CountTensors();
  const int64_t room = 2 * chunk * kLength * spec.dim * 4;
  const LlamaCase c(spec, units, kLength, Layout::kMaxFragment, {1, room});
  EvaluateTask task;
  task.units = c.Held();
  task.samples = 2 * chunk;
  task.micro_batch = 2;
  EarlyExchange exchange(c);
  const int64_t before = Allocated().now;
  RestartAllocatedPeak();
  const absl::StatusOr<LossSum> result = c.model->Evaluate(task, exchange);
  ASSERT_TRUE(result.ok()) << result.status();
  const auto measured = static_cast<double>(Allocated().peak - before);
  MemoryModel model = ModelOf(c, 2);
  model.evaluation = EvaluationSizesFor(c.catalog, c.seq_len, 2, room, 4);
  EXPECT_EQ(model.evaluation.chunk, chunk);
  const MemoryPeak predicted = EvaluationMemory(c.catalog, model);
  if (std::getenv("SDP_TEST_PRINT") != nullptr)
    std::cout << measured / static_cast<double>(predicted.bytes) << " " << predicted.when << "\n";
  EXPECT_NEAR(measured / static_cast<double>(predicted.bytes), 1, kTolerance) << predicted.when;
}

TEST(MemoryPredictionTest, Evaluation) {
  for (const int64_t chunk : {2, 6}) {
    for (const int64_t vocab : {256, 6000}) {
      for (const bool tied : {false, true}) {
        LlamaSpec spec = Small();
        spec.vocab = vocab;
        spec.tied = tied;
        for (const TransformerUnit unit : {TransformerUnit::kSublayer, TransformerUnit::kLayer})
          ExpectEvaluationPredicted(spec, LlamaCatalog(spec, unit, kLength), chunk);
        ExpectEvaluationPredicted(spec, LlamaNeuronCatalog(spec, {.groups = 8}, kLength), chunk);
      }
    }
  }
}

// ---- Images ----

MemoryModel ImageModel(const ImageCase& c, int64_t micro_batch) {
  const ModelMemory memory = MemoryOf(c.spec, 0, ElementSizes(), Computer());
  MemoryModel model;
  model.stages = memory.stages;
  model.input_bytes = memory.input_bytes;
  model.target_bytes = memory.target_bytes;
  model.micro_batch = micro_batch;
  return model;
}

// Channels in whole vectors, and activations that outweigh what convolutions take beside them.
ResnetSpec Wide(ResnetSpec spec, int64_t width = 16) {
  spec.widths = {width, 2 * width};
  spec.image_size = spec.stem == ResnetSpec::Stem::kCifar ? 16 : 32;
  spec.norm_groups = std::min<int64_t>(spec.norm_groups, 8);
  return spec;
}

struct ImageShape {
  ModelSpec spec;
  Masking masking = Masking::kForward;
  bool recompute = false;
  int64_t groups = 0;  // > 0: neuron granularity
};

// So wide that activations outweigh statistics of norms.
SwinSpec Wide(SwinSpec spec) {
  spec.dim *= 4;
  return spec;
}

ModelSpec Larger(const ModelSpec& spec, int64_t width = 16) {
  if (const auto* const resnet = std::get_if<ResnetSpec>(&spec)) return Wide(*resnet, width);
  if (const auto* const swin = std::get_if<SwinSpec>(&spec)) return Wide(*swin);
  return spec;
}

// Of scratch that convolutions ask for by the CPU's instructions, statistics of norms, and a
// stage's gradients in another order.
constexpr double kImageTolerance = 0.03;

void ExpectImagesPredicted(const ImageShape& shape) {
  CountTensors();
  CatalogOptions options = ImageCase::OptionsOf(shape.groups);
  options.recompute = shape.recompute;
  const ImageCase c(shape.spec, Layout::kMaxFragment, {1, 0}, options);
  const std::vector<std::string> all = c.Masked();
  std::vector<std::pair<std::vector<std::string>, int64_t>> cases = {
      {{}, 0}, {{all[1]}, 0}, {{all[0], all[2]}, 6}};
  if (shape.groups > 0) {  // without the second branch; without any
    const auto second = all.begin() + static_cast<std::ptrdiff_t>(shape.groups);
    cases.push_back({{second, second + static_cast<std::ptrdiff_t>(shape.groups)}, 0});
    cases.push_back({all, 0});
  }
  for (const auto& [absent, micro_batch] : cases) {
    SCOPED_TRACE(absl::StrCat(shape.masking == Masking::kForward ? "" : "backward ",
                              shape.recompute ? "recomputed " : "", "without ", absent.size(),
                              " by ", micro_batch));
    const TrainTask task = TaskOf(c, absent, shape.masking, 12, micro_batch);
    MemoryModel model = ImageModel(c, micro_batch);
    model.masking = shape.masking;
    ExpectNear(MeasuredPeak(c, task), TrainingMemory(c.catalog, Ids(task.units), model, 12),
               kImageTolerance);
  }
}

TEST(MemoryPredictionTest, Training_Images) {
  for (const ImageCase::Named& named : ImageCase::All()) {
    SCOPED_TRACE(named.name);
    const ModelSpec spec = Larger(named.spec);
    for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
      for (const bool recompute : {false, true}) {
        ExpectImagesPredicted({.spec = spec, .masking = masking, .recompute = recompute});
      }
    }
  }
}

// More scores than exist at once.
TEST(MemoryPredictionTest, Training_SwinOfLargeWindows) {
  SwinSpec spec = ImageCase::Swin();
  spec.dim = 32;
  spec.depths = {2};
  spec.heads = {8};
  spec.window = 8;
  spec.image_size = 32;
  for (const int64_t groups : {0, 2}) {
    for (const bool recompute : {false, true})
      ExpectImagesPredicted({.spec = spec, .recompute = recompute, .groups = groups});
  }
}

TEST(MemoryPredictionTest, Training_ImagesByNeurons) {
  for (const ImageCase::Named& named : ImageCase::All()) {
    SCOPED_TRACE(named.name);
    const ModelSpec spec = Larger(named.spec, 32);
    for (const bool recompute : {false, true})
      ExpectImagesPredicted({.spec = spec, .recompute = recompute, .groups = 2});
  }
}

TEST(MemoryPredictionTest, Evaluation_Images) {
  for (const ImageCase::Named& named : ImageCase::All()) {
    SCOPED_TRACE(named.name);
    const ImageCase c(Larger(named.spec));
    EvaluateTask task;
    task.units = c.Held();
    task.samples = 16;
    task.micro_batch = 8;
    EarlyExchange exchange(c);
    const int64_t before = Allocated().now;
    RestartAllocatedPeak();
    const absl::StatusOr<LossSum> result = c.model->Evaluate(task, exchange);
    ASSERT_TRUE(result.ok()) << result.status();
    const int64_t measured = Allocated().peak - before;
    MemoryModel model = ImageModel(c, 8);
    model.evaluation = EvaluationSizesFor(c.catalog, 1, 8, 0, 4);
    ExpectNear(measured, EvaluationMemory(c.catalog, model), kImageTolerance);
  }
}

TEST(MemoryPredictionTest, Training_OneSampleOfManyTokens) {
  Shape shape;
  shape.seq_len = 1024;
  shape.samples = 1;
  ExpectPredicted(shape, kTolerance);
}

}  // namespace
}  // namespace sdp
