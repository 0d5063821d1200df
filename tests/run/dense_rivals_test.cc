#include "common/run/dense_rivals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/config/config.h"

namespace sdp {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

struct Planned {
  RunSetup setup;
  PlanReport report;
};

constexpr char kLlama[] =
    "[model]\npreset = \"llama-134m\"\n[data]\ntrain = [\"none.txt\"]\nseq_len = 1024\n"
    "[train]\nglobal_batch = 8\n[cluster]\nworkers = 8\n";
constexpr char kImages[] =
    "[data]\nkind = \"cifar10\"\ntrain = [\"none.bin\"]\n"
    "[train]\nglobal_batch = 8\n[cluster]\nworkers = 8\n";

Planned MakePlanned(const std::vector<std::string>& sets, const char* text = kLlama) {
  const LoadedConfig loaded = *LoadConfigText(text, "test.toml", sets);
  Planned planned{*MakeRunSetup(loaded.config), {}};
  const PlanInput input = *PlanInputFrom(planned.setup, *RanksFrom(loaded.config), 0);
  planned.report = MakePlanReport(input, *MakePlan(input), ElementBytesFrom(WireType::kF32),
                                  MemoryModelFrom(planned.setup));
  return planned;
}

std::vector<PlanReport::Rival> Rivals(const Planned& planned) {
  const auto rivals = DenseRivals(planned.setup, planned.report);
  EXPECT_TRUE(rivals.ok()) << rivals.status();
  return *rivals;
}

// The dense model with this many layers, from the catalog.
PlanReport::Rival Dense(int64_t layers, std::vector<std::string> sets = {}) {
  sets.push_back("sdp.coverage=1");
  sets.push_back(absl::StrCat("model.layers=", layers));
  const Planned full = MakePlanned(sets);
  const PlanReport::Worker& worker = full.report.workers.front();
  return {"", "", worker.params, worker.macs, worker.memory_bytes};
}

// Half of the sub-layers: a worker does 60.3% of the MACs, as a model of 6 layers does.
TEST(DenseRivalsTest, HalfOfLlama134m_IsSixLayers) {
  const Planned planned = MakePlanned({});
  const std::vector<PlanReport::Rival> rivals = Rivals(planned);
  ASSERT_THAT(rivals, SizeIs(2));
  const PlanReport::Worker& worker = planned.report.workers.front();
  EXPECT_EQ(rivals[0].name, "fewer layers");
  EXPECT_EQ(rivals[0].size, "6 of 12 layers");
  EXPECT_EQ(rivals[0].macs, Dense(6).macs);
  EXPECT_EQ(rivals[0].params, Dense(6).params);
  EXPECT_EQ(rivals[0].memory_bytes, Dense(6).memory_bytes);
  EXPECT_LE(rivals[0].macs, worker.macs);
  EXPECT_LE(rivals[0].memory_bytes, worker.memory_bytes);
  EXPECT_TRUE(Dense(7).macs > worker.macs || Dense(7).memory_bytes > worker.memory_bytes);

  EXPECT_EQ(rivals[1].name, "narrower");
  EXPECT_LE(rivals[1].macs, worker.macs);
  EXPECT_LE(rivals[1].memory_bytes, worker.memory_bytes);
  int dim = 0, ffn_dim = 0;
  ASSERT_EQ(std::sscanf(rivals[1].size.c_str(), "dim %d of 768, ffn_dim %d", &dim, &ffn_dim), 2);
  const PlanReport::Rival wider = Dense(
      12, {absl::StrCat("model.dim=", dim + 24), absl::StrCat("model.ffn_dim=", ffn_dim + 64)});
  EXPECT_TRUE(wider.macs > worker.macs || wider.memory_bytes > worker.memory_bytes);
}

TEST(DenseRivalsTest, CoverageOne_IsTheModelItself) {
  const Planned planned = MakePlanned({"sdp.coverage=1"});
  const std::vector<PlanReport::Rival> rivals = Rivals(planned);
  ASSERT_THAT(rivals, SizeIs(2));
  EXPECT_EQ(rivals[0].size, "12 of 12 layers");
  EXPECT_EQ(rivals[1].size, "dim 768 of 768, ffn_dim 2048 of 2048");
  for (const PlanReport::Rival& rival : rivals) {
    EXPECT_EQ(rival.macs, planned.report.workers.front().macs);
    EXPECT_EQ(rival.memory_bytes, planned.report.workers.front().memory_bytes);
  }
}

// Depths and kinds of the full model are not the rival's.
TEST(DenseRivalsTest, UnequalCoverage_RivalIsDense) {
  const Planned planned =
      MakePlanned({"sdp.depth=[1, 0.5, 0.25, 0.25]", "sdp.coverage_by={attention=0.5}"});
  const std::vector<PlanReport::Rival> rivals = Rivals(planned);
  ASSERT_THAT(rivals, SizeIs(2));
  EXPECT_EQ(rivals[0].size, "6 of 12 layers");
}

// Nor are its phases, whose depths a model of fewer layers does not have.
TEST(DenseRivalsTest, Phases_RivalIsDense) {
  const std::vector<PlanReport::Rival> rivals =
      Rivals(MakePlanned({"sdp.phases=[{from=10, depth=[1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]}]"}));
  ASSERT_THAT(rivals, SizeIs(2));
  EXPECT_EQ(rivals[0].size, "6 of 12 layers");
}

// What the worker with most has: of products, and of memory.
struct Most {
  int64_t macs = 0, memory = 0;

