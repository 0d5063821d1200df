#include "common/plan/memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/model/llama.h"
#include "common/model/llama_memory.h"

// The walk's arithmetic on stages whose figures are known by heart. Whether the figures of LLaMA
// are those of its code: tests/worker_model/memory_prediction_test.cc.
namespace sdp {
namespace {

// A first stage, two residual ones and a loss; letters stand for distinct decimal digits, so that a
// sum shows what is in it.
class MemoryWalkTest : public ::testing::Test {
 protected:
  MemoryWalkTest() {
    const std::vector<std::string> names = {"first", "a", "b", "loss"};
    for (size_t i = 0; i < names.size(); ++i) {
      UnitSpec unit;
      unit.name = names[i];
      unit.shared = i == 0 || i == 3;
      unit.params = 1000;
      unit.slices = {{static_cast<int>(i)}};
      catalog_.tensors.push_back({names[i], {1000}, {}});
      catalog_.units.push_back(unit);
      catalog_.stages.push_back({names[i], {UnitId(static_cast<int32_t>(i))}, 100});
    }
    StageMemory first{.parameters = 1000, .spent_forward = 1000};
    first.output = first.forward = first.evaluate = 100;
    first.backward = 4000;
    StageMemory branch{.parameters = 1000, .spent_backward = 1000};
    branch.output = 100;
    branch.stored = 20000;
    branch.forward = 30000;
    branch.evaluate = 30000;
    StageMemory loss{.parameters = 1000, .spent_forward = 1000};
    loss.stores_input = false;
    loss.early_gradients = 4000;
    loss.stored = 4100;
    loss.forward = 7000;
    loss.evaluate = 3000;
    model_.stages = [=](int64_t samples, const HeldTensors& held) {
      std::vector<StageMemory> all = {first, branch, branch, loss};
      for (size_t i = 0; i < all.size(); ++i) {
        StageMemory& stage = all[i];
        stage.trained = held.trained[i];
        if (i == 1 || i == 2) stage.backward = stage.trained > 0 ? 50000 : 40000;
        stage.output *= samples;
        stage.stored = (stage.stored - stage.early_gradients) * samples + stage.early_gradients;
      }
      return all;
    };
    model_.input_bytes = model_.target_bytes = 8;
    model_.evaluation = {1, 3};
  }

  MemoryPeak Training(std::vector<UnitId> units, int64_t samples) const {
    return TrainingMemory(catalog_, units, model_, samples);
  }

