#pragma once

#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/worker_model/image_case.h"
#include "tests/worker_model/parts.h"

// Subnetworks of image models against the naive full model in f64 in which what is absent is zero
// and what is held is scaled.
namespace sdp {

// Of the largest element. image_model_test.cc has 2e-5; the narrow layers here have few numbers to
// a norm, whose f32 sums channels last (the variance as a mean of squares less the square of a
// mean) round more coarsely. A wrong term or factor shows at 1e-2 and more.
inline constexpr double kPartsTolerance = 1e-4;

inline TrainTask TaskOf(std::vector<HeldUnit> units, std::vector<int64_t> samples,
                        int64_t micro_batch) {
  TrainTask task;
  task.units = std::move(units);
  task.samples = std::move(samples);
  task.micro_batch = micro_batch;
  return task;
}

// Loss, all gradients, and what is exchanged.
inline void ExpectMatches(const ImageCase& c, const TrainTask& task) {
  const naive::Weights leaves = c.ReferenceWeights();
  const at::Tensor loss = c.ReferenceLoss(Masked(c, task.units, leaves), task.samples, {});
  loss.backward();
  const naive::Weights gradients = ModelCase::Gradients(leaves);
  FakeExchange exchange = c.MakeExchange();
  const absl::StatusOr<TrainResult> result = c.model->Train(task, exchange);
  ASSERT_TRUE(result.ok()) << result.status();
  const double mean = loss.item<double>();
  EXPECT_NEAR(result->loss.loss_sum / static_cast<double>(result->loss.terms), mean, 2e-6 * mean);
  for (const HeldUnit& unit : task.units) {
    EXPECT_LT(Difference(c.BlockGradient(exchange, unit.unit), c.Block(unit.unit, gradients)),
              kPartsTolerance)
        << c.catalog.unit(unit.unit).name;
  }
  ExpectExchanged(c, exchange, task.units);
}

}  // namespace sdp
