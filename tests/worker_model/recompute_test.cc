#include "worker/model/recompute.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "common/model/masking.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/image_case.h"
#include "tests/worker_model/llama_case.h"

// A step with recomputed stages against the same step without: loss, gradients and the order in
// which they are handed out are the same, bit by bit.
namespace sdp {
namespace {

using Kind = FakeExchange::Kind;

struct Case {
  std::vector<std::string> absent;
  Masking masking = Masking::kForward;  // kBackward: what is absent is read
  int64_t micro_batch = 0;
};

TrainTask TaskOf(const ModelCase& c, const Case& step) {
  TrainTask task;
  task.units = c.Held(step.absent, 0.7);
  for (const HeldUnit& unit : c.Held()) {
    if (step.masking == Masking::kBackward &&
        absl::c_linear_search(step.absent, c.catalog.unit(unit.unit).name))
      task.read_only.push_back(unit.unit);
  }
  task.micro_batch = step.micro_batch;
  task.samples = {3, 0, 7, 12, 5, 9};
  return task;
}

// All but when units without gradients are let go of, which may be later.
std::vector<FakeExchange::Event> Events(const FakeExchange& exchange) {
  std::vector<FakeExchange::Event> events;
  for (const FakeExchange::Event& event : exchange.events()) {
    if (event.kind != Kind::kReleased) events.push_back(event);
  }
  return events;
}

// Of gradients that are there at the same time, as a stage's are.
enum class Order { kSame, kAny };

void ExpectSame(const ModelCase& stored, const ModelCase& recomputed, const Case& step,
                WireType type = WireType::kF32, Order order = Order::kSame) {
  int stages = 0;
  for (const StageSpec& stage : recomputed.catalog.stages) stages += stage.recomputed;
  ASSERT_GT(stages, 1);
  FakeExchange a(stored.layout, stored.Fragments(stored.weights), type);
  FakeExchange b(recomputed.layout, recomputed.Fragments(recomputed.weights), type);
  const absl::StatusOr<TrainResult> want = stored.model->Train(TaskOf(stored, step), a);
  const absl::StatusOr<TrainResult> got = recomputed.model->Train(TaskOf(recomputed, step), b);
  ASSERT_TRUE(want.ok()) << want.status();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->loss.loss_sum, want->loss.loss_sum);
  if (order == Order::kSame) {
    EXPECT_TRUE(Events(a) == Events(b));
  }
  for (int id = 0; id < stored.layout.fragments(); ++id) {
    const auto &x = a.gradient(FragmentId(id)), &y = b.gradient(FragmentId(id));
    ASSERT_EQ(x.has_value(), y.has_value()) << id;
    if (x.has_value()) {
      EXPECT_TRUE(x->span() == y->span()) << "fragment " << id;
    }
  }
}

Catalog LlamaUnits(const LlamaSpec& spec, bool recompute, bool neurons) {
  CatalogOptions options = {.seq_len = 11, .recompute = recompute};
  if (neurons) options.neurons = {.groups = 5};
  return MakeCatalog(spec, options);
}

TEST(RecomputeTest, Llama_SameBits) {
  for (const bool tied : {false, true}) {
    LlamaSpec spec = LlamaCase::Spec();
    spec.tied = tied;
    const LlamaCase stored(spec, LlamaUnits(spec, false, false), 11);
    const LlamaCase recomputed(spec, LlamaUnits(spec, true, false), 11);
    for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
      for (const int64_t micro_batch : {0, 2}) {
        for (const std::vector<std::string>& absent :
             {std::vector<std::string>{}, {"layers.0.mlp", "layers.1.attention"}}) {
          SCOPED_TRACE(absl::StrCat("tied ", tied, " backward ", masking == Masking::kBackward,
                                    " by ", micro_batch, " without ", absent.size()));
          ExpectSame(stored, recomputed, {absent, masking, micro_batch});
        }
      }
    }
  }
}

TEST(RecomputeTest, LlamaByNeurons_SameBits) {
  const LlamaSpec spec = LlamaCase::Spec();
  const LlamaCase stored(spec, LlamaUnits(spec, false, true), 11);
  const LlamaCase recomputed(spec, LlamaUnits(spec, true, true), 11);
  for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
    for (const int64_t micro_batch : {0, 2}) {
      ExpectSame(stored, recomputed,
                 {.absent = {"layers.0.attention.1", "layers.0.mlp.0", "layers.1.mlp.3"},
                  .masking = masking,
                  .micro_batch = micro_batch});
    }
  }
}

TEST(RecomputeTest, LlamaInBf16_SameBits) {
  const LlamaSpec spec = LlamaCase::Spec();
  const ModelOptions options = {.threads = 1, .precision = WireType::kBf16};
  const LlamaCase stored(spec, LlamaUnits(spec, false, false), 11, Layout::kMaxFragment, options);
  const LlamaCase recomputed(spec, LlamaUnits(spec, true, false), 11, Layout::kMaxFragment,
                             options);
  for (const int64_t micro_batch : {0, 2}) {
    ExpectSame(stored, recomputed, {.absent = {"layers.1.mlp"}, .micro_batch = micro_batch},
               WireType::kBf16);
  }
}

ImageCase Images(const ModelSpec& spec, bool recompute, int64_t groups) {
  CatalogOptions options = ImageCase::OptionsOf(groups);
  options.recompute = recompute;
  return ImageCase(spec, Layout::kMaxFragment, {1, 0}, options);
}

TEST(RecomputeTest, Images_SameBits) {
  for (const ImageCase::Named& named : ImageCase::All()) {
    const ImageCase stored = Images(named.spec, false, 0);
    const ImageCase recomputed = Images(named.spec, true, 0);
    const std::vector<std::string> all = stored.Masked();
    for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
      SCOPED_TRACE(absl::StrCat(named.name, " backward ", masking == Masking::kBackward));
      ExpectSame(stored, recomputed, {{}, masking, 0});
      ExpectSame(stored, recomputed, {{all[0], all[2]}, masking, 3});
    }
  }
}

// Among the gradients of a stage that is cut into parts the order is autograd's, which sees one
// function where the stage is recomputed.
TEST(RecomputeTest, ImagesByNeurons_SameBits) {
  for (const ImageCase::Named& named : ImageCase::All()) {
    const ImageCase stored = Images(named.spec, false, 3), recomputed = Images(named.spec, true, 3);
    const std::vector<std::string> all = stored.Masked();
    for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
      SCOPED_TRACE(absl::StrCat(named.name, " backward ", masking == Masking::kBackward));
      ExpectSame(stored, recomputed, {{all[0], all[5]}, masking, 0}, WireType::kF32, Order::kAny);
      ExpectSame(stored, recomputed, {{all[3], all[4], all[5], all[7]}, masking, 3}, WireType::kF32,
                 Order::kAny);
    }
  }
}

}  // namespace
}  // namespace sdp
