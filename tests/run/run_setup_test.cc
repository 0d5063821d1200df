#include "common/run/run_setup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/config/config.h"

namespace sdp {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

RunConfig Config(const std::vector<std::string>& sets) {
  const absl::StatusOr<LoadedConfig> loaded = LoadConfigText(
      "[model]\npreset = \"llama-tiny\"\n[data]\ntrain = [\"none.txt\"]\n", "test.toml", sets);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? loaded->config : RunConfig();
}

TEST(RunSetupTest, UnknownNames_NameTheKey) {
  RunConfig config = Config({});
  config.mutable_model()->set_arch("lstm");
  EXPECT_THAT(MakeRunSetup(config).status().message(), HasSubstr("model.arch = \"lstm\""));
  config = Config({});
  config.mutable_sdp()->set_unit("head");
  EXPECT_THAT(MakeRunSetup(config).status().message(), HasSubstr("sdp.unit = \"head\""));
  config = Config({});
  config.mutable_sdp()->set_assignment("best");
  const RunSetup setup = *MakeRunSetup(config);
  EXPECT_THAT(PlanInputFrom(setup, {}, 0).status().message(), HasSubstr("sdp.assignment"));
  config = Config({});
  config.mutable_worker()->set_memory("much");
  EXPECT_THAT(RanksFrom(config).status().message(), HasSubstr("worker.memory"));
}

TEST(RunSetupTest, MoreHoldersThanWorkers_InvalidArgument) {
  RunConfig config = Config({});
  config.mutable_sdp()->clear_coverage();
  config.mutable_sdp()->set_holders(5);
  EXPECT_EQ(MakeRunSetup(config).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MakeRunSetup(config).status().message(), HasSubstr("more than the 4 workers"));
  config.mutable_sdp()->set_holders(0);
  EXPECT_EQ(MakeRunSetup(config).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(RunSetupTest, LlamaTiny_SizesUnitsAndLayout) {
  const RunConfig config = Config({"data.seq_len=33"});
  const RunSetup setup = *MakeRunSetup(config);
  const LlamaSpec llama = std::get<LlamaSpec>(setup.model);
  EXPECT_EQ(setup.terms_per_sample, 33);
  EXPECT_EQ(llama.dim, 128);
  EXPECT_EQ(llama.kv_heads, 2);
  EXPECT_EQ(llama.vocab, 256);
  EXPECT_EQ(llama.rope_theta, 1e4);
  EXPECT_EQ(llama.norm_eps, 1e-5);
  EXPECT_FALSE(llama.tied);
  EXPECT_EQ(setup.catalog.units.size(), 10u);  // 4 x 2 sub-layers, embedding, head.
  EXPECT_EQ(setup.layout.elements(), setup.catalog.params());
  EXPECT_EQ(setup.config_hash, ConfigHash(config));
  // MLP: 3 d f multiply-accumulates per token.
  EXPECT_EQ(setup.catalog.units[2].macs, 33 * 3 * 128 * 344);
  EXPECT_EQ(MakeRunSetup(Config({"sdp.unit=\"layer\""}))->catalog.units.size(), 6u);
}

TEST(RunSetupTest, Neurons_AreTheConfigsParts) {
  const RunConfig config = Config({"sdp.granularity=neuron", "sdp.groups=10"});
  // Per layer 2 kv heads, 10 groups and two norms; embedding, head.
  EXPECT_EQ(MakeRunSetup(config)->catalog.units.size(), 4u * 14 + 2);
  const RunConfig whole =
      Config({"sdp.granularity=neuron", "sdp.groups=10", "sdp.attention=shared"});
  EXPECT_EQ(MakeRunSetup(whole)->catalog.units.size(), 4u * 12 + 2);
  RunConfig bad = config;
  bad.mutable_sdp()->set_granularity("atom");
  EXPECT_THAT(MakeRunSetup(bad).status().message(), HasSubstr("sdp.granularity = \"atom\""));
  bad = config;
  bad.mutable_sdp()->set_attention("none");
  EXPECT_THAT(MakeRunSetup(bad).status().message(), HasSubstr("sdp.attention = \"none\""));
  bad = config;
  bad.mutable_sdp()->set_groups(0);
  EXPECT_THAT(MakeRunSetup(bad).status().message(), HasSubstr("sdp.groups = 0"));
}

TEST(RunSetupTest, NeuronsOfImages_AreTheConfigsParts) {
  const RunConfig config = Config(
      {"data.kind=cifar10", "model.preset=resnet-cifar", "sdp.granularity=neuron", "sdp.groups=4"});
  // Of each of 9 blocks 4 parts and a norm, two projections, stem, head.
  EXPECT_EQ(MakeRunSetup(config)->catalog.units.size(), 9u * 5 + 2 + 2);
  RunConfig bad = config;
  bad.mutable_sdp()->set_groups(9);
  EXPECT_THAT(MakeRunSetup(bad).status().message(),
              HasSubstr("sdp.groups = 9: must be in [1, model.norm_groups = 8]"));
}

TEST(RunSetupTest, Images_CatalogTermsAndMemory) {
  const std::vector<std::string> sets = {"data.kind=cifar10", "model.preset=resnet18"};
  const RunSetup setup = *MakeRunSetup(Config(sets));
  EXPECT_EQ(setup.catalog.arch, "resnet");
  EXPECT_EQ(setup.terms_per_sample, 1);
  EXPECT_EQ(setup.catalog.params(), 11173962);
  EXPECT_NE(MemoryModelFrom(setup).stages, nullptr);
  RunConfig config = Config(sets);
  config.mutable_model()->set_norm("layer");
  EXPECT_THAT(MakeRunSetup(config).status().message(), HasSubstr("model.norm = \"layer\""));
  config = Config(sets);
  config.mutable_model()->set_stem("none");
  EXPECT_THAT(MakeRunSetup(config).status().message(), HasSubstr("model.stem = \"none\""));
}

TEST(RunSetupTest, FolderOfImages_HasTorchvisionsResnet) {
  const RunSetup setup = *MakeRunSetup(Config(
      {"data.kind=images", "model.preset=resnet18", "model.classes=1000", "model.norm=batch"}));
  EXPECT_EQ(setup.catalog.params(), 11689512);  // as torchvision counts resnet18's
  EXPECT_EQ(std::get<ResnetSpec>(setup.model).image_size, 224);
  int64_t macs = 0;
  for (const UnitSpec& unit : setup.catalog.units) macs += unit.macs;
  EXPECT_NEAR(static_cast<double>(macs), 1.814e9, 1e6);  // and its products
}

TEST(RunSetupTest, Swin_CutAsTheConfigSays) {
  const auto units = [](const std::vector<std::string>& more) {
    std::vector<std::string> sets = {"data.kind=cifar10", "model.preset=swin-cifar"};
    sets.insert(sets.end(), more.begin(), more.end());
    const absl::StatusOr<RunSetup> setup = MakeRunSetup(Config(sets));
    EXPECT_TRUE(setup.ok()) << setup.status();
    EXPECT_EQ(setup->catalog.arch, "swin");
    return setup->catalog.units.size();
  };
  // Patches, two merges and head, and per block two sub-layers, or one layer, or the parts of both.
  EXPECT_EQ(units({}), 4u + 2 * 6);
  EXPECT_EQ(units({"sdp.unit=layer"}), 4u + 6);
  EXPECT_EQ(units({"sdp.granularity=neuron"}), 4u + 2 * (4 + 8 + 16) + 6 * (2 + 24));
  EXPECT_EQ(units({"sdp.granularity=neuron", "sdp.attention=shared", "sdp.groups=8"}),
            4u + 6 * (1 + 1 + 8));
  EXPECT_EQ(units({"sdp.depth=[1, 0.5]", "sdp.coverage_by={mlp=0.5}"}), 4u + 2 * 6);
}

// Of the first level there are four heads.
TEST(RunSetupTest, Swin_FewHeads_AreRefused) {
  const std::vector<std::string> sets = {"data.kind=cifar10", "model.preset=swin-cifar",
                                         "sdp.granularity=neuron", "cluster.workers=8",
                                         "sdp.coverage=0.125"};
  const absl::Status status = MakeRunSetup(Config(sets)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(),
              HasSubstr("model.level_heads = 4, so level1.0.attention has as many parts"));
  EXPECT_THAT(status.message(), HasSubstr("sdp.attention = \"shared\""));
}

TEST(RunSetupTest, Precision_HalvesThePlansBytes) {
  EXPECT_EQ(MakeRunSetup(Config({}))->precision, WireType::kF32);
  const RunSetup setup = *MakeRunSetup(Config({"train.precision=bf16"}));
  EXPECT_EQ(setup.precision, WireType::kBf16);
  EXPECT_EQ(ElementBytesFrom(setup.precision).weight, 2);
  EXPECT_EQ(ElementBytesFrom(setup.precision).gradient, 2);
  RunConfig config = Config({});
  config.mutable_train()->set_precision("fp8");
  EXPECT_THAT(MakeRunSetup(config).status().message(), HasSubstr("train.precision = \"fp8\""));
}

TEST(RunSetupTest, Rescale_ByItsName) {
  EXPECT_EQ(MakeRunSetup(Config({}))->rescale, Rescale::kEval);
  EXPECT_EQ(MakeRunSetup(Config({"sdp.rescale=none"}))->rescale, Rescale::kNone);
  EXPECT_EQ(MakeRunSetup(Config({"sdp.rescale=inverted"}))->rescale, Rescale::kInverted);
  EXPECT_EQ(MakeRunSetup(Config({"sdp.rescale=sqrt"}))->rescale, Rescale::kSqrt);
  RunConfig config = Config({});
  config.mutable_sdp()->set_rescale("mean");
  EXPECT_THAT(MakeRunSetup(config).status().message(), HasSubstr("sdp.rescale = \"mean\""));
}

TEST(RunSetupTest, BackwardMasking_HasNoFactors) {
  EXPECT_EQ(MakeRunSetup(Config({}))->masking, Masking::kForward);
  const RunSetup setup = *MakeRunSetup(Config({"sdp.masking=backward"}));
  EXPECT_EQ(setup.masking, Masking::kBackward);
  EXPECT_EQ(setup.rescale, Rescale::kNone);
  EXPECT_EQ(MemoryModelFrom(setup).masking, Masking::kBackward);
  RunConfig config = Config({});
  config.mutable_sdp()->set_masking("sideways");
  EXPECT_THAT(MakeRunSetup(config).status().message(), HasSubstr("sdp.masking = \"sideways\""));
}

TEST(RunSetupTest, HoldersAreASharePerWorkerCount) {
  RunConfig config = Config({"cluster.workers=8"});
  config.mutable_sdp()->clear_coverage();
  config.mutable_sdp()->set_holders(3);
  const RunSetup setup = *MakeRunSetup(config);
  EXPECT_EQ(setup.coverage.front(), 1);
  EXPECT_EQ(setup.coverage[1], 0.375);
  EXPECT_EQ(setup.coverage.back(), 1);
}

TEST(RunSetupTest, CoverageByKindAndDepth_PerUnit) {
  const RunSetup setup =
      *MakeRunSetup(Config({"sdp.depth=[1, 0.25]", "sdp.coverage_by={attention=0.75}"}));
  EXPECT_THAT(setup.coverage, ElementsAre(1, .75, 1, .75, .75, .75, .5, .75, .25, 1));
  RunConfig config = Config({"sdp.coverage_by={layer=0.5}"});
  const absl::Status status = MakeRunSetup(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("[sdp]"));
  EXPECT_THAT(status.message(), HasSubstr("\"layer\""));
  config = Config({"sdp.coverage_by={layer=0.5}", "sdp.unit=layer"});
  EXPECT_TRUE(MakeRunSetup(config).ok());
}

TEST(RunSetupTest, PlanInput_FromConfig) {
  const RunConfig config =
      Config({"train.seed=9", "worker.memory=\"6GiB\"", "sdp.assignment=\"cyclic\""});
  const RunSetup setup = *MakeRunSetup(config);
  const PlanInput input = *PlanInputFrom(setup, *RanksFrom(config), 5);
  EXPECT_EQ(input.catalog, &setup.catalog);
  EXPECT_EQ(input.seed, 9u);
  EXPECT_EQ(input.rotation, 5);
  EXPECT_EQ(input.assignment, Assignment::kCyclic);
  ASSERT_EQ(input.ranks.size(), 4u);
  EXPECT_EQ(input.ranks[3].name, "worker-3");
  EXPECT_THAT(input.ranks, Each(::testing::Field(&Rank::memory_bytes, int64_t{6} << 30)));
  EXPECT_TRUE(MakePlan(input).ok());
}

TEST(RunSetupTest, RotationAt_WholePeriods) {
  RunConfig config = Config({"sdp.rotate_every=10"});
  EXPECT_EQ(RotationAt(config.sdp(), 0), 0);
  EXPECT_EQ(RotationAt(config.sdp(), 9), 0);
  EXPECT_EQ(RotationAt(config.sdp(), 10), 1);
  config.mutable_sdp()->set_rotate_every(0);
  EXPECT_EQ(RotationAt(config.sdp(), 1000), 0);
}

}  // namespace
}  // namespace sdp
