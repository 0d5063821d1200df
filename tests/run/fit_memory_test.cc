#include "common/run/fit_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/config/config.h"
#include "common/plan/plan.h"
#include "common/run/run_setup.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kMiB = int64_t{1} << 20;

RunConfig Config(int64_t memory_bytes, std::vector<std::string> sets = {}) {
  sets.insert(sets.begin(), {"sdp.coverage=auto", absl::StrCat("worker.memory=", memory_bytes, "B"),
                             "train.global_batch=32"});
  const absl::StatusOr<LoadedConfig> loaded = LoadConfigText(
      "[model]\npreset = \"llama-tiny\"\n[data]\ntrain = [\"none.txt\"]\n", "test.toml", sets);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? loaded->config : RunConfig();
}

std::vector<MemoryOption> Fit(const RunConfig& config) {
  const absl::StatusOr<std::vector<MemoryOption>> options = FitMemory(config);
  EXPECT_TRUE(options.ok()) << options.status();
  return options.value_or(std::vector<MemoryOption>(1));
}

// What a worker needs at most, by the planner.
int64_t Predicted(RunConfig config, const MemoryOption& option) {
  config.mutable_sdp()->set_coverage(option.coverage);
  config.mutable_train()->set_micro_batch(option.micro_batch);
  config.mutable_train()->set_recompute(option.recompute);
  const RunSetup setup = *MakeRunSetup(config);
  const PlanInput input = *PlanInputFrom(setup, *RanksFrom(config), 0);
  const Plan plan = *MakePlan(input);
  int64_t most = 0;
  for (int rank = 0; rank < 4; ++rank) {
    most = std::max(most, WorkerMemory(setup.catalog, plan.units[static_cast<size_t>(rank)],
                                       MemoryModelFrom(setup), rank, 4)
                              .bytes);
  }
  return most;
}

TEST(FitMemoryTest, MuchMemory_EverythingAtOnce) {
  const std::vector<MemoryOption> options = Fit(Config(int64_t{1} << 40));
  ASSERT_EQ(options.size(), 1u);
  EXPECT_EQ(options[0].coverage, 1);
  EXPECT_EQ(options[0].micro_batch, 8);
  EXPECT_FALSE(options[0].recompute);
  EXPECT_EQ(options[0].refused, "");
  EXPECT_DOUBLE_EQ(options[0].flops_share, 1);
}

// Each option but the last is too large, and they come in the promised order, whatever the memory.
TEST(FitMemoryTest, Order_MicroBatch_Recompute_Coverage) {
  const int64_t all = Fit(Config(int64_t{1} << 40))[0].memory_bytes;
  struct Expected {
    double coverage;
    int64_t micro_batch;
    bool recompute;
  };
  const std::vector<Expected> expected = {{1, 8, false},   {1, 4, false},   {1, 2, false},
                                          {1, 1, false},   {1, 8, true},    {1, 4, true},
                                          {1, 2, true},    {1, 1, true},    {.75, 8, false},
                                          {.75, 4, false}, {.75, 2, false}, {.75, 1, false}};
  size_t longest = 0;
  for (int64_t limit = all; limit > 0; limit -= all / 200) {
    const RunConfig config = Config(limit);
    const absl::StatusOr<std::vector<MemoryOption>> options = FitMemory(config);
    if (!options.ok()) break;
    for (size_t i = 0; i < options->size(); ++i) {
      const MemoryOption& option = (*options)[i];
      const bool last = i + 1 == options->size();
      EXPECT_EQ(option.refused.empty(), last);
      EXPECT_EQ(option.memory_bytes <= limit, last);
      if (i >= expected.size()) continue;
      EXPECT_EQ(option.coverage, expected[i].coverage);
      EXPECT_EQ(option.micro_batch, expected[i].micro_batch);
      EXPECT_EQ(option.recompute, expected[i].recompute);
    }
    EXPECT_EQ(options->back().memory_bytes, Predicted(config, options->back()));
    EXPECT_GE(options->size(), longest) << "less memory cannot need fewer";
    longest = options->size();
  }
  EXPECT_GT(longest, expected.size());
}

TEST(FitMemoryTest, WhatIsGiven_IsWhereItBegins) {
  const std::vector<MemoryOption> options =
      Fit(Config(int64_t{1} << 40, {"train.micro_batch=3", "train.recompute=true"}));
  ASSERT_EQ(options.size(), 1u);
  EXPECT_EQ(options[0].micro_batch, 3);
  EXPECT_TRUE(options[0].recompute);
  EXPECT_GT(options[0].flops_share, 1.2);
}

TEST(FitMemoryTest, NothingFits_SaysWhatIsLeast) {
  const absl::Status status = FitMemory(Config(kMiB)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("nothing fits worker.memory = 1.0 MiB; the least is "),
                    HasSubstr("raise worker.memory or cluster.workers"), HasSubstr("too much")));
}

// Of every model, however it is cut and masked.
TEST(FitMemoryTest, EveryModel_HasAPrediction) {
  for (const std::string model :
       {"model.preset=llama-tiny", "model.preset=resnet-cifar", "model.preset=swin-cifar"}) {
    for (const std::string granularity : {"sdp.granularity=block", "sdp.granularity=neuron"}) {
      for (const std::string masking : {"sdp.masking=forward", "sdp.masking=backward"}) {
        SCOPED_TRACE(absl::StrCat(model, " ", granularity, " ", masking));
        std::vector<std::string> sets = {model, granularity, masking};
        if (model != "model.preset=llama-tiny") sets.push_back("data.kind=cifar10");
        const auto options = FitMemory(Config(int64_t{1} << 40, sets));
        ASSERT_TRUE(options.ok()) << options.status();
        EXPECT_GT(options->back().memory_bytes, 0);
      }
    }
  }
}

TEST(FitMemoryTest, BatchNorm_NeverOneImageAlone) {
  const RunConfig config =
      Config(int64_t{1} << 20, {"model.preset=resnet18", "model.norm=batch", "data.kind=cifar10"});
  const absl::Status status = FitMemory(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), ::testing::Not(::testing::ContainsRegex("1  +1  ")));
}

TEST(FitMemoryTest, Settings_LoadAsTheOption) {
  MemoryOption option;
  option.coverage = 1.0 / 3;
  option.micro_batch = 5;
  option.recompute = true;
  const absl::StatusOr<LoadedConfig> loaded = LoadConfigText(
      "[model]\npreset = \"llama-tiny\"\n[data]\ntrain = [\"none.txt\"]\n[sdp]\ncoverage = "
      "'auto'\n[worker]\nmemory = '1GiB'\n",
      "test.toml", SettingsOf(option));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->config.sdp().coverage(), option.coverage);
  EXPECT_EQ(loaded->config.train().micro_batch(), 5);
  EXPECT_TRUE(loaded->config.train().recompute());
}

TEST(FitMemoryTest, Processes_DoNotChoose) {
  EXPECT_THAT(MakeRunSetup(Config(kMiB)).status().message(),
              HasSubstr("sdp.coverage = \"auto\": `sdp train` and `sdp plan` choose it"));
}

}  // namespace
}  // namespace sdp
