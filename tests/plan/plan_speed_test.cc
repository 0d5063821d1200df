#include <gtest/gtest.h>

#include <algorithm>
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

enum class Costs { kEqual, kUnequal };  // of the units of a kind

struct Case {
  int workers;
  double coverage;
  Assignment assignment;
  Costs costs = Costs::kEqual;
};

class PlanSpeedTest : public ::testing::TestWithParam<Case> {};

TEST_P(PlanSpeedTest, LargestSize) {
  const Case& c = GetParam();
  Catalog catalog = FakeModel({{"a", 5000, 5}, {"b", 5000, 3}});
  PlanInput input = FakeInput(catalog, c.workers, c.coverage, c.assignment);
  if (c.costs == Costs::kUnequal) {
    // Costs differ within a kind, coverage falls with depth: neither designs nor equal counts
    // level.
    for (size_t j = 1; j + 1 < catalog.units.size(); ++j) {
      const size_t depth = catalog.units.size() - j;
      catalog.units[j].macs += static_cast<int64_t>(j % 13);
      input.coverage[j] *= static_cast<double>(depth) / static_cast<double>(catalog.units.size());
      input.coverage[j] = std::max(input.coverage[j], 1.0 / c.workers);
    }
  }
  const auto start = std::clock();
  const absl::StatusOr<Plan> plan = MakePlan(input);
  const double assignment = Seconds(start);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto middle = std::clock();
  const double gap = SpectralGap(catalog, *plan, UnitWeight::kEqual, SharedUnits::kIgnored);
  const double eigenvalues = Seconds(middle);
  std::printf("assignment %.2f s, gap %.2f s: %.4f\n", assignment, eigenvalues, gap);
  EXPECT_GT(gap, 0);
  EXPECT_LT(assignment, 1 * kSlack);
  EXPECT_LT(eigenvalues, 5 * kSlack);
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, PlanSpeedTest,
    ::testing::Values(Case{1000, 0.5, Assignment::kResolvable},
                      Case{1000, 0.5, Assignment::kRandom}, Case{1000, 0.5, Assignment::kCyclic},
                      Case{1000, 0.002, Assignment::kResolvable},
                      Case{1000, 0.7137, Assignment::kResolvable},
                      Case{1000, 0.9, Assignment::kResolvable, Costs::kUnequal},
                      Case{60, 0.9, Assignment::kResolvable, Costs::kUnequal},
                      Case{60, 0.37, Assignment::kResolvable},
                      Case{1024, 0.5, Assignment::kResolvable}));

}  // namespace
}  // namespace sdp
