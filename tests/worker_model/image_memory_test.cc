#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/allocated.h"
#include "common/plan/memory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/image_case.h"
#include "tests/worker_model/memory_case.h"
#include "worker/model/counting_allocator.h"

// What the plan predicts of the memory of image models, and what the allocator counts.
namespace sdp {
namespace {

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
  TransformerUnit unit = TransformerUnit::kSublayer;
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
  options.unit = shape.unit;
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

TEST(ImageMemoryTest, Training) {
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

TEST(ImageMemoryTest, Training_WholeBlocksOfSwin) {
  const ModelSpec spec = Larger(ImageCase::Swin());
  for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
    for (const bool recompute : {false, true}) {
      ExpectImagesPredicted({.spec = spec,
                             .masking = masking,
                             .recompute = recompute,
                             .unit = TransformerUnit::kLayer});
    }
  }
}

// More scores than exist at once.
TEST(ImageMemoryTest, Training_SwinOfLargeWindows) {
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

TEST(ImageMemoryTest, Training_Neurons) {
  for (const ImageCase::Named& named : ImageCase::All()) {
    SCOPED_TRACE(named.name);
    const ModelSpec spec = Larger(named.spec, 32);
    for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
      for (const bool recompute : {false, true}) {
        ExpectImagesPredicted(
            {.spec = spec, .masking = masking, .recompute = recompute, .groups = 2});
      }
    }
  }
}

TEST(ImageMemoryTest, Evaluation) {
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

}  // namespace
}  // namespace sdp
