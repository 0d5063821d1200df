#include "common/plan/gap.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "common/base/random.h"
#include "common/model/llama.h"
#include "tests/plan/fake_model.h"

// Spectral gaps against published numbers, closed formulas, and an eigenvalue method of its own.
namespace sdp {
namespace {

using testing::FakeInput;
using testing::FakeModel;
using testing::Fraction;
using testing::kAllAssignments;

// Published numbers have three digits.
constexpr double kThreeDigits = 0.0005 + 1e-9;

double Gap(int units, int workers, int holders, Assignment assignment, uint64_t seed = 0) {
  const Catalog catalog = FakeModel(units);
  PlanInput input = FakeInput(catalog, workers, Fraction(holders, workers), assignment);
  input.seed = seed;
  const absl::StatusOr<Plan> plan = MakePlan(input);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? SpectralGap(catalog, *plan, UnitWeight::kEqual, SharedUnits::kIgnored) : -1;
}

// 1 - second eigenvalue of W from the definition, all units in one loop, eigenvalues by Jacobi
// rotations.
double GapByDefinition(const Catalog& catalog, const Plan& plan, UnitWeight weight,
                       SharedUnits shared) {
  const size_t n = plan.units.size();
  std::vector<std::vector<double>> walk(n, std::vector<double>(n));
  std::vector<double> held(n);
  for (size_t j = 0; j < plan.holders.size(); ++j) {
    if (catalog.units[j].shared && shared == SharedUnits::kIgnored) continue;
    const double w =
        weight == UnitWeight::kEqual ? 1 : static_cast<double>(catalog.units[j].params);
    for (const int i : plan.holders[j]) {
      held[static_cast<size_t>(i)] += w;
      for (const int k : plan.holders[j]) {
        walk[static_cast<size_t>(i)][static_cast<size_t>(k)] +=
            w / static_cast<double>(plan.holders[j].size());
      }
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t k = 0; k < n; ++k) walk[i][k] /= std::sqrt(held[i] * held[k]);
  }
  double off_diagonal = 1;
  for (int sweep = 0; sweep < 30 && off_diagonal > 1e-26; ++sweep) {
    off_diagonal = 0;
    for (size_t p = 0; p < n; ++p) {
      for (size_t q = p + 1; q < n; ++q) {
        if (walk[p][q] == 0) continue;
        off_diagonal += walk[p][q] * walk[p][q];
        const double theta = 0.5 * std::atan2(2 * walk[p][q], walk[q][q] - walk[p][p]);
        const double c = std::cos(theta), s = std::sin(theta);
        for (size_t k = 0; k < n; ++k) {
          const double a = walk[p][k], b = walk[q][k];
          walk[p][k] = c * a - s * b;
          walk[q][k] = s * a + c * b;
        }
        for (size_t k = 0; k < n; ++k) {
          const double a = walk[k][p], b = walk[k][q];
          walk[k][p] = c * a - s * b;
          walk[k][q] = s * a + c * b;
        }
      }
    }
  }
  std::vector<double> eigenvalues;
  for (size_t i = 0; i < n; ++i) eigenvalues.push_back(walk[i][i]);
  std::sort(eigenvalues.rbegin(), eigenvalues.rend());
  EXPECT_NEAR(eigenvalues[0], 1, 1e-12);
  return 1 - eigenvalues[1];
}

TEST(GapTest, PublishedNumbers_EightWorkers) {
  EXPECT_NEAR(Gap(8, 8, 4, Assignment::kCyclic), .573, kThreeDigits);
  EXPECT_NEAR(Gap(8, 8, 4, Assignment::kResolvable), .750, kThreeDigits);
  // Published: .567, of runs that start at j mod N and leave counts that differ by four. Ours are
  // equal.
  EXPECT_NEAR(Gap(12, 8, 4, Assignment::kCyclic), .567, .005);
  EXPECT_NEAR(Gap(12, 8, 4, Assignment::kResolvable), .833, kThreeDigits);
  EXPECT_NEAR(Gap(24, 8, 4, Assignment::kCyclic), .573, kThreeDigits);
  EXPECT_NEAR(Gap(24, 8, 4, Assignment::kResolvable), .833, kThreeDigits);
  EXPECT_NEAR(Gap(24, 8, 6, Assignment::kCyclic), .905, kThreeDigits);
  EXPECT_NEAR(Gap(24, 8, 6, Assignment::kResolvable), .944, kThreeDigits);
  EXPECT_NEAR(Gap(24, 8, 2, Assignment::kCyclic), .146, kThreeDigits);
  // The planes of AG(3, 2) by the number of classes in use.
  EXPECT_NEAR(Gap(6, 8, 4, Assignment::kResolvable), .667, kThreeDigits);
  EXPECT_NEAR(Gap(10, 8, 4, Assignment::kResolvable), .800, kThreeDigits);
  EXPECT_NEAR(Gap(14, 8, 4, Assignment::kResolvable), .857, kThreeDigits);
  // Round-robin rounds: 2, 3, 6 and 7 of them.
  EXPECT_NEAR(Gap(8, 8, 2, Assignment::kResolvable), .146, kThreeDigits);
  EXPECT_NEAR(Gap(12, 8, 2, Assignment::kResolvable), .333, kThreeDigits);  // by swaps
  EXPECT_NEAR(Gap(24, 8, 2, Assignment::kResolvable), .500, kThreeDigits);
  EXPECT_NEAR(Gap(28, 8, 2, Assignment::kResolvable), .571, kThreeDigits);
  // Other worker numbers, with all classes in use.
  EXPECT_NEAR(Gap(6, 4, 2, Assignment::kResolvable), .667, kThreeDigits);
  EXPECT_NEAR(Gap(20, 16, 4, Assignment::kResolvable), .800, kThreeDigits);
  EXPECT_NEAR(Gap(30, 16, 8, Assignment::kResolvable), .933, kThreeDigits);
}

// Runs of p of N workers make W circulant: rho = 1 - (sin(pi p / N) / (p sin(pi / N)))^2.
TEST(GapTest, Cyclic_ClosedFormula) {
  for (int workers = 2; workers <= 12; ++workers) {
    for (int holders = 1; holders <= workers; ++holders) {
      const double ratio = std::sin(std::numbers::pi * holders / workers) /
                           (holders * std::sin(std::numbers::pi / workers));
      for (const int rounds : {1, 3}) {
        EXPECT_NEAR(Gap(rounds * workers, workers, holders, Assignment::kCyclic), 1 - ratio * ratio,
                    1e-9)
            << "N " << workers << " p " << holders;
      }
    }
  }
}

TEST(GapTest, LargestGap_PublishedNumbers) {
  const double eight[] = {0, .571, .762, .857, .914, .952, .980, 1};
  for (int p = 1; p <= 8; ++p) EXPECT_NEAR(LargestGap(8, p), eight[p - 1], kThreeDigits);
  const double four[] = {0, .667, .889, 1};
  for (int p = 1; p <= 4; ++p) EXPECT_NEAR(LargestGap(4, p), four[p - 1], kThreeDigits);
  EXPECT_NEAR(LargestGap(16, 2), .533, kThreeDigits);
}

// Also: never above the bound, whatever the plan.
TEST(GapTest, SmallPlans_AgreeWithDefinitionAndBound) {
  for (int workers = 2; workers <= 12; ++workers) {
    for (int holders = 1; holders <= workers; ++holders) {
      for (const int units : {12, 19, 24}) {
        const Catalog catalog = FakeModel({{"a", units, 3}, {"b", 12, 7}});
        for (const Assignment assignment : kAllAssignments) {
          SCOPED_TRACE(absl::StrCat("B ", units, " N ", workers, " p ", holders, " assignment ",
                                    static_cast<int>(assignment)));
          const Plan plan =
              *MakePlan(FakeInput(catalog, workers, Fraction(holders, workers), assignment));
          for (const UnitWeight weight : {UnitWeight::kEqual, UnitWeight::kParams}) {
            for (const SharedUnits shared : {SharedUnits::kIgnored, SharedUnits::kCounted}) {
              const double gap = SpectralGap(catalog, plan, weight, shared);
              EXPECT_NEAR(gap, GapByDefinition(catalog, plan, weight, shared), 1e-9);
              if (shared == SharedUnits::kIgnored) {
                EXPECT_LE(gap, LargestGap(workers, holders) + 1e-9);
              }
            }
          }
          EXPECT_TRUE(Connected(catalog, plan, SharedUnits::kCounted));
          EXPECT_EQ(Connected(catalog, plan, SharedUnits::kIgnored),
                    SpectralGap(catalog, plan, UnitWeight::kEqual, SharedUnits::kIgnored) > 1e-9);
          EXPECT_EQ(Connected(catalog, plan, SharedUnits::kIgnored), holders > 1);
        }
      }
    }
  }
}

// Above kMaxDenseWorkers by Lanczos' method: against closed formulas and a dense eigenvalue solver.
TEST(GapTest, ManyWorkers_LanczosAgrees) {
  for (const int workers : {65, 130}) {
    // Runs have eigenvalues that crowd next to the second; designs have few that differ.
    for (const int holders : {2, 7, workers / 2}) {
      const double ratio = std::sin(std::numbers::pi * holders / workers) /
                           (holders * std::sin(std::numbers::pi / workers));
      EXPECT_NEAR(Gap(workers, workers, holders, Assignment::kCyclic), 1 - ratio * ratio, 1e-6)
          << "N " << workers << " p " << holders;
    }
    const Catalog catalog = FakeModel({{"a", 150, 3}, {"b", 90, 7}});
    for (const Assignment assignment : {Assignment::kResolvable, Assignment::kRandom}) {
      for (const double coverage : {0.1, 0.5}) {
        const Plan plan = *MakePlan(FakeInput(catalog, workers, coverage, assignment));
        for (const UnitWeight weight : {UnitWeight::kEqual, UnitWeight::kParams}) {
          for (const SharedUnits shared : {SharedUnits::kIgnored, SharedUnits::kCounted}) {
            EXPECT_NEAR(SpectralGap(catalog, plan, weight, shared),
                        GapByDefinition(catalog, plan, weight, shared), 2e-6)
                << "N " << workers << " c " << coverage;
          }
        }
      }
    }
  }
  EXPECT_NEAR(Gap(2 * 127, 128, 64, Assignment::kResolvable), LargestGap(128, 64), 1e-6);
}

TEST(GapTest, SplitForGood_NotConnectedAndZero) {
  const Catalog catalog = FakeModel(4);
  Plan plan;
  plan.holders = {{0, 1, 2, 3}, {0, 1}, {2, 3}, {0, 1}, {2, 3}, {0, 1, 2, 3}};
  plan.units.resize(4);
  EXPECT_FALSE(Connected(catalog, plan, SharedUnits::kIgnored));
  EXPECT_TRUE(Connected(catalog, plan, SharedUnits::kCounted));
  EXPECT_EQ(SpectralGap(catalog, plan, UnitWeight::kEqual, SharedUnits::kIgnored), 0);
  plan.holders[2] = {0, 3};
  plan.holders[3] = {1, 2};
  EXPECT_TRUE(Connected(catalog, plan, SharedUnits::kIgnored));
}

TEST(GapTest, EverybodyHoldsAll_One) {
  EXPECT_NEAR(Gap(12, 8, 8, Assignment::kResolvable), 1, 1e-9);
  EXPECT_EQ(Gap(12, 1, 1, Assignment::kResolvable), 1);
}

// What the method's description says of LLaMA-134M on 8 workers, 4 holders.
TEST(GapTest, Llama134m_SharesAndGap) {
  LlamaSpec spec;
  spec.dim = 768;
  spec.layers = 12;
  spec.heads = 12;
  spec.kv_heads = 12;
  spec.ffn_dim = 2048;
  spec.vocab = 32000;
  const Catalog catalog = LlamaCatalog(spec, TransformerUnit::kSublayer, 1024);
  const Plan plan = *MakePlan(FakeInput(catalog, 8, 0.5, Assignment::kResolvable));
  EXPECT_NEAR(SpectralGap(catalog, plan, UnitWeight::kEqual, SharedUnits::kIgnored), .833,
              kThreeDigits);

  double params = 0, macs = 0;
  for (const UnitSpec& unit : catalog.units) {
    params += static_cast<double>(unit.params);
    macs += static_cast<double>(unit.macs);
  }
  EXPECT_NEAR(params / 1e6, 134.1, .05);
  for (const std::vector<UnitId>& units : plan.units) {
    double held_params = 0, held_macs = 0;
    for (const UnitId unit : units) {
      held_params += static_cast<double>(catalog.unit(unit).params);
      held_macs += static_cast<double>(catalog.unit(unit).macs);
    }
    EXPECT_NEAR(held_params / params, .683, kThreeDigits);
    EXPECT_NEAR(held_macs / macs, .603, kThreeDigits);
  }

  spec.layers = 8;
  const Catalog layers = LlamaCatalog(spec, TransformerUnit::kLayer, 1024);
  const auto gap = [&](Assignment assignment) {
    const Plan plan = *MakePlan(FakeInput(layers, 8, 0.5, assignment));
    return SpectralGap(layers, plan, UnitWeight::kParams, SharedUnits::kIgnored);
  };
  EXPECT_NEAR(gap(Assignment::kCyclic), .573, kThreeDigits);
  EXPECT_NEAR(gap(Assignment::kResolvable), .750, kThreeDigits);
}

}  // namespace
}  // namespace sdp
