#include "deploy/command/plan_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class PlanCommandTest : public ::testing::Test {
 protected:
  // The data files do not exist: no plan may need them.
  PlanCommandTest() {
    command_.config_path = absl::StrCat(::testing::TempDir(), "/plan_command_test.toml");
    std::ofstream(command_.config_path) << "[model]\npreset = \"llama-134m\"\n"
                                           "[data]\ntrain = [\"absent.txt\"]\nseq_len = 1024\n"
                                           "[cluster]\nworkers = 8\n";
  }

  absl::Status Run() {
    out_.str("");
    warnings_.str("");
    return RunPlanCommand(command_, out_, warnings_);
  }

  // The error's message; fails unless the command failed and printed no plan.
  std::string Refusal() {
    const absl::Status status = Run();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(out_.str(), IsEmpty());
    return std::string(status.message());
  }

  PlanCommand command_;
  std::ostringstream out_;
  std::ostringstream warnings_;
};

TEST_F(PlanCommandTest, NoSuchFile_NotFound) {
  command_.config_path = "/nowhere/run.toml";
  EXPECT_EQ(Run().code(), absl::StatusCode::kNotFound);
}

TEST_F(PlanCommandTest, ImpossiblePlans_OneErrorEach) {
  command_.workers = 4;
  command_.sets = {"sdp.holders=5"};
  EXPECT_THAT(Refusal(), HasSubstr("holders"));
  command_.sets = {"sdp.coverage=0"};
  EXPECT_THAT(Refusal(), HasSubstr("sdp.coverage"));
  command_.sets = {"sdp.coverage=0.2"};
  EXPECT_THAT(Refusal(), HasSubstr("sdp.coverage = 0.2"));
  command_.sets = {"sdp.coverage_by={mpl=0.5}"};
  EXPECT_THAT(Refusal(), HasSubstr("there are: attention, mlp"));
  command_.sets = {"sdp.phases=[{from=3,coverage=1,coverage_by={mpl=0.5}}]"};
  EXPECT_THAT(Refusal(), HasSubstr("sdp.phases, phase from step 3"));
  command_.sets = {"sdp.depth=[1, 0.1]"};
  EXPECT_THAT(Refusal(), HasSubstr("sdp.depth"));
  command_.sets = {"sdp.unit=\"layer\"", "sdp.assignment=\"cyclic\""};
  command_.workers = 13;
  EXPECT_THAT(Refusal(), HasSubstr("12 for 13 workers"));
  command_.sets = {"sdp.unit=\"layer\"", "sdp.holders=1"};
  EXPECT_THAT(Refusal(), HasSubstr("would hold none"));
  command_.workers = 0;
  EXPECT_THAT(Refusal(), HasSubstr("cluster.workers"));
}

TEST_F(PlanCommandTest, Json_Llama134m) {
  command_.format = PlanCommand::Format::kJson;
  ASSERT_TRUE(Run().ok());
  const nlohmann::json json = nlohmann::json::parse(out_.str());
  EXPECT_THAT(warnings_.str(), IsEmpty());
  ASSERT_EQ(json["workers"].size(), 8u);
  ASSERT_EQ(json["units"].size(), 26u);
  EXPECT_EQ(json["coverage"], 0.5);
  EXPECT_NEAR(json["gap"].get<double>(), .833, .0005);
  int64_t params = 0, macs = 0;
  for (const auto& unit : json["units"]) {
    params += unit["params"].get<int64_t>();
    macs += unit["macs"].get<int64_t>();
    EXPECT_EQ(unit["holders"].size(), unit["shared"].get<bool>() ? 8u : 4u);
  }
  for (const auto& worker : json["workers"]) {
    EXPECT_NEAR(worker["params"].get<double>() / static_cast<double>(params), .683, .0005);
    EXPECT_NEAR(worker["macs"].get<double>() / static_cast<double>(macs), .603, .0005);
    EXPECT_EQ(worker["push_bytes"], 4 * worker["params"].get<int64_t>());
    EXPECT_GT(worker["memory_bytes"], 4 * worker["params"].get<int64_t>());
  }
}