  explicit Most(const Planned& planned) {
    for (const PlanReport::Worker& worker : planned.report.workers) {
      macs = std::max(macs, worker.macs);
      memory = std::max(memory, worker.memory_bytes);
    }
  }
  // The last of the sizes with which a dense model of images needs no more.
  std::string LargestThatFits(const std::string& preset, const char* key,
                              const std::vector<std::string>& sizes) const {
    std::string fits = "none";
    for (const std::string& size : sizes) {
      const Planned dense =
          MakePlanned({preset, absl::StrCat(key, "=", size), "sdp.coverage=1"}, kImages);
      const PlanReport::Worker& worker = dense.report.workers.front();
      if (worker.macs <= macs && worker.memory_bytes <= memory) fits = size;
    }
    return fits;
  }
};

// Among all smaller ones, from the least on.
TEST(DenseRivalsTest, HalfOfResnet_IsTheLargestThatFits) {
  const std::string preset = "model.preset=resnet-cifar";
  const Planned planned = MakePlanned({preset}, kImages);
  const Most most(planned);
  const std::vector<PlanReport::Rival> rivals = Rivals(planned);
  ASSERT_THAT(rivals, SizeIs(2));
  EXPECT_EQ(rivals[0].name, "fewer blocks");
  const std::string depths = most.LargestThatFits(
      preset, "model.depths",
      {"[1, 1, 1]", "[2, 1, 1]", "[2, 2, 1]", "[2, 2, 2]", "[3, 2, 2]", "[3, 3, 2]"});
  EXPECT_EQ(rivals[0].size, absl::StrCat("depths ", depths, " of [3, 3, 3]"));
  EXPECT_EQ(rivals[1].name, "narrower");
  const std::string widths =
      most.LargestThatFits(preset, "model.widths",
                           {"[8, 8, 8]", "[8, 8, 16]", "[8, 16, 24]", "[8, 16, 32]", "[8, 24, 40]",
                            "[16, 24, 48]", "[16, 32, 56]"});
  EXPECT_EQ(rivals[1].size, absl::StrCat("widths ", widths, " of [16, 32, 64]"));
  for (const PlanReport::Rival& rival : rivals) {
    EXPECT_LE(rival.macs, most.macs);
    EXPECT_LE(rival.memory_bytes, most.memory);
  }
}

TEST(DenseRivalsTest, ResnetAtCoverageOne_IsTheModelItself) {
  const std::vector<PlanReport::Rival> rivals =
      Rivals(MakePlanned({"model.preset=resnet-cifar", "sdp.coverage=1"}, kImages));
  ASSERT_THAT(rivals, SizeIs(2));
  EXPECT_EQ(rivals[0].size, "depths [3, 3, 3] of [3, 3, 3]");
  EXPECT_EQ(rivals[1].size, "widths [16, 32, 64] of [16, 32, 64]");
}

// Of heads 4, 8 and 16 the widths of all levels are multiples where dim is one of 4. One block of
// each level needs more memory than a worker of parts, which has half of a branch's scores.
TEST(DenseRivalsTest, HalfOfSwin_IsTheLargestThatFits) {
  const std::string preset = "model.preset=swin-cifar";
  const std::vector<std::string> dims = {"4",  "8",  "12", "16", "20", "24",
                                         "28", "32", "36", "40", "44"};
  for (const std::string granularity : {"block", "neuron"}) {
    const Planned planned = MakePlanned({preset, "sdp.granularity=" + granularity}, kImages);
    const Most most(planned);
    const std::string depths =
        most.LargestThatFits(preset, "model.depths", {"[1, 1, 1]", "[2, 1, 1]", "[2, 2, 1]"});
    const std::string dim = most.LargestThatFits(preset, "model.dim", dims);
    std::vector<std::string> sizes;
    for (const PlanReport::Rival& rival : Rivals(planned)) sizes.push_back(rival.size);
    std::vector<std::string> expected;
    if (depths != "none") expected.push_back(absl::StrCat("depths ", depths, " of [2, 2, 2]"));
    expected.push_back(absl::StrCat("dim ", dim, " of 48"));
    EXPECT_EQ(sizes, expected) << granularity;
  }
}

TEST(DenseRivalsTest, HalfOfMlp_IsHalfOfItsLayers) {
  const std::vector<PlanReport::Rival> rivals = Rivals(MakePlanned(
      {"model.arch=mlp", "model.dim=16", "model.layers=8", "model.ffn_dim=3200"}, kImages));
  ASSERT_THAT(rivals, SizeIs(2));
  EXPECT_EQ(rivals[0].size, "4 of 8 layers");
  EXPECT_EQ(rivals[1].name, "narrower");
}

TEST(DenseRivalsTest, NothingFits_IsLeftOut) {
  Planned planned = MakePlanned({});
  for (PlanReport::Worker& worker : planned.report.workers) worker.macs = 1;
  EXPECT_THAT(Rivals(planned), IsEmpty());
}

}  // namespace
}  // namespace sdp
