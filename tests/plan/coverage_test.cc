#include "common/plan/coverage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/model/llama.h"
#include "common/plan/plan.h"
#include "tests/plan/fake_model.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::FakeModel;
using ::testing::HasSubstr;

Catalog Llama(int64_t layers, TransformerUnit unit = TransformerUnit::kSublayer) {
  return LlamaCatalog(
      {.dim = 8, .layers = layers, .heads = 2, .kv_heads = 1, .ffn_dim = 12, .vocab = 16}, unit, 4);
}

// The error's message; fails unless it is InvalidArgument.
std::string Refusal(const Catalog& catalog, const CoverageChoice& choice, int workers = 8) {
  const auto resolved = ResolveCoverage(catalog, choice, workers);
  EXPECT_EQ(resolved.status().code(), absl::StatusCode::kInvalidArgument) << resolved.status();
  return std::string(resolved.status().message());
}

TEST(ResolveCoverageTest, ImpossibleValues_InvalidArgument) {
  const Catalog catalog = FakeModel(2);
  EXPECT_THAT(Refusal(catalog, {.holders = 9}), HasSubstr("holders is 9, more than the 8 workers"));
  EXPECT_THAT(Refusal(catalog, {.coverage = 0}), HasSubstr("coverage 0 is outside"));
  EXPECT_THAT(Refusal(catalog, {.coverage = 1.5}), HasSubstr("coverage 1.5 is outside"));
  EXPECT_THAT(Refusal(catalog, {.coverage = std::numeric_limits<double>::quiet_NaN()}),
              HasSubstr("nan"));
  EXPECT_THAT(Refusal(catalog, {.coverage = 0.5}, 0), HasSubstr("workers is 0"));
}

TEST(ResolveCoverageTest, ImpossibleDepths_NameWhatIsWrong) {
  EXPECT_THAT(Refusal(Llama(2), {.depth = {1, 0.5, 0.25}}),
              HasSubstr("depth has 3 values; the model has 2 layers"));
  EXPECT_THAT(Refusal(Llama(2), {.depth = {1, 0}}), HasSubstr("depth 0 is outside (0, 1]"));
  EXPECT_THAT(Refusal(FakeModel(2), {.depth = {1, 0.5}}),
              HasSubstr("unit unit0 of this model belongs to no layer"));
}

TEST(ResolveCoverageTest, ImpossibleKinds_NameTheModelsKinds) {
  EXPECT_THAT(Refusal(Llama(2), {.by_kind = {{"mpl", 0.5}}}),
              AllOf(HasSubstr("\"mpl\""), HasSubstr("there are: attention, mlp")));
  // Shared units are nobody's to withhold.
  EXPECT_THAT(Refusal(Llama(2), {.by_kind = {{"head", 0.5}}}), HasSubstr("attention, mlp"));
  EXPECT_THAT(Refusal(Llama(2, TransformerUnit::kLayer), {.by_kind = {{"mlp", 0.5}}}),
              HasSubstr("there are: layer"));
  EXPECT_THAT(Refusal(Llama(2), {.by_kind = {{"mlp", 2}}}),
              HasSubstr("coverage of kind \"mlp\": 2 is outside (0, 1]"));
}

TEST(ResolveCoverageTest, CoverageOrHolders_SharedUnitsGetOne) {
  const Catalog catalog = FakeModel(2);
  EXPECT_THAT(*ResolveCoverage(catalog, {.coverage = 0.3}, 8), ElementsAre(1, 0.3, 0.3, 1));
  EXPECT_THAT(*ResolveCoverage(catalog, {.holders = 3}, 8), ElementsAre(1, 0.375, 0.375, 1));
}

TEST(ResolveCoverageTest, ByKind_TheOthersKeepTheirs) {
  EXPECT_THAT(*ResolveCoverage(Llama(2), {.coverage = 0.25, .by_kind = {{"attention", 0.75}}}, 8),
              ElementsAre(1, 0.75, 0.25, 0.75, 0.25, 1));
  EXPECT_THAT(*ResolveCoverage(Llama(2), {.holders = 2, .by_kind = {{"mlp", 1}}}, 8),
              ElementsAre(1, 0.25, 1, 0.25, 1, 1));
}

// Both sub-layers of a layer lie at the same depth.
TEST(ResolveCoverageTest, Depth_AValuePerLayer_IsExact) {
  EXPECT_THAT(*ResolveCoverage(Llama(4), {.depth = {1, 0.5, 0.3, 0.1}}, 10),
              ElementsAre(1, 1, 1, 0.5, 0.5, 0.3, 0.3, 0.1, 0.1, 1));
}

TEST(ResolveCoverageTest, Depth_FewerValues_LinesBetween) {
  const std::vector<double> two =
      *ResolveCoverage(Llama(5, TransformerUnit::kLayer), {.depth = {1, 0.5}}, 8);
  EXPECT_THAT(two, ElementsAre(1, 1, 0.875, 0.75, 0.625, 0.5, 1));
  const std::vector<double> three =
      *ResolveCoverage(Llama(5, TransformerUnit::kLayer), {.depth = {1, 0.5, 0.25}}, 8);
  EXPECT_THAT(three, ElementsAre(1, 1, 0.75, 0.5, 0.375, 0.25, 1));
  EXPECT_THAT(*ResolveCoverage(Llama(3, TransformerUnit::kLayer), {.depth = {0.5}}, 8),
              ElementsAre(1, 0.5, 0.5, 0.5, 1));
  EXPECT_THAT(*ResolveCoverage(Llama(1), {.depth = {0.5}}, 8), ElementsAre(1, 0.5, 0.5, 1));
}