// The plan is forward masking's; everything comes in and is computed with.
TEST_F(PlanCommandTest, BackwardMasking_Llama134m) {
  command_.format = PlanCommand::Format::kJson;
  ASSERT_TRUE(Run().ok());
  const nlohmann::json forward = nlohmann::json::parse(out_.str());
  command_.sets = {"sdp.masking=backward"};
  ASSERT_TRUE(Run().ok());
  const nlohmann::json json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["hash"], forward["hash"]);
  int64_t params = 0, macs = 0;
  for (const auto& unit : json["units"]) {
    params += unit["params"].get<int64_t>();
    macs += unit["macs"].get<int64_t>();
  }
  for (size_t w = 0; w < 8; ++w) {
    const auto &worker = json["workers"][w], &held = forward["workers"][w];
    EXPECT_EQ(worker["units"], held["units"]);
    EXPECT_EQ(worker["push_bytes"], held["push_bytes"]);
    EXPECT_EQ(worker["pull_bytes"], 4 * params);
    EXPECT_EQ(worker["macs"], macs);
    EXPECT_GT(worker["activation_elements"], held["activation_elements"]);
    EXPECT_GT(worker["memory_bytes"], held["memory_bytes"]);
  }
  command_.format = PlanCommand::Format::kTable;
  ASSERT_TRUE(Run().ok());
  EXPECT_THAT(out_.str(), HasSubstr("86.8-86.8% of a step's FLOPs"));  // (2 + .603) / 3
}

TEST_F(PlanCommandTest, CoverageAuto_ShowsWhatItWeighed) {
  command_.sets = {"sdp.coverage=auto"};
  command_.memory = "1GiB";
  ASSERT_EQ(Run(), absl::OkStatus());
  EXPECT_THAT(out_.str(), HasSubstr("sdp.coverage = \"auto\" with worker.memory = 1GiB:"));
  EXPECT_THAT(out_.str(), HasSubstr(" too much"));
  EXPECT_THAT(out_.str(), HasSubstr(" taken"));
  command_.memory = "1MiB";
  EXPECT_THAT(Run().message(), HasSubstr("nothing fits worker.memory = 1.0 MiB"));
}

// The forward pass once more, but that of embedding and head.
TEST_F(PlanCommandTest, Recompute_MoreFlops_FewerActivations) {
  command_.format = PlanCommand::Format::kJson;
  ASSERT_TRUE(Run().ok());
  const nlohmann::json stored = nlohmann::json::parse(out_.str());
  command_.sets = {"train.recompute=true"};
  ASSERT_TRUE(Run().ok());
  const nlohmann::json json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["hash"], stored["hash"]);
  for (size_t w = 0; w < 8; ++w) {
    const auto &worker = json["workers"][w], &before = stored["workers"][w];
    EXPECT_EQ(worker["macs"], before["macs"]);
    EXPECT_LT(worker["activation_elements"], before["activation_elements"]);
    EXPECT_LT(worker["memory_bytes"], before["memory_bytes"]);
  }
  command_.format = PlanCommand::Format::kTable;
  ASSERT_TRUE(Run().ok());
  EXPECT_THAT(out_.str(), HasSubstr("MACs/sample of the forward pass are done twice: "));
}

// Published for p = 8, 4, 2, 2 of four layers: as much for every worker as at coverage 1/2.
TEST_F(PlanCommandTest, CoverageByDepth_EveryWorkerHasAsMuch) {
  command_.sets = {"model.layers=4", "sdp.depth=[1.0, 0.5, 0.25, 0.25]"};
  command_.format = PlanCommand::Format::kJson;
  ASSERT_TRUE(Run().ok());
  const nlohmann::json json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["coverage"], 0.5);
  EXPECT_EQ(json["mac_imbalance"], 1.0);
  EXPECT_EQ(json["param_imbalance"], 1.0);
  const size_t holders[] = {8, 4, 2, 2};
  for (size_t layer = 0; layer < 4; ++layer) {
    EXPECT_EQ(json["units"][1 + 2 * layer]["holders"].size(), holders[layer]);
    EXPECT_EQ(json["units"][2 + 2 * layer]["holders"].size(), holders[layer]);
  }
}

TEST_F(PlanCommandTest, Phases_ARowEach) {
  command_.sets = {
      "sdp.phases=[{from=100,coverage=1},{from=900,coverage=0.25},"
      "{from=1000,coverage=0.5}]"};  // the last begins when training ends
  command_.format = PlanCommand::Format::kJson;
  ASSERT_TRUE(Run().ok());
  const nlohmann::json phases = nlohmann::json::parse(out_.str())["phases"];
  ASSERT_EQ(phases.size(), 3u);
  const double coverages[] = {0.5, 1, 0.25};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(phases[i]["coverage"], coverages[i]);
    EXPECT_EQ(phases[i]["pull_bytes"], 4 * phases[i]["params"].get<int64_t>());
  }
  EXPECT_EQ(phases[1]["from"], 100);
  EXPECT_NEAR(phases[0]["macs"].get<double>() / phases[1]["macs"].get<double>(), .603, .0005);
  EXPECT_GT(phases[1]["memory_bytes"], phases[0]["memory_bytes"]);
  EXPECT_LT(phases[2]["memory_bytes"], phases[0]["memory_bytes"]);
  command_.format = PlanCommand::Format::kTable;
  ASSERT_TRUE(Run().ok());
  EXPECT_THAT(out_.str(), HasSubstr("phase from step"));
  command_.sets = {"sdp.phases=[{from=0,coverage=1}]"};
  ASSERT_TRUE(Run().ok());
  EXPECT_THAT(out_.str(), Not(HasSubstr("phase from step")));
  EXPECT_THAT(out_.str(), HasSubstr("each on 8 of 8 workers"));
}

