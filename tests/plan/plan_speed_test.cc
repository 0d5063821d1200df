#include <gtest/gtest.h>

#include <cstdio>
#include <ctime>

#include "common/plan/gap.h"
#include "common/plan/plan.h"
#include "tests/plan/fake_model.h"

// The planner's bar: 1,000 workers x 10,000 units in 1 s, the gap in 5 s, for optimized code.
// Measured in time on the processor, so a busy machine does not matter; slower builds are allowed
// five times that.
namespace sdp {
namespace {

using testing::FakeInput;
using testing::FakeModel;

constexpr double kSlack = 5;

double Seconds(std::clock_t start) {
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

struct Case {
  int workers;
  double coverage;
  Assignment assignment;
};

class PlanSpeedTest : public ::testing::TestWithParam<Case> {};

TEST_P(PlanSpeedTest, LargestSize) {
  const Case& c = GetParam();
  const Catalog catalog = FakeModel({{"a", 5000, 5}, {"b", 5000, 3}});
  const PlanInput input = FakeInput(catalog, c.workers, c.coverage, c.assignment);
  const auto start = std::clock();
  const absl::StatusOr<Plan> plan = MakePlan(input);
  const double assignment = Seconds(start);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto middle = std::clock();
  const double gap = SpectralGap(catalog, *plan, UnitWeight::kEqual);
  const double eigenvalues = Seconds(middle);
  std::printf("assignment %.2f s, gap %.2f s: %.4f\n", assignment, eigenvalues, gap);
  EXPECT_GT(gap, 0);
  EXPECT_LT(assignment, 1 * kSlack);
  EXPECT_LT(eigenvalues, 5 * kSlack);
}

INSTANTIATE_TEST_SUITE_P(Sizes, PlanSpeedTest,
                         ::testing::Values(Case{1000, 0.5, Assignment::kResolvable},
                                           Case{1000, 0.5, Assignment::kRandom},
                                           Case{1000, 0.5, Assignment::kCyclic},
                                           Case{1000, 0.002, Assignment::kResolvable},
                                           Case{1000, 0.7137, Assignment::kResolvable},
                                           Case{1024, 0.5, Assignment::kResolvable}));

}  // namespace
}  // namespace sdp
