#include "common/plan/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "common/base/hash.h"
#include "common/plan/gap.h"
#include "tests/plan/fake_model.h"

namespace sdp {
namespace {

using ::testing::ContainsRegex;
using ::testing::ElementsAre;
using testing::FakeInput;
using testing::FakeModel;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::ordered_json;

class ReportTest : public ::testing::Test {
 protected:
  ReportTest() : catalog_(FakeModel(4)) {
    for (size_t unit = 0; unit < catalog_.units.size(); ++unit) {
      catalog_.stages.push_back(
          {catalog_.units[unit].name, {UnitId(static_cast<int32_t>(unit))}, 0});
    }
    // The second unit is indices [2, 5) of dimension 1 of the tensor of the third.
    Slice part;
    part.tensor = 3;
    part.dim = 1;
    part.begin = 2;
    part.end = 5;
    catalog_.units[2].slices.push_back(part);
    input_ = FakeInput(catalog_, 8, 0.5, Assignment::kResolvable);
    input_.seed = 42;
    plan_ = *MakePlan(input_);
    report_ = MakePlanReport(input_, plan_, {.weight = 2, .gradient = 4}, Memory());
  }
  MemoryModel Memory() const {
    MemoryModel memory;
    memory.stages = [stages = catalog_.stages.size()](int64_t samples, const HeldTensors&) {
      return std::vector<StageMemory>(stages, StageMemory{.stored = 1000 * samples});
    };
    memory.layout = &layout_;
    memory.global_batch = 8;
    memory.shards = 2;
    return memory;
  }