TEST_F(PlanCommandTest, Bandwidth_ShowsLinkTimes_RivalsAreNamed) {
  ASSERT_TRUE(Run().ok());
  EXPECT_THAT(out_.str(), Not(HasSubstr("links at")));
  EXPECT_THAT(out_.str(), HasSubstr("fewer layers"));
  EXPECT_THAT(out_.str(), HasSubstr("narrower"));
  command_.bandwidth = "10Gbit";
  ASSERT_TRUE(Run().ok());
  EXPECT_THAT(out_.str(), HasSubstr("links at 10 Gbit/s, busiest, per step: worker-0 pull "));
  command_.bandwidth = "fast";
  EXPECT_THAT(Refusal(), HasSubstr("--bandwidth fast"));
}

// 12 heads a layer on 3 of 8 workers each: 4 or 5 heads of every layer on every worker.
TEST_F(PlanCommandTest, Neurons_AreBalancedInEveryLayer) {
  command_.format = PlanCommand::Format::kJson;
  command_.sets = {"sdp.granularity=neuron", "sdp.holders=3"};
  ASSERT_TRUE(Run().ok());
  nlohmann::json json = nlohmann::json::parse(out_.str());
  EXPECT_LE(json["mac_imbalance"].get<double>(), 1.02);
  EXPECT_LE(json["param_imbalance"].get<double>(), 1.02);
  EXPECT_TRUE(json["connected_without_shared"].get<bool>());
  for (const auto& worker : json["workers"]) {
    std::map<std::string, int> parts;  // of "layers.3.attention" and such
    for (const std::string unit : worker["units"]) parts[unit.substr(0, unit.rfind('.'))] += 1;
    for (int layer = 0; layer < 12; ++layer) {
      const int heads = parts[absl::StrCat("layers.", layer, ".attention")] - 1;  // the norm
      EXPECT_GE(heads, 4) << worker["id"] << " layer " << layer;
      EXPECT_LE(heads, 5) << worker["id"] << " layer " << layer;
      EXPECT_EQ(parts[absl::StrCat("layers.", layer, ".mlp")] - 1, 9);
    }
  }
  const auto& slices = json["units"][2]["slices"];
  EXPECT_EQ(json["units"][2]["name"], "layers.0.attention.0");
  EXPECT_EQ(slices[0], nlohmann::json({{"tensor", "model.layers.0.self_attn.q_proj.weight"},
                                       {"dim", 0},
                                       {"begin", 0},
                                       {"end", 64}}));
  EXPECT_EQ(slices[3]["dim"], 1);

  // p = 4: every worker has half of each, but for a neuron more or less in a group; the largest gap
  // there is, 6/7, would take as many groups of each of seven classes.
  command_.sets = {"sdp.granularity=neuron"};
  ASSERT_TRUE(Run().ok());
  json = nlohmann::json::parse(out_.str());
  EXPECT_NEAR(json["gap"].get<double>(), 6.0 / 7, .001);
  EXPECT_NEAR(json["mac_imbalance"].get<double>(), 1, 1e-4);
  EXPECT_NEAR(json["param_imbalance"].get<double>(), 1, 1e-4);
}

// By kind, by depth and over time: parts of a branch have its coverage, norms are everybody's.
TEST_F(PlanCommandTest, Neurons_CoverageByKindDepthAndPhase) {
  command_.format = PlanCommand::Format::kJson;
  command_.sets = {"sdp.granularity=neuron", "sdp.depth=[1.0, 0.5]",
                   "sdp.coverage_by={attention=0.75}", "sdp.phases=[{from=100,coverage=1}]"};
  ASSERT_TRUE(Run().ok());
  const nlohmann::json json = nlohmann::json::parse(out_.str());
  std::map<std::string, size_t> holders;
  for (const auto& unit : json["units"]) holders[unit["name"]] = unit["holders"].size();
  EXPECT_EQ(holders.at("layers.0.mlp.3"), 8u);
  EXPECT_EQ(holders.at("layers.11.mlp.3"), 4u);
  EXPECT_EQ(holders.at("layers.11.mlp.norm"), 8u);
  EXPECT_EQ(holders.at("layers.11.attention.3"), 6u);
  EXPECT_LE(json["mac_imbalance"].get<double>(), 1.02);
  ASSERT_EQ(json["phases"].size(), 2u);
  EXPECT_EQ(json["phases"][1]["coverage"], 1);
}

