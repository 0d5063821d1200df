#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "common/model/resnet.h"
#include "common/model/swin.h"
#include "common/plan/coverage.h"
#include "common/plan/gap.h"
#include "common/plan/plan.h"
#include "tests/plan/fake_model.h"

// Plans for models whose units cost differently: the published figures, and how level loads are
// where no design fits.
namespace sdp {
namespace {

// Published numbers have three digits.
constexpr double kThreeDigits = 0.0005 + 1e-9;

// For images of 32 x 32.
Catalog ResNet18() {
  ResnetSpec spec;
  spec.widths = {64, 128, 256, 512};
  spec.depths = {2, 2, 2, 2};
  return ResnetCatalog(spec);
}

// For images of 224 x 224: attention and MLP of 2, 2, 6, 2 blocks are units.
Catalog SwinT() {
  SwinSpec spec;
  spec.dim = 96;
  spec.depths = {2, 2, 6, 2};
  spec.heads = {3, 6, 12, 24};
  spec.window = 7;
  spec.patch = 4;
  return SwinCatalog(spec, TransformerUnit::kSublayer);
}

struct Loads {
  std::vector<double> macs, params;  // [N] shares of the model, shared units included
  double mac_imbalance = 0;          // largest / mean
  int count_spread = 0;              // most - least units of a kind on a worker, the worst kind
  double gap = 0, gap_weighted = 0;
};

Loads LoadsOf(const Catalog& catalog, const PlanInput& input) {
  const absl::StatusOr<Plan> plan = MakePlan(input);
  EXPECT_TRUE(plan.ok()) << plan.status();
  Loads loads;
  double params = 0, macs = 0, sum = 0;
  for (const UnitSpec& unit : catalog.units) {
    params += static_cast<double>(unit.params);
    macs += static_cast<double>(unit.macs);
  }
  std::map<std::string, std::vector<int>> counts;
  for (size_t worker = 0; worker < plan->units.size(); ++worker) {
    double held_params = 0, held_macs = 0;
    for (const UnitId id : plan->units[worker]) {
      const UnitSpec& unit = catalog.unit(id);
      held_params += static_cast<double>(unit.params);
      held_macs += static_cast<double>(unit.macs);
      std::vector<int>& count = counts[unit.kind];
      count.resize(plan->units.size());
      ++count[worker];
    }
    loads.params.push_back(held_params / params);
    loads.macs.push_back(held_macs / macs);
    sum += held_macs / macs;
  }
  for (const auto& [kind, count] : counts) {
    const auto [least, most] = std::minmax_element(count.begin(), count.end());
    loads.count_spread = std::max(loads.count_spread, *most - *least);
  }
  loads.mac_imbalance = *std::max_element(loads.macs.begin(), loads.macs.end()) *
                        static_cast<double>(loads.macs.size()) / sum;
  loads.gap = SpectralGap(catalog, *plan, UnitWeight::kEqual, SharedUnits::kIgnored);
  loads.gap_weighted = SpectralGap(catalog, *plan, UnitWeight::kParams, SharedUnits::kIgnored);
  return loads;
}

Loads LoadsOf(const Catalog& catalog, const CoverageChoice& choice, int workers = 8) {
  PlanInput input;
  input.catalog = &catalog;
  input.coverage = *ResolveCoverage(catalog, choice, workers);
  input.ranks = testing::FakeRanks(workers);
  return LoadsOf(catalog, input);
}

double Largest(const std::vector<double>& all) { return *std::max_element(all.begin(), all.end()); }
double Least(const std::vector<double>& all) { return *std::min_element(all.begin(), all.end()); }

TEST(UnequalCostsTest, Catalogs_HaveThePublishedTotals) {
  const auto totals = [](const Catalog& catalog) {
    double params = 0, macs = 0;
    for (const UnitSpec& unit : catalog.units) {
      params += static_cast<double>(unit.params);
      macs += static_cast<double>(unit.macs);
    }
    return std::make_pair(params, macs);
  };
  EXPECT_NEAR(totals(ResNet18()).first, 11.174e6, .0005e6);
  EXPECT_NEAR(totals(ResNet18()).second, .555e9, .001e9);
  EXPECT_NEAR(totals(SwinT()).first, 28.288e6, .0005e6);
  EXPECT_NEAR(totals(SwinT()).second, 4.49e9, .005e9);
}

// Parameters of the branches lie between 0.7% and 42% of the model, so only a plan that pairs them
// keeps the workers alike.
TEST(UnequalCostsTest, ResNet18_FourOfEight) {
  const Loads loads = LoadsOf(ResNet18(), {.holders = 4});
  EXPECT_LT(loads.mac_imbalance, 1.04);
  EXPECT_GT(Least(loads.params), .435);
  EXPECT_LT(Largest(loads.params), .575);
  EXPECT_NEAR(loads.gap, .750, kThreeDigits);
  EXPECT_NEAR(loads.gap_weighted, .251, kThreeDigits);
  EXPECT_LE(loads.count_spread, 0);
}

// Parts of each branch: every worker holds as much of every block, 0.7% of the model or 42%.
TEST(UnequalCostsTest, ResNet18_PartsOfBlocks_FourOfEight) {
  ResnetSpec spec;
  spec.widths = {64, 128, 256, 512};
  spec.depths = {2, 2, 2, 2};
  spec.norm_groups = 32;
  const Loads even = LoadsOf(ResnetNeuronCatalog(spec, {.groups = 32}), {.holders = 4});
  EXPECT_LT(even.mac_imbalance, 1 + 1e-9);
  // Half of the branches, and all of stem, projections, norms and head.
  for (const double share : even.params) EXPECT_NEAR(share, .508, kThreeDigits);
  // 128 pairs of parts on seven classes, 18 or 19 on each.
  EXPECT_NEAR(even.gap, 1 - 19.0 / 128, 1e-6);
  EXPECT_LE(even.count_spread, 0);
  // 24 parts of one or two norm groups.
  const Loads uneven = LoadsOf(ResnetNeuronCatalog(spec, {.groups = 24}), {.holders = 4});
  EXPECT_LT(uneven.mac_imbalance, 1.04);
  EXPECT_LT(Largest(uneven.params) / Least(uneven.params), 1.12);
  EXPECT_LE(uneven.count_spread, 0);
}

TEST(UnequalCostsTest, SwinT_FourOfEight) {
  const Loads loads = LoadsOf(SwinT(), {.holders = 4});
  for (const double share : loads.params) EXPECT_NEAR(share, .541, kThreeDigits);
  for (const double share : loads.macs) EXPECT_NEAR(share, .521, kThreeDigits);
  EXPECT_NEAR(loads.gap, .833, kThreeDigits);
  EXPECT_LE(loads.count_spread, 0);
}

struct Case {
  const char* model;
  CoverageChoice choice;
  double mac_imbalance;  // at most, largest / mean
};

// Where no design fits: shares of workers that are no divisor, by kind, and by depth.
TEST(UnequalCostsTest, NoDesign_LoadsAreLevel) {
  const CoverageChoice by_depth = {.depth = {1, .5, .25, .25}};
  const Case cases[] = {
      {"resnet", {.holders = 3}, 1.05},
      {"resnet", {.holders = 5}, 1.05},
      {"resnet", by_depth, 1.05},
      {"swin", {.holders = 3}, 1.05},
      {"swin", {.holders = 5}, 1.05},
      {"swin", by_depth, 1.05},
      {"swin", {.holders = 4, .by_kind = {{"attention", 1}}}, 1.001},
      {"swin", {.depth = {1, .25}, .by_kind = {{"attention", .75}}}, 1.05},
  };
  for (const Case& c : cases) {
    const Catalog catalog = c.model == std::string("resnet") ? ResNet18() : SwinT();
    const Loads loads = LoadsOf(catalog, c.choice);
    SCOPED_TRACE(absl::StrCat(c.model, ": MACs ", loads.mac_imbalance, " params ",
                              Least(loads.params), "-", Largest(loads.params), " gap ", loads.gap));
    EXPECT_LT(loads.mac_imbalance, c.mac_imbalance);
    EXPECT_LE(loads.count_spread, 1);
    EXPECT_GT(loads.gap, 0);
  }
}

}  // namespace
}  // namespace sdp