  Catalog catalog_;
  Layout layout_{FakeModel(4)};
  PlanInput input_;
  Plan plan_;
  PlanReport report_;
};

std::vector<std::string> Keys(const Json& object) {
  std::vector<std::string> keys;
  for (const auto& item : object.items()) keys.push_back(item.key());
  return keys;
}

TEST_F(ReportTest, Json_HasTheSchemasKeysInOrder) {
  const std::string text = PlanJson(report_);
  const Json json = Json::parse(text);
  EXPECT_THAT(Keys(json),
              ElementsAre("workers", "units", "shards", "coverage", "connected",
                          "connected_without_shared", "gap", "gap_weighted", "gap_with_shared",
                          "gap_weighted_with_shared", "mac_imbalance", "param_imbalance",
                          "activation_imbalance", "memory_imbalance", "seed", "hash"));
  EXPECT_THAT(Keys(json["workers"][0]),
              ElementsAre("id", "units", "params", "macs", "activation_elements", "push_bytes",
                          "pull_bytes", "memory_bytes"));
  EXPECT_THAT(Keys(json["shards"][0]),
              ElementsAre("id", "params", "memory_bytes", "push_bytes", "pull_bytes"));
  EXPECT_THAT(Keys(json["units"][0]), ElementsAre("name", "kind", "params", "macs", "shared",
                                                  "coverage", "holders", "slices"));
  EXPECT_THAT(Keys(json["units"][2]["slices"][0]), ElementsAre("tensor"));
  EXPECT_THAT(Keys(json["units"][2]["slices"][1]), ElementsAre("tensor", "dim", "begin", "end"));
  EXPECT_EQ(text.back(), '\n');
}

TEST_F(ReportTest, Json_Values) {
  const Json json = Json::parse(PlanJson(report_));
  ASSERT_EQ(json["workers"].size(), 8u);
  ASSERT_EQ(json["units"].size(), 6u);
  const Json& worker = json["workers"][1];
  EXPECT_EQ(worker["id"], "worker-1");
  EXPECT_EQ(worker["units"], Json({"first", "unit0", "unit3", "last"}));
  // Shared units of 7 and 11 MACs, two of 1; 6 parameters and 5 activations each.
  EXPECT_EQ(worker["macs"], 20);
  EXPECT_EQ(worker["params"], 120);
  EXPECT_EQ(worker["activation_elements"], 100);
  EXPECT_EQ(worker["push_bytes"], 480);
  EXPECT_EQ(worker["pull_bytes"], 240);
  EXPECT_EQ(worker["memory_bytes"], 4000);  // Its four stages' for one sample.
  ASSERT_EQ(json["shards"].size(), 2u);
  EXPECT_EQ(json["shards"][1]["id"], "shard-1");
  // Value, two moments and a sum, f32 each.
  EXPECT_EQ(json["shards"][1]["memory_bytes"], 16 * json["shards"][1]["params"].get<int64_t>());
  const auto of_shards = [&json](const char* key) {
    return json["shards"][0][key].get<int64_t>() + json["shards"][1][key].get<int64_t>();
  };
  EXPECT_EQ(of_shards("params"), 132);
  // What all workers send and receive.
  EXPECT_EQ(of_shards("push_bytes"), 8 * 480);
  EXPECT_EQ(of_shards("pull_bytes"), 8 * 240);

  const Json& unit = json["units"][2];
  EXPECT_EQ(unit["name"], "unit1");
  EXPECT_EQ(unit["kind"], "unit");
  EXPECT_EQ(unit["params"], 6);
  EXPECT_EQ(unit["macs"], 1);
  EXPECT_EQ(unit["shared"], false);
  EXPECT_EQ(unit["holders"], Json({"worker-4", "worker-5", "worker-6", "worker-7"}));
  EXPECT_EQ(unit["slices"][0], Json({{"tensor", "unit1.weight"}}));
  EXPECT_EQ(unit["slices"][1],
            Json({{"tensor", "unit2.weight"}, {"dim", 1}, {"begin", 2}, {"end", 5}}));
  EXPECT_EQ(json["units"][0]["shared"], true);
  EXPECT_EQ(json["units"][0]["holders"].size(), 8u);

  EXPECT_EQ(json["coverage"], 0.5);
  EXPECT_EQ(json["connected"], true);
  EXPECT_EQ(json["connected_without_shared"], true);
  EXPECT_EQ(json["seed"], 42);
  EXPECT_EQ(json["hash"], HashText(plan_.hash));
  EXPECT_EQ(json["mac_imbalance"], 1.0);
  EXPECT_EQ(json["param_imbalance"], 1.0);
  EXPECT_NEAR(json["gap"].get<double>(), 0.5, 1e-12);  // Two of seven classes: 1 - 1/2.
  const auto gap = [this](UnitWeight weight, SharedUnits shared) {
    return SpectralGap(catalog_, plan_, weight, shared);
  };
  EXPECT_EQ(json["gap"], gap(UnitWeight::kEqual, SharedUnits::kIgnored));
  EXPECT_EQ(json["gap_weighted"], gap(UnitWeight::kParams, SharedUnits::kIgnored));
  EXPECT_EQ(json["gap_with_shared"], gap(UnitWeight::kEqual, SharedUnits::kCounted));
  EXPECT_EQ(json["gap_weighted_with_shared"], gap(UnitWeight::kParams, SharedUnits::kCounted));
  // Two units that all hold and two of a worker's: half of the disagreement between halves stays.
  EXPECT_NEAR(json["gap_with_shared"].get<double>(), 0.75, 1e-12);
  EXPECT_EQ(json["units"][2]["coverage"], 0.5);
  EXPECT_EQ(json["units"][0]["coverage"], 1);
  EXPECT_EQ(json["activation_imbalance"], 1.0);
  EXPECT_EQ(json["memory_imbalance"], 1.0);
  EXPECT_FALSE(json.contains("rivals"));
}

// Everything comes in and is computed with; what is held goes out.
TEST_F(ReportTest, BackwardMasking_FullModelInHeldBlocksOut) {
  MemoryModel memory = Memory();
  memory.masking = Masking::kBackward;
  const PlanReport report = MakePlanReport(input_, plan_, {.weight = 2, .gradient = 4}, memory);
  const PlanReport::Worker& worker = report.workers[1];
  const PlanReport::Worker& forward = report_.workers[1];
  EXPECT_EQ(worker.units, forward.units);
  EXPECT_EQ(worker.params, forward.params);
  EXPECT_EQ(worker.push_bytes, forward.push_bytes);
  EXPECT_EQ(worker.pull_bytes, 2 * 132);
  EXPECT_EQ(worker.macs, 22);
  EXPECT_EQ(worker.activation_elements, 110);
  EXPECT_EQ(worker.memory_bytes, 6000);  // All six stages' for one sample.
  EXPECT_DOUBLE_EQ(worker.flops_share, (2 + 20.0 / 22) / 3);
  EXPECT_DOUBLE_EQ(forward.flops_share, 20.0 / 22);
  EXPECT_THAT(PlanText(report),
              HasSubstr("of what it does not hold: 97.0-97.0% of a step's FLOPs"));
  EXPECT_THAT(PlanText(report_), Not(HasSubstr("backward masking")));
}

TEST_F(ReportTest, Json_SplitForGood_ConnectedThroughSharedUnitsOnly) {
  const Catalog catalog = FakeModel(2);
  const PlanInput input = FakeInput(catalog, 4, 0.5, Assignment::kResolvable);
  const Json json = Json::parse(PlanJson(MakePlanReport(input, *MakePlan(input), {})));
  EXPECT_EQ(json["connected"], true);
  EXPECT_EQ(json["connected_without_shared"], false);
  EXPECT_EQ(json["gap"], 0);
}

TEST_F(ReportTest, UnknownMemory_IsLeftOut) {
  const PlanReport report = MakePlanReport(input_, plan_, {});
  const Json json = Json::parse(PlanJson(report));
  EXPECT_FALSE(json["workers"][0].contains("memory_bytes"));
  EXPECT_EQ(json["shards"], Json::array());
  EXPECT_THAT(PlanText(report), Not(HasSubstr("needs most")));
}

TEST_F(ReportTest, Imbalance_LargestOverMean) {
  const Catalog catalog = FakeModel(5);  // p = 2 of 4: ten places on four workers, 3 3 2 2.
  const PlanInput input = FakeInput(catalog, 4, 0.5, Assignment::kResolvable);
  const PlanReport report = MakePlanReport(input, *MakePlan(input), {});
  EXPECT_DOUBLE_EQ(report.mac_imbalance, (18 + 3) / (18 + 2.5));
  EXPECT_DOUBLE_EQ(report.param_imbalance, (18 + 3) / (18 + 2.5));
}

TEST_F(ReportTest, GapThatWasNotFound_SaysSo) {
  report_.gap = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(Json::parse(PlanJson(report_))["gap"].is_null());
  EXPECT_THAT(PlanText(report_), HasSubstr("spectral gap not found (at most 0.857)"));
}

TEST_F(ReportTest, Bandwidth_GivesTheTimeOfEachLink) {
  EXPECT_THAT(PlanText(report_), Not(HasSubstr("links at")));
  report_.bandwidth = 480;
  const Json json = Json::parse(PlanJson(report_));
  EXPECT_EQ(json["bandwidth"], 480);
  EXPECT_EQ(json["workers"][1]["push_seconds"], 1);
  EXPECT_EQ(json["workers"][1]["pull_seconds"], 0.5);
  EXPECT_EQ(json["shards"][0]["push_seconds"].get<double>() +
                json["shards"][1]["push_seconds"].get<double>(),
            8);
  EXPECT_THAT(PlanText(report_), HasSubstr("worker-0 pull 0.500 s push 1.000 s; shard-"));
}

TEST_F(ReportTest, Rivals_AreNamedBesideTheWorkersLoad) {
  report_.rivals = {{"fewer layers", "2 of 4 layers", 90, 15, 3000}, {"narrower", "dim 2", 60, 10}};
  const Json json = Json::parse(PlanJson(report_));
  EXPECT_EQ(json["rivals"][0], Json({{"name", "fewer layers"},
                                     {"size", "2 of 4 layers"},
                                     {"params", 90},
                                     {"macs", 15},
                                     {"memory_bytes", 3000}}));
  EXPECT_FALSE(json["rivals"][1].contains("memory_bytes"));
  const std::string text = PlanText(report_);
  EXPECT_THAT(text, HasSubstr("2 of 4 layers"));
  EXPECT_THAT(text, HasSubstr("75.0%"));  // 15 of a worker's 20 MACs, 3000 of its 4000 bytes
}

// Coverage that differs: what each kind has, and that the workers hold as many.
TEST_F(ReportTest, Text_UnequalCoverage_ShowsTheKinds) {
  EXPECT_THAT(PlanText(report_), Not(HasSubstr("units of a worker")));
  const Catalog catalog = FakeModel({{"a", 4, 1}, {"b", 4, 1}});
  PlanInput input = FakeInput(catalog, 8, 0.5, Assignment::kResolvable);
  for (size_t j = 0; j < catalog.units.size(); ++j) {
    if (catalog.units[j].kind == "b") input.coverage[j] = j < 5 ? 1 : 0.25;
  }
  const std::string text = PlanText(MakePlanReport(input, *MakePlan(input), {}));
  EXPECT_THAT(text, HasSubstr("units of a worker"));
  EXPECT_THAT(text, ContainsRegex("a +4 +0.5 +4 +2\n"));
  EXPECT_THAT(text, ContainsRegex("b +4 +0.25-1 +2-8 +2-3\n"));
}

// A character stands for several units and workers.
TEST_F(ReportTest, Text_ManyUnitsOrWorkers_PictureIsSmaller) {
  const Catalog catalog = FakeModel(400);
  const PlanInput input = FakeInput(catalog, 128, 0.5, Assignment::kRandom);
  const std::string text = PlanText(MakePlanReport(input, *MakePlan(input), {}));
  EXPECT_THAT(text, HasSubstr("from . (none) to # (all"));
  EXPECT_THAT(text, ContainsRegex("[-=+*]{64}  unit390\n"));
  const PlanInput full = FakeInput(catalog, 4, 1, Assignment::kRandom);
  EXPECT_THAT(PlanText(MakePlanReport(full, *MakePlan(full), {})), HasSubstr("\n####  unit0\n"));
}

TEST_F(ReportTest, Text_ShowsModelWorkersAndHolders) {
  const std::string text = PlanText(report_);
  EXPECT_THAT(text, HasSubstr("coverage 0.5: 4 units, each on 4 of 8 workers; 2 shared units"));
  EXPECT_THAT(text, HasSubstr(HashText(plan_.hash)));
  EXPECT_THAT(text, HasSubstr("worker-7"));
  EXPECT_THAT(text, HasSubstr("90.9%"));  // 20 of 22 MACs.
  EXPECT_THAT(text, HasSubstr("full model"));
  EXPECT_THAT(text, HasSubstr("worker-0 needs most, 3.9 KiB (gradients of last); "));
  EXPECT_THAT(text, HasSubstr("####...."));
  EXPECT_THAT(text, HasSubstr("....####"));
}

}  // namespace
}  // namespace sdp