// Rivals are dense models: what the parts of this one are plays no part in them.
TEST_F(PlanCommandTest, Neurons_AsManyGroupsAsNeurons_RivalsAreNamed) {
  command_.sets = {"sdp.granularity=neuron", "model.layers=2", "sdp.groups=2048"};
  ASSERT_TRUE(Run().ok());
  EXPECT_THAT(out_.str(), HasSubstr("fewer layers"));
  EXPECT_THAT(out_.str(), HasSubstr("narrower"));
}

TEST_F(PlanCommandTest, PartsThatCannotBeSplitEvenly_AreRefusedSayingWhatToDo) {
  const std::vector<std::string> neuron = {"sdp.granularity=neuron", "sdp.holders=2"};
  const auto with = [&](std::vector<std::string> more) {
    command_.sets = neuron;
    command_.sets.insert(command_.sets.end(), more.begin(), more.end());
  };
  with({"model.kv_heads=3"});
  EXPECT_THAT(Refusal(),
              HasSubstr("model.kv_heads = 3, so layers.0.attention has as many parts: at "
                        "this coverage they reach only 6 of 8 workers"));
  with({"model.kv_heads=3", "sdp.attention=shared"});
  EXPECT_TRUE(Run().ok());
  with({"sdp.groups=3"});
  EXPECT_THAT(Refusal(), HasSubstr("sdp.groups = 3 of layers.0.mlp"));
  with({"model.kv_heads=6", "sdp.phases=[{from=5,coverage=0.125}]"});
  EXPECT_THAT(Refusal(), HasSubstr("sdp.phases, phase from step 5: model.kv_heads = 6"));
  with({"sdp.groups=7", "sdp.assignment=cyclic"});
  EXPECT_THAT(Refusal(), HasSubstr("cyclic assignment needs at least as many as workers, 8"));
  with({"sdp.groups=2049"});
  EXPECT_THAT(Refusal(), HasSubstr("an MLP has no more parts than neurons"));
  with({"sdp.unit=layer"});
  EXPECT_THAT(Refusal(), HasSubstr("sdp.unit = \"layer\""));
  with({"sdp.masking=backward", "sdp.groups=3"});
  EXPECT_THAT(Refusal(), HasSubstr("sdp.groups = 3 of layers.0.mlp"));
  with({"sdp.assignment=cyclic"});
  EXPECT_TRUE(Run().ok());
  command_.sets = {"sdp.granularity=neuron", "model.kv_heads=4", "sdp.depth=[1.0, 0.125]"};
  EXPECT_THAT(Refusal(), HasSubstr("so layers.10.attention has as many parts"));
}

TEST_F(PlanCommandTest, PartsOfImages_TooFewAreRefusedWithTheNumbers) {
  std::ofstream(command_.config_path)
      << "[model]\npreset = 'resnet-cifar'\n[data]\nkind = 'cifar10'\n"
         "train = ['none.bin']\n[cluster]\nworkers = 8\n";
  command_.sets = {"sdp.granularity=neuron"};
  EXPECT_TRUE(Run().ok());
  command_.sets = {"sdp.granularity=neuron", "sdp.groups=3", "sdp.holders=2"};
  EXPECT_THAT(Refusal(),
              HasSubstr("sdp.groups = 3 of layer1.0: at this coverage they reach only 6 of 8 "
                        "workers; raise the coverage or take more groups, up to "
                        "model.norm_groups = 8"));
  command_.sets = {"sdp.granularity=neuron", "sdp.groups=7", "sdp.assignment=cyclic"};
  EXPECT_THAT(Refusal(), HasSubstr("sdp.groups = 7 of layer1.0: cyclic assignment needs at least "
                                   "as many as workers, 8"));
}

TEST_F(PlanCommandTest, Workers_OverridesConfig) {
  command_.workers = 6;
  ASSERT_TRUE(Run().ok());
  EXPECT_THAT(out_.str(), HasSubstr("each on 3 of 6 workers"));
  EXPECT_THAT(out_.str(), HasSubstr("worker-5"));
}

TEST_F(PlanCommandTest, OneHolder_Warns) {
  command_.sets = {"sdp.holders=1"};
  command_.format = PlanCommand::Format::kJson;
  ASSERT_TRUE(Run().ok());
  EXPECT_THAT(warnings_.str(), HasSubstr("warning: every unit has one holder (p = 1)"));
  EXPECT_EQ(nlohmann::json::parse(out_.str())["gap"], 0);
}

}  // namespace
}  // namespace sdp
