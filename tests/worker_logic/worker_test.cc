#include "worker/logic/worker.h"

#include <gtest/gtest.h>

#include <cmath>

#include "absl/status/status.h"
#include "common/model/llama.h"

namespace sdp {
namespace {

class WorkerTest : public testing::Test {
 protected:
  WorkerTest()
      : catalog_(LlamaCatalog(
            {.dim = 4, .layers = 1, .heads = 2, .kv_heads = 1, .ffn_dim = 6, .vocab = 8},
            TransformerUnit::kSublayer, 4)),
        layout_(catalog_) {
    options_.name = "worker-0";
    options_.catalog = &catalog_;
    options_.layout = &layout_;
    admission_.incarnation = Incarnation(7);
    admission_.generation = Generation(2);
    admission_.shards = {"here:1"};
    admission_.coverage.assign(catalog_.units.size(), 1.0);
    admission_.first_step = 12;
  }

  const Catalog catalog_;
  const Layout layout_;
  Worker::Options options_;
  WorkerAdmission admission_;
};

TEST_F(WorkerTest, Start_AsksForTheGenerationsFirstStep) {
  Worker worker(options_, admission_, {10, 1, 2, 1});
  const WorkerActions actions = worker.Start();
  ASSERT_EQ(actions.ask.size(), 1u);
  EXPECT_EQ(actions.ask[0].step, 12);
}

// The full model's factors follow from the run's coverage, whatever this worker holds.
TEST_F(WorkerTest, Evaluation_HasTheFactorsOfTheRescaling) {
  admission_.coverage[1] = 0.25;
  for (const auto& [rescale, factor] :
       {std::pair{Rescale::kEval, 0.25}, {Rescale::kSqrt, 0.5}, {Rescale::kInverted, 1.0}}) {
    options_.rescale = rescale;
    Worker worker(options_, admission_, {10, 1, 2, 1});
    worker.Start();
    WorkerBinding binding;
    binding.generation = Generation(2);
    binding.step = 12;
    binding.units = std::make_shared<std::vector<UnitFactor>>();
    binding.evaluate = true;
    binding.validation_samples = 2;
    const WorkerActions actions = worker.OnBinding(binding, absl::UnixEpoch());
    ASSERT_EQ(actions.evaluate.size(), 1u);
    ASSERT_EQ(actions.evaluate[0].units.size(), catalog_.units.size());
    EXPECT_EQ(actions.evaluate[0].units[0].factor, 1);
    EXPECT_EQ(actions.evaluate[0].units[1].factor, factor);
  }
}

// protocol.md 2.9: a loss that is not finite is reported, and the coordinator ends the run with the
// step and the worker named; a worker that just left would look lost.
TEST_F(WorkerTest, ValidationLossNotFinite_IsReported) {
  Worker worker(options_, admission_, {10, 1, 2, 1});
  worker.Start();
  WorkerBinding binding;
  binding.generation = Generation(2);
  binding.step = 12;
  binding.units = std::make_shared<std::vector<UnitFactor>>();
  binding.evaluate = true;
  binding.validation_samples = 2;
  EXPECT_EQ(worker.OnBinding(binding, absl::UnixEpoch()).evaluate.size(), 1u);
  const WorkerActions actions =
      worker.OnEvaluated(12, absl::OutOfRangeError("evaluation of version 12: the loss is nan"));
  EXPECT_FALSE(actions.exit.has_value());
  ASSERT_EQ(actions.not_finite.size(), 1u);
  EXPECT_EQ(actions.not_finite[0].member, "worker-0");
  EXPECT_EQ(actions.not_finite[0].step, 12);
  EXPECT_EQ(actions.not_finite[0].worker, Incarnation(7));
}

}  // namespace
}  // namespace sdp
