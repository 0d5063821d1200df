// What a good config becomes: defaults, presets, overrides, and the text that shows them.
#include "common/config/config.h"

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/config/rules.h"
#include "common/config/toml_reader.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "proto/config.pb.h"
#include "tests/data/files.h"

namespace sdp {
namespace {

using ::google::protobuf::util::MessageDifferencer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kMinimal[] = "[model]\npreset = 'llama-tiny'\n[data]\ntrain = ['a.txt']\n";
constexpr char kArch[] =
    "[model]\narch = 'llama'\ndim = 64\nlayers = 2\nheads = 4\nffn_dim = 96\n"
    "[data]\ntrain = ['a.txt']\n";

constexpr char kImages[] =
    "[model]\npreset = 'resnet18'\n[data]\nkind = 'cifar100'\ntrain = ['train.bin']\n";

LoadedConfig Load(const std::string& text, const std::vector<std::string>& sets = {}) {
  auto loaded = LoadConfigText(text, "run.toml", sets);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? *loaded : LoadedConfig();
}

RunConfig::Model PresetModel(const std::string& name) {
  return Load(kMinimal, {absl::StrCat("model.preset=", name)}).config.model();
}

TEST(RulesTest, RulesAndProto_NameTheSameKeysInTheSameOrder) {
  std::vector<std::string> fields;
  std::vector<std::string> keys;
  const auto* const config = RunConfig::descriptor();
  for (int i = 0; i < config->field_count(); ++i) {
    const auto* const section = config->field(i)->message_type();
    for (int j = 0; j < section->field_count(); ++j) {
      fields.push_back(absl::StrCat(config->field(i)->name(), ".", section->field(j)->name()));
    }
  }
  for (const config::Rule& rule : config::Rules()) keys.emplace_back(rule.key);
  EXPECT_EQ(keys, fields);
}

TEST(RulesTest, EveryDefault_IsAllowed) {
  for (const config::Rule& rule : config::Rules()) {
    EXPECT_FALSE(rule.help.empty()) << rule.key;
    EXPECT_FALSE(config::Allowed(rule).empty()) << rule.key;
    if (rule.fallback.empty()) continue;
    const auto value = config::ReadValue(rule.fallback);
    ASSERT_TRUE(value.ok()) << rule.key;
    EXPECT_EQ(config::CheckValue(rule, *value), "");
  }
}

TEST(ConfigTest, Defaults_AreThoseOfTheDesign) {
  const RunConfig config = Load(kMinimal).config;
  EXPECT_EQ(config.model().rope_theta(), 1e4);
  EXPECT_EQ(config.model().norm_eps(), 1e-5);
  EXPECT_FALSE(config.model().tied());
  EXPECT_EQ(config.sdp().masking(), "forward");
  EXPECT_EQ(config.sdp().granularity(), "block");
  EXPECT_EQ(config.sdp().unit(), "sublayer");
  EXPECT_EQ(config.sdp().coverage(), 0.5);
  EXPECT_FALSE(config.sdp().has_holders());
  EXPECT_EQ(config.sdp().assignment(), "resolvable");
  EXPECT_EQ(config.sdp().rescale(), "eval");
  EXPECT_EQ(config.sdp().rotate_every(), 0);
  EXPECT_EQ(config.data().kind(), "text");
  EXPECT_THAT(config.data().train(), ElementsAre("a.txt"));
  EXPECT_THAT(config.data().validation(), IsEmpty());
  EXPECT_EQ(config.data().seq_len(), 256);
  EXPECT_TRUE(config.data().shuffle());
  EXPECT_EQ(config.cluster().workers(), 4);
  EXPECT_EQ(config.cluster().shards(), 2);
  EXPECT_EQ(config.worker().device(), "cpu");
  EXPECT_EQ(config.worker().threads(), 0);
  EXPECT_EQ(config.worker().memory(), "");
  EXPECT_EQ(config.run().dir(), "runs/first");
}

TEST(ConfigTest, GivenKeys_AreThoseOfFileAndSets) {
  const std::string path = WriteFile("given.toml", "[model]\n[train]\nlr = 1\nno_key = 7\n");
  const auto keys = GivenKeys(path, {"data.seq_len=8", "train.lr=2"});
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_THAT(*keys, ElementsAre("data.seq_len", "train.lr", "train.no_key"));
  EXPECT_FALSE(GivenKeys(path, {"data"}).ok());
  EXPECT_EQ(GivenKeys("nowhere.toml", {}).status().code(), absl::StatusCode::kNotFound);
}

TEST(ConfigTest, NeuronGranularity_HasDefaultsOfItsOwn) {
  const RunConfig::Sdp block = Load(kMinimal).config.sdp();
  EXPECT_FALSE(block.has_attention());
  EXPECT_FALSE(block.has_groups());
  const RunConfig::Sdp neuron =
      Load(absl::StrCat(kMinimal, "[sdp]\ngranularity = 'neuron'\n")).config.sdp();
  EXPECT_EQ(neuron.attention(), "split");
  EXPECT_EQ(neuron.groups(), 24);
  // Of a block of a resnet each group of its norm.
  const RunConfig::Sdp images = Load(kImages, {"sdp.granularity=neuron"}).config.sdp();
  EXPECT_FALSE(images.has_attention());
  EXPECT_EQ(images.groups(), 32);
}

TEST(ConfigTest, DefaultsOfTrain_AreThoseOfTheDesign) {
  const RunConfig::Train train = Load(kMinimal).config.train();
  EXPECT_EQ(train.steps(), 1000);
  EXPECT_EQ(train.global_batch(), 32);
  EXPECT_EQ(train.micro_batch(), 0);
  EXPECT_EQ(train.precision(), "f32");
  EXPECT_EQ(train.optimizer(), "adamw");
  EXPECT_EQ(train.lr(), 3e-4);
  EXPECT_EQ(train.weight_decay(), 0.1);
  EXPECT_THAT(train.betas(), ElementsAre(0.9, 0.95));
  EXPECT_EQ(train.eps(), 1e-8);
  EXPECT_EQ(train.momentum(), 0.9);
  EXPECT_FALSE(train.nesterov());
  EXPECT_EQ(train.schedule(), "constant");
  EXPECT_EQ(train.warmup_steps(), 0);
  EXPECT_EQ(train.decay_fraction(), 0.2);
  EXPECT_EQ(train.clip_norm(), 0);
  EXPECT_EQ(train.eval_every(), 100);
  EXPECT_EQ(train.eval_samples(), 0);
  EXPECT_EQ(train.seed(), 0);
}

TEST(ConfigTest, Presets_GiveAllSizes) {
  struct Sizes {
    const char* name;
    int64_t dim, layers, heads, kv_heads, ffn_dim, vocab;
  };
  for (const Sizes& want : {Sizes{"llama-tiny", 128, 4, 4, 2, 344, 256},
                            Sizes{"llama-134m", 768, 12, 12, 12, 2048, 32000},
                            Sizes{"llama-500m", 1280, 24, 20, 20, 3456, 32000},
                            Sizes{"llama-1b", 2048, 24, 32, 32, 5461, 32000}}) {
    const RunConfig::Model model = PresetModel(want.name);
    EXPECT_EQ(model.preset(), want.name);
    EXPECT_EQ(model.arch(), "llama") << want.name;
    EXPECT_EQ(model.dim(), want.dim) << want.name;
    EXPECT_EQ(model.layers(), want.layers) << want.name;
    EXPECT_EQ(model.heads(), want.heads) << want.name;
    EXPECT_EQ(model.kv_heads(), want.kv_heads) << want.name;
    EXPECT_EQ(model.ffn_dim(), want.ffn_dim) << want.name;
    EXPECT_EQ(model.vocab(), want.vocab) << want.name;
    EXPECT_FALSE(model.tied()) << want.name;
  }
}

TEST(ConfigTest, ImagePresets_GiveAllSizes) {
  const LoadedConfig loaded = Load(kImages);
  const RunConfig::Model& model = loaded.config.model();
  EXPECT_EQ(model.arch(), "resnet");
  EXPECT_THAT(model.widths(), ElementsAre(64, 128, 256, 512));
  EXPECT_THAT(model.depths(), ElementsAre(2, 2, 2, 2));
  EXPECT_EQ(model.stem(), "cifar");
  EXPECT_EQ(model.activation(), "post");
  EXPECT_EQ(model.norm(), "group");
  EXPECT_EQ(model.norm_groups(), 32);
  EXPECT_EQ(model.norm_eps(), 1e-5);
  EXPECT_EQ(model.classes(), 100);
  EXPECT_EQ(model.image_size(), 32);
  EXPECT_EQ(loaded.origins.at("model.classes"), "default: data.kind");
  // What a resnet does not have is not there.
  for (const char* const key : {"model.dim", "model.kv_heads", "model.tied", "data.seq_len"}) {
    EXPECT_FALSE(loaded.origins.contains(key)) << key;
  }
  const RunConfig::Model small =
      Load(kImages, {"model.preset=resnet-cifar", "data.kind=cifar10", "model.depths=[1, 1, 2]"})
          .config.model();
  EXPECT_THAT(small.widths(), ElementsAre(16, 32, 64));
  EXPECT_THAT(small.depths(), ElementsAre(1, 1, 2));
  EXPECT_EQ(small.classes(), 10);
  // Nine images of four workers: 3, 2, 2 and 2.
  Load(kImages, {"model.norm=batch", "train.global_batch=9"});
  Load(kImages, {"model.norm=batch", "train.global_batch=32", "train.micro_batch=2"});
}

// What a folder of images leaves open is said, or follows from there being ImageNet's kind.
TEST(ConfigTest, FolderOfImages_TakesSizesAndTheStemOfImagenet) {
  const std::vector<std::string> sets = {"data.kind=images", "data.train=['train']",
                                         "model.classes=12"};
  const LoadedConfig loaded = Load(kImages, sets);
  const RunConfig::Model& model = loaded.config.model();
  EXPECT_EQ(model.image_size(), 224);
  EXPECT_EQ(model.classes(), 12);
  EXPECT_EQ(model.stem(), "imagenet");
  EXPECT_EQ(loaded.origins.at("model.stem"), "default: data.kind");
  std::vector<std::string> more = sets;
  more.insert(more.end(), {"model.image_size=64", "model.stem=cifar"});
  const RunConfig::Model small = Load(kImages, more).config.model();
  EXPECT_EQ(small.image_size(), 64);
  EXPECT_EQ(small.stem(), "cifar");
}

TEST(ConfigTest, SwinPresets_GiveAllSizes) {
  const RunConfig::Model small =
      Load(kImages, {"model.preset=swin-cifar", "model.window=2"}).config.model();
  EXPECT_EQ(small.arch(), "swin");
  EXPECT_EQ(small.dim(), 48);
  EXPECT_THAT(small.depths(), ElementsAre(2, 2, 2));
  EXPECT_THAT(small.level_heads(), ElementsAre(4, 8, 16));
  EXPECT_EQ(small.window(), 2);
  EXPECT_EQ(small.patch(), 2);
  EXPECT_EQ(small.mlp_ratio(), 4);
  EXPECT_EQ(small.norm_eps(), 1e-5);
  EXPECT_EQ(small.classes(), 100);
  // With windows that fit images of 32 x 32 pixels: 8 x 8 tokens to 1 x 1.
  const RunConfig::Model large =
      Load(kImages, {"model.preset=swin-t", "model.window=1"}).config.model();
  EXPECT_EQ(large.dim(), 96);
  EXPECT_THAT(large.depths(), ElementsAre(2, 2, 6, 2));
  EXPECT_THAT(large.level_heads(), ElementsAre(3, 6, 12, 24));
  EXPECT_EQ(large.patch(), 4);
  EXPECT_EQ(large.classes(), 1000);
}

TEST(ConfigTest, MlpOfImages_TakesItsSizes) {
  const RunConfig::Model model = Load(
                                     "[model]\narch = 'mlp'\ndim = 12\nlayers = 3\nffn_dim = 20\n"
                                     "[data]\nkind = 'cifar10'\ntrain = ['a.bin']\n")
                                     .config.model();
  EXPECT_EQ(model.dim(), 12);
  EXPECT_EQ(model.classes(), 10);
  EXPECT_FALSE(model.has_stem());
}

TEST(ConfigTest, Preset134m_Has134MillionParameters) {
  const RunConfig::Model m = PresetModel("llama-134m");
  const int64_t layer = 4 * m.dim() * m.dim() + 3 * m.dim() * m.ffn_dim() + 2 * m.dim();
  const int64_t all = 2 * m.vocab() * m.dim() + m.layers() * layer + m.dim();
  EXPECT_NEAR(static_cast<double>(all), 134.1e6,
              0.05e6);  // method.md section 6, to its last digit.
}

TEST(ConfigTest, KeysBesideAPreset_Override) {
  const LoadedConfig loaded = Load(
      "[model]\nlayers = 6\ntied = true\npreset = 'llama-134m'\nheads = 6\n[data]\ntrain = "
      "['a']\n");
  EXPECT_EQ(loaded.config.model().layers(), 6);
  EXPECT_TRUE(loaded.config.model().tied());
  EXPECT_EQ(loaded.config.model().dim(), 768);
  EXPECT_EQ(loaded.config.model().kv_heads(), 6) << "not given by the preset: follows heads";
  EXPECT_EQ(loaded.origins.at("model.layers"), "run.toml:2");
  EXPECT_EQ(loaded.origins.at("model.dim"), "preset llama-134m");
  EXPECT_EQ(loaded.origins.at("train.lr"), "default");
}

TEST(ConfigTest, Arch_TakesItsDefaults) {
  const RunConfig::Model model = Load(kArch).config.model();
  EXPECT_EQ(model.preset(), "");
  EXPECT_EQ(model.kv_heads(), 4);
  EXPECT_EQ(model.vocab(), 256);
  EXPECT_EQ(model.rope_theta(), 1e4);
  EXPECT_EQ(Load(kArch, {"data.kind=tokens", "model.vocab=50257"}).config.model().vocab(), 50257);
}

TEST(ConfigTest, Holders_ReplaceTheDefaultCoverage) {
  const LoadedConfig loaded = Load(kMinimal, {"sdp.holders=4"});
  EXPECT_EQ(loaded.config.sdp().holders(), 4);
  EXPECT_FALSE(loaded.config.sdp().has_coverage());
  EXPECT_FALSE(loaded.origins.contains("sdp.coverage"));
}

TEST(ConfigTest, Depth_ReplacesTheDefaultCoverage) {
  const LoadedConfig loaded = Load(kMinimal, {"sdp.depth=[1, 0.5, 0.25]"});
  EXPECT_THAT(loaded.config.sdp().depth(), ElementsAre(1, 0.5, 0.25));
  EXPECT_FALSE(loaded.config.sdp().has_coverage());
  EXPECT_FALSE(loaded.origins.contains("sdp.coverage"));
}

TEST(ConfigTest, CoverageBy_AllWaysToWriteATable) {
  const std::string sdp = absl::StrCat(kMinimal, "[sdp]\n");
  for (const LoadedConfig& loaded :
       {Load(absl::StrCat(sdp, "coverage_by = { mlp = 0.5, attention = 1 }")),
        Load(absl::StrCat(sdp, "coverage_by.attention = 1.0\ncoverage_by.mlp = 0.5")),
        Load(absl::StrCat(kMinimal, "[sdp.coverage_by]\nattention = 1\nmlp = 0.5")),
        Load(kMinimal, {"sdp.coverage_by = { attention = 1, mlp = 0.5 }"})}) {
    ASSERT_EQ(loaded.config.sdp().coverage_by_size(), 2);
    EXPECT_EQ(loaded.config.sdp().coverage_by().at("attention"), 1);
    EXPECT_EQ(loaded.config.sdp().coverage_by().at("mlp"), 0.5);
    EXPECT_EQ(loaded.config.sdp().coverage(), 0.5) << "of the other kinds";
    EXPECT_THAT(PrintConfig(loaded), HasSubstr("coverage_by = { attention = 1.0, mlp = 0.5 }"));
  }
}

TEST(ConfigTest, Phases_BothWaysToWriteThem) {
  const std::string both[] = {
      "[sdp]\nphases = [{ from = 0, coverage = 1 },\n"
      "  { from = 20, depth = [1, 0.5], coverage_by = { mlp = 0.75 } }]\n",
      "[[sdp.phases]]\nfrom = 0\ncoverage = 1\n"
      "[[sdp.phases]]\nfrom = 20\ndepth = [1, 0.5]\ncoverage_by.mlp = 0.75\n"};
  for (const std::string& text : both) {
    const LoadedConfig loaded = Load(absl::StrCat(kMinimal, text));
    ASSERT_EQ(loaded.config.sdp().phases_size(), 2);
    EXPECT_EQ(loaded.config.sdp().phases(0).from(), 0);
    EXPECT_EQ(loaded.config.sdp().phases(0).coverage(), 1);
    EXPECT_EQ(loaded.config.sdp().phases(1).from(), 20);
    EXPECT_FALSE(loaded.config.sdp().phases(1).has_coverage());
    EXPECT_THAT(loaded.config.sdp().phases(1).depth(), ElementsAre(1, 0.5));
    EXPECT_EQ(loaded.config.sdp().phases(1).coverage_by().at("mlp"), 0.75);
    EXPECT_THAT(PrintConfig(loaded),
                HasSubstr("phases = [{ from = 0, coverage = 1.0 }, { from = 20, depth = [1.0, 0.5],"
                          " coverage_by = { mlp = 0.75 } }]"));
  }
}

TEST(ConfigTest, Coverage_OneAndOneOverWorkersAreAllowed) {
  EXPECT_EQ(Load(kMinimal, {"sdp.coverage=1"}).config.sdp().coverage(), 1);
  EXPECT_EQ(Load(kMinimal, {"sdp.coverage=0.25"}).config.sdp().coverage(), 0.25);
  Load(kMinimal, {"sdp.coverage=0.333333", "cluster.workers=3"});
}

TEST(ConfigTest, Set_ReadsTomlAndBareWords) {
  const RunConfig config =
      Load(kMinimal, {"train.lr=1e-3", "train.lr = 2e-3", "data.validation=['b.txt', \"c.txt\"]",
                      "run.dir=runs/my second", "train.optimizer=sgd", "data.shuffle=false",
                      "worker.memory=6GiB", "train.betas=[0, 0.5]", "sdp.unit=\"layer\""})
          .config;
  EXPECT_EQ(config.train().lr(), 2e-3) << "the last one wins";
  EXPECT_THAT(config.data().validation(), ElementsAre("b.txt", "c.txt"));
  EXPECT_EQ(config.run().dir(), "runs/my second");
  EXPECT_EQ(config.train().optimizer(), "sgd");
  EXPECT_FALSE(config.data().shuffle());
  EXPECT_EQ(config.worker().memory(), "6GiB");
  EXPECT_THAT(config.train().betas(), ElementsAre(0, 0.5));
  EXPECT_EQ(config.sdp().unit(), "layer");
}

TEST(ConfigTest, Set_TextKeyTakesWhatLooksLikeANumberOrADate) {
  EXPECT_EQ(Load(kMinimal, {"run.dir=7"}).config.run().dir(), "7");
  EXPECT_EQ(Load(kMinimal, {"run.dir=2026-01-02"}).config.run().dir(), "2026-01-02");
  EXPECT_EQ(Load(kMinimal, {"run.dir=a=b"}).config.run().dir(), "a=b");
  EXPECT_EQ(Load(kMinimal, {"worker.memory="}).config.worker().memory(), "");
}

TEST(ConfigTest, Set_OverridesTheFile) {
  const LoadedConfig loaded =
      Load(absl::StrCat(kMinimal, "[train]\nsteps = 5\nseed = 9223372036854775807\n"),
           {"train.steps=7"});
  EXPECT_EQ(loaded.config.train().steps(), 7);
  EXPECT_EQ(loaded.origins.at("train.steps"), "--set");
  EXPECT_EQ(loaded.origins.at("train.seed"), "run.toml:7");
  EXPECT_EQ(loaded.config.train().seed(), INT64_MAX);
}

TEST(ConfigTest, Toml_WindowsLineEndsAndDottedKeys) {
  const LoadedConfig loaded =
      Load("model.preset = 'llama-tiny'\r\ndata.train = ['a']\r\ntrain.lr = 1\r\n[worker]\r\n");
  EXPECT_EQ(loaded.config.train().lr(), 1);
  EXPECT_EQ(loaded.origins.at("train.lr"), "run.toml:3");
}

TEST(PrintConfigTest, ShowsEveryValueAndItsOrigin) {
  const LoadedConfig loaded = Load(kMinimal, {"train.lr=1e-3"});
  const std::string text = PrintConfig(loaded);
  std::set<std::string> lines;
  for (const auto line : absl::StrSplit(text, '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    lines.insert(absl::StrJoin(words, " "));
  }
  for (const char* const line :
       {"preset = \"llama-tiny\" # run.toml:2", "# arch = \"llama\" # preset llama-tiny",
        "dim = 128 # preset llama-tiny", "rope_theta = 10000.0 # default", "lr = 0.001 # --set",
        "eps = 1e-8 # default", "betas = [0.9, 0.95] # default", "validation = [] # default"}) {
    EXPECT_TRUE(lines.contains(line)) << line << "\n" << text;
  }
  for (const auto& [key, origin] : loaded.origins) {
    const std::string name = key.substr(key.find('.') + 1);
    EXPECT_THAT(text, HasSubstr(absl::StrCat(name, " = "))) << origin;
  }
}

TEST(PrintConfigTest, LoadsAsTheSameConfig) {
  const std::string odd = "[run]\ndir = \"q\\\" \\\\ \\n \\u0001 \\u007f é #\"\n";
  for (const LoadedConfig& loaded :
       {Load(kMinimal), Load(kArch), Load(kImages), Load(absl::StrCat(kMinimal, odd)),
        Load(kMinimal, {"sdp.phases=[{from=1,coverage=1},{from=2,depth=[1,0.5]}]"}),
        Load(kMinimal, {"sdp.depth=[1,0.3]", "sdp.coverage_by={\"a b\"=0.25,mlp=1}"}),
        Load(kMinimal, {"sdp.holders=2", "train.lr=0.1", "train.weight_decay=-0.0",
                        "train.eps=1.2345678901234567e-300", "data.validation=['x', 'y']"})}) {
    const std::string text = PrintConfig(loaded);
    const LoadedConfig again = Load(text);
    EXPECT_TRUE(MessageDifferencer::Equals(loaded.config, again.config)) << text;
    EXPECT_EQ(ConfigHash(loaded.config), ConfigHash(again.config));
  }
}

TEST(PrintConfigTest, FileNameWithLineBreak_StaysInItsComment) {
  const auto loaded = LoadConfigText(kMinimal, "a\nb = 1 #.toml", {});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const LoadedConfig again = Load(PrintConfig(*loaded));
  EXPECT_TRUE(MessageDifferencer::Equals(loaded->config, again.config));
}

TEST(WriteResolvedTest, MissingFolder_Unavailable) {
  const absl::Status status = WriteResolved(Load(kMinimal), ::testing::TempDir() + "/none/c.toml");
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

TEST(WriteResolvedTest, LoadsAsTheSameConfig) {
  const LoadedConfig loaded = Load(kMinimal, {"train.steps=3"});
  const std::string path = ::testing::TempDir() + "/resolved.toml";
  ASSERT_TRUE(WriteResolved(loaded, path).ok());
  const auto again = LoadConfig(path, {});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(MessageDifferencer::Equals(loaded.config, again->config));
  EXPECT_EQ(again->origins.at("model.preset"), absl::StrCat(path, ":2"));
}

TEST(DescribeKeysTest, NamesEveryKey) {
  const std::string text = DescribeKeys();
  EXPECT_THAT(text, HasSubstr("[train]\n"));
  EXPECT_THAT(text, HasSubstr("(a number in (0, 1e6])"));
  EXPECT_THAT(text, HasSubstr("optimizer       \"adamw\""));
}

}  // namespace
}  // namespace sdp