TEST(ResolveCoverageTest, ByKindAndDepth_TheKindCounts) {
  EXPECT_THAT(*ResolveCoverage(Llama(2), {.depth = {1, 0.25}, .by_kind = {{"attention", 0.5}}}, 8),
              ElementsAre(1, 0.5, 1, 0.5, 0.25, 1));
}

TEST(PhaseAtTest, CountsThoseThatHaveBegun) {
  EXPECT_EQ(PhaseAt({}, 7), 0);
  const std::vector<CoveragePhase> phases = {{3, {}}, {5, {}}};
  const int expected[] = {0, 0, 0, 1, 1, 2, 2};
  for (Step step = 0; step < 7; ++step) EXPECT_EQ(PhaseAt(phases, step), expected[step]) << step;
  EXPECT_EQ(PhaseAt({{0, {}}}, 0), 1);
}

// A phase changes who holds a unit; what it is scaled by, over its holders, stays.
TEST(PhasesTest, Factors_KeepTheReference) {
  const Catalog catalog = Llama(4);
  PlanInput input;
  input.catalog = &catalog;
  input.reference = *ResolveCoverage(catalog, {.depth = {1, 0.5, 0.25, 0.25}}, 8);
  input.ranks = testing::FakeRanks(8);
  for (const double coverage : {0.25, 0.5, 1.0}) {
    input.coverage = *ResolveCoverage(catalog, {.coverage = coverage}, 8);
    const Plan plan = *MakePlan(input);
    for (size_t j = 0; j < catalog.units.size(); ++j) {
      const double holders = static_cast<double>(plan.holders[j].size());
      EXPECT_EQ(holders, catalog.units[j].shared ? 8 : 8 * coverage);
      EXPECT_EQ(plan.factors[j] * holders, 8 * input.reference[j]);
    }
  }
  const uint64_t hash = MakePlan(input)->hash;
  input.reference[1] = 0.75;
  EXPECT_NE(MakePlan(input)->hash, hash);
  input.reference.pop_back();
  EXPECT_THAT(MakePlan(input).status().message(), HasSubstr("reference"));
}

// Shares that are the same in the mean leave every worker as much to compute: the loads are equal
// where the shares of each kind add up to a whole number, and else differ by a unit of each kind.
TEST(ResolveCoverageTest, Plans_AreLevel) {
  const struct {
    int64_t layers;
    CoverageChoice choice;
    bool equal;
  } cases[] = {{4, {.depth = {1, 0.5, 0.25, 0.25}}, true},
               {4, {.coverage = 0.5, .by_kind = {{"attention", 1}}}, true},
               {4, {.depth = {1, 0.5, 0.25, 0.25}, .by_kind = {{"attention", 1}}}, true},
               {12, {.depth = {1, 0.5, 0.25, 0.25}}, false},
               {12, {.depth = {1, 0.125}}, false},
               {7, {.holders = 3, .by_kind = {{"mlp", 0.6}}}, false}};
  for (const auto& c : cases) {
    const Catalog catalog = Llama(c.layers);
    for (const int workers : {8, 16}) {
      PlanInput input;
      input.catalog = &catalog;
      input.coverage = *ResolveCoverage(catalog, c.choice, workers);
      input.ranks = testing::FakeRanks(workers);
      const Plan plan = *MakePlan(input);
      std::vector<int64_t> loads;
      std::map<std::string, std::vector<int>> counts;
      int64_t unit_of_each = 0;
      for (const std::vector<UnitId>& units : plan.units) {
        loads.push_back(0);
        for (const UnitId unit : units) loads.back() += catalog.unit(unit).macs;
        for (const std::string kind : {"attention", "mlp"}) {
          counts[kind].push_back(
              static_cast<int>(std::count_if(units.begin(), units.end(), [&](UnitId unit) {
                return catalog.unit(unit).kind == kind;
              })));
        }
      }
      for (const auto& [kind, count] : counts) {
        const auto [least, most] = std::minmax_element(count.begin(), count.end());
        EXPECT_LE(*most - *least, c.equal ? 0 : 1) << kind;
      }
      for (const UnitSpec& unit : catalog.units) {
        if (!unit.shared && unit.layer == 0) unit_of_each += unit.macs;
      }
      const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
      EXPECT_LE(*most - *least, c.equal ? 0 : unit_of_each) << c.layers << ", " << workers;
      for (size_t j = 0; j < catalog.units.size(); ++j) {
        const double share = input.coverage[j] * workers;
        EXPECT_NEAR(static_cast<double>(plan.holders[j].size()), share, 1 - 1e-9);
        EXPECT_DOUBLE_EQ(plan.factors[j] * static_cast<double>(plan.holders[j].size()), share);
      }
    }
  }
}

}  // namespace
}  // namespace sdp