  Catalog catalog_;
  MemoryModel model_;
};

TEST_F(MemoryWalkTest, FullModel_PeaksInTheFirstBackwardStage) {
  const MemoryPeak peak = Training({UnitId(0), UnitId(1), UnitId(2), UnitId(3)}, 1);
  EXPECT_EQ(peak.when, "backward of b");
  // The batch's input; weights without the first stage's, which are spent, and with the loss's
  // gradients in their weights' place; what both branches stored and their inputs; the gradient
  // that comes in.
  EXPECT_EQ(peak.bytes, 8 + 3 * 4000 + 2 * 20100 + 100 + 50000);
}

// Both branches keep their inputs alone; the last one's rest and output are made again.
TEST_F(MemoryWalkTest, Recomputed_OneStagesRestAtATime) {
  catalog_.stages[1].recomputed = catalog_.stages[2].recomputed = true;
  const MemoryPeak peak = Training({UnitId(0), UnitId(1), UnitId(2), UnitId(3)}, 1);
  EXPECT_EQ(peak.when, "backward of b");
  EXPECT_EQ(peak.bytes, 8 + 3 * 4000 + 2 * 100 + 100 + 20000 + 100 + 50000);
}

TEST_F(MemoryWalkTest, AbsentBranch_TakesNothing) {
  const MemoryPeak peak = Training({UnitId(0), UnitId(2), UnitId(3)}, 1);
  EXPECT_EQ(peak.when, "backward of b");
  EXPECT_EQ(peak.bytes, 8 + 2 * 4000 + 20100 + 100 + 50000);
}

// A shared unit of a stage, as the norm of one that is cut into parts, does not make it present:
// its values, and later its gradient of 0, lie beside the rest.
TEST_F(MemoryWalkTest, SharedUnitOfAnAbsentBranch_TakesItselfAlone) {
  UnitSpec norm;
  norm.name = "norm of a";
  norm.shared = true;
  norm.params = 7;
  catalog_.units.push_back(norm);
  catalog_.stages[1].units.push_back(UnitId(4));
  const MemoryPeak absent = Training({UnitId(0), UnitId(2), UnitId(3), UnitId(4)}, 1);
  EXPECT_EQ(absent.when, "backward of b");
  EXPECT_EQ(absent.bytes, 8 + 7 * 4 + 2 * 4000 + 20100 + 100 + 50000);
  const MemoryPeak present = Training({UnitId(0), UnitId(1), UnitId(2), UnitId(3), UnitId(4)}, 1);
  EXPECT_EQ(present.bytes, 8 + 3 * 4000 + 2 * 20100 + 100 + 50000);
}

// What is read only has its weights and stores as much; its gradient is neither made nor kept.
TEST_F(MemoryWalkTest, BackwardMasking_AllWeights_HeldGradients) {
  model_.masking = Masking::kBackward;
  const MemoryPeak b_held = Training({UnitId(0), UnitId(2), UnitId(3)}, 1);
  EXPECT_EQ(b_held.when, "backward of b");
  EXPECT_EQ(b_held.bytes, 8 + 3 * 4000 + 2 * 20100 + 100 + 50000);
  const MemoryPeak a_held = Training({UnitId(0), UnitId(1), UnitId(3)}, 1);
  EXPECT_EQ(a_held.when, "backward of b");
  EXPECT_EQ(a_held.bytes, 8 + 3 * 4000 + 2 * 20100 + 100 + 40000);
  // Several micro-batches: gradients of what is held wait, in both beside the weights.
  model_.micro_batch = 1;
  EXPECT_EQ(Training({UnitId(0), UnitId(1), UnitId(3)}, 3).bytes,
            8 + 4 * 4000 + 3 * 4000 + 2 * 20100 + 100 + 40000);
  model_.masking = Masking::kForward;
  EXPECT_EQ(Training({UnitId(0), UnitId(1), UnitId(3)}, 3).bytes,
            8 + 3 * 4000 + 3 * 4000 + 20100 + 100 + 50000);
}

TEST_F(MemoryWalkTest, MicroBatches_HoldAllGradients) {
  model_.micro_batch = 1;
  const std::vector<UnitId> all = {UnitId(0), UnitId(1), UnitId(2), UnitId(3)};
  const MemoryPeak two = Training(all, 2);
  // Weights without the first stage's and the loss's; gradients of all; the loss's are on their way
  // as fragments.
  EXPECT_EQ(two.bytes, 8 + 2 * 4000 + 3 * 4000 + 4000 + 2 * 20100 + 100 + 50000);
  // With three the second is not the last: nothing is spent, nothing on its way.
  EXPECT_EQ(Training(all, 3).bytes, 8 + 4 * 4000 + 4 * 4000 + 2 * 20100 + 100 + 50000);
  EXPECT_EQ(Training(all, 9).bytes, Training(all, 3).bytes);
  EXPECT_LT(Training(all, 1).bytes, two.bytes);
}

TEST_F(MemoryWalkTest, NoSamples_Nothing) { EXPECT_EQ(Training({UnitId(0)}, 0).bytes, 0); }

TEST_F(MemoryWalkTest, Evaluation_HoldsAChunksBoundariesAndTwoStages) {
  const MemoryPeak peak = EvaluationMemory(catalog_, model_);
  EXPECT_EQ(peak.when, "evaluation of a");
  EXPECT_EQ(peak.bytes, 3 * 8 + 3 * 100 + 2 * 4000 + 30000);
}

// Fragments are in a GPU's memory while they come and go: those of a stage's weights as these are
// unpacked, and of gradients the last few.
TEST_F(MemoryWalkTest, OnAGpu_FragmentsPass) {
  model_.worker_place = MemoryPlace::kGpu;
  const std::vector<UnitId> all = {UnitId(0), UnitId(1), UnitId(2), UnitId(3)};
  const MemoryPeak small = Training(all, 1);
  EXPECT_EQ(small.when, "backward of b");
  EXPECT_EQ(small.bytes, 8 + 2 * 4000 + /*the loss's gradients*/ 4000 + 2 * 20100 + 100 + 50000);
  EXPECT_EQ(EvaluationMemory(catalog_, model_).bytes, 3 * 8 + 3 * 100 + 4000 + 30000);

  constexpr int64_t kMany = 10 << 20;
  for (UnitSpec& unit : catalog_.units) unit.params = kMany;
  model_.stages = [stages = model_.stages](int64_t samples, const HeldTensors& held) {
    std::vector<StageMemory> large = stages(samples, held);
    for (StageMemory& stage : large) {
      for (int64_t* const elements :
           {&stage.parameters, &stage.trained, &stage.spent_forward, &stage.spent_backward}) {
        if (*elements > 0) *elements = kMany;
      }
    }
    return large;
  };
  const MemoryPeak coming = Training(all, 1);
  EXPECT_EQ(coming.when, "weights of loss");
  EXPECT_EQ(coming.bytes, 2 * 8 + 4 * (3 * kMany + kMany) + 2 * 20100 + 100);
}

TEST_F(MemoryWalkTest, Worker_NeedsTheLargerOfBoth) {
  const std::vector<UnitId> all = {UnitId(0), UnitId(1), UnitId(2), UnitId(3)};
  model_.global_batch = 3;
  // Ranks 0 and 1 of 2: portions of 2 and 1 samples.
  EXPECT_EQ(WorkerMemory(catalog_, all, model_, 0, 2).bytes, Training(all, 2).bytes);
  EXPECT_EQ(WorkerMemory(catalog_, all, model_, 1, 2).bytes, Training(all, 1).bytes);
  model_.evaluates = true;
  model_.evaluation = {1, 100000};
  EXPECT_EQ(WorkerMemory(catalog_, all, model_, 0, 2).bytes,
            EvaluationMemory(catalog_, model_).bytes);
}

TEST(EvaluationSizesTest, FollowMicroBatchAndMemory) {
  Catalog catalog;
  catalog.stages.push_back({"a", {}, 1000});
  catalog.stages.push_back({"loss", {}, 0});
  const auto sizes = [&](int64_t terms, int64_t micro_batch, int64_t memory) {
    const EvaluationSizes made = EvaluationSizesFor(catalog, terms, micro_batch, memory, 4);
    return std::vector<int64_t>{made.micro, made.chunk};
  };
  EXPECT_EQ(sizes(256, 0, 0), (std::vector<int64_t>{8, 64}));
  EXPECT_EQ(sizes(100000, 0, 0), (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(sizes(256, 3, 0), (std::vector<int64_t>{3, 3}));
  EXPECT_EQ(sizes(256, 3, 80000), (std::vector<int64_t>{3, 9}));  // 10 samples, in threes
  EXPECT_EQ(sizes(256, 3, 100), (std::vector<int64_t>{3, 3}));
  // Images: one term each, so their activations decide.
  catalog.stages[0].boundary_elements = 64 * 32 * 32;
  EXPECT_EQ(sizes(1, 0, 0), (std::vector<int64_t>{16, 128}));
  catalog.stages[0].boundary_elements = 16;
  EXPECT_EQ(sizes(1, 0, 0), (std::vector<int64_t>{256, 2048}));
}

TEST(ShardMemoryTest, OneMoreVectorThanTheOptimizerKeeps) {
  LlamaSpec spec;
  spec.dim = 16;
  spec.layers = 2;
  spec.heads = spec.kv_heads = 2;
  spec.ffn_dim = 20;
  spec.vocab = 32;
  const Catalog catalog = LlamaCatalog(spec, TransformerUnit::kSublayer, 8);
  const Layout layout(catalog, 64);
  MemoryModel model;
  model.layout = &layout;
  model.shards = 3;
  int64_t params = 0;
  for (const ShardLoad& load : ShardMemory(model)) {
    params += load.params;
    EXPECT_EQ(load.memory_bytes, 16 * load.params);
  }
  EXPECT_EQ(params, catalog.params());
  model.diagnoses = true;
  for (const ShardLoad& load : ShardMemory(model)) EXPECT_EQ(load.memory_bytes, 20 * load.params);
}

}  // namespace
}  // namespace sdp
