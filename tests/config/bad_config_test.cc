// Everything a user can get wrong in a config gives one clear message: where, which key, which
// value, what is allowed.
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/config/config.h"
#include "common/config/rules.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

// Line 1 [model], 2 preset, 3 [data], 4 train; what a case adds begins at line 5.
constexpr char kValid[] = "[model]\npreset = 'llama-tiny'\n[data]\ntrain = ['a.txt']\n";
// The same with sizes: line 6 is the case's first.
constexpr char kSizes[] = "[data]\ntrain = ['a.txt']\n[model]\narch = 'llama'\nlayers = 2\n";

struct BadCase {
  std::string name;
  std::string text;
  std::vector<std::string> messages;  // Each must be in the error.
  std::vector<std::string> sets = {};
};

void PrintTo(const BadCase& bad, std::ostream* out) { *out << bad.name; }

std::string Plus(const std::string& more) { return absl::StrCat(kValid, more); }
std::string Sizes(const std::string& more) { return absl::StrCat(kSizes, more); }
// `line`: line 3, in [model].
std::string Resnet(const std::string& line) {
  return absl::StrCat("[model]\npreset = 'resnet-cifar'\n", line,
                      "\n[data]\nkind = 'cifar10'\ntrain = ['a.bin']\n");
}

std::string Swin(const std::string& line) {
  return absl::StrCat("[model]\npreset = 'swin-cifar'\n", line,
                      "\n[data]\nkind = 'cifar10'\ntrain = ['a.bin']\n");
}

class BadConfigTest : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadConfigTest, Load_Refuses) {
  const BadCase& bad = GetParam();
  const auto loaded = LoadConfigText(bad.text, "run.toml", bad.sets);
  ASSERT_FALSE(loaded.ok()) << bad.text;
  EXPECT_TRUE(absl::IsInvalidArgument(loaded.status())) << loaded.status();
  for (const std::string& message : bad.messages) {
    EXPECT_THAT(std::string(loaded.status().message()), HasSubstr(message));
  }
}

std::string NameOf(const ::testing::TestParamInfo<BadCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(
    Names, BadConfigTest,
    ::testing::ValuesIn(std::vector<BadCase>{
        {"MistypedKey",
         Plus("[train]\nglobal_bacth = 8"),
         {"run.toml:6: ", "unknown key train.global_bacth",
          "nearest valid key is train.global_batch"}},
        {"KeyOfAnotherSection",
         Plus("[train]\nseq_len = 8"),
         {"run.toml:6: ", "train.seq_len", "nearest valid key is data.seq_len"}},
        {"NameOfOtherPrograms",
         Plus("[train]\nlearning_rate = 1"),
         {"train.learning_rate", "nearest valid key is train.lr;"}},
        {"ShortUnrelatedKey",
         Plus("[cluster]\ngpus = 1"),
         {"cluster.gpus", "nearest valid key is cluster."}},
        {"UnrelatedKeyListsTheSection",
         Plus("[cluster]\nqqqqqqqqqqqq = 8"),
         {"run.toml:6: ", "cluster.qqqqqqqqqqqq",
          "keys of [cluster]: workers, shards, min_workers, max_workers, portions"}},
        {"MistypedSection", Plus("[trian]\nlr = 1"), {"run.toml:6: ", "[trian]", "[train]"}},
        {"EmptyUnknownSection", Plus("[wroker]"), {"run.toml:5: ", "[wroker]", "[worker]"}},
        {"KeyOutsideSections",
         absl::StrCat("lr = 1\n", kValid),
         {"run.toml:1: lr is outside all sections", "train.lr"}},
        {"LongKey",
         Plus(absl::StrCat("[train]\n", std::string(100000, 'l'), " = 1")),
         {"run.toml:6: unknown key train.lll", "...; the nearest valid key is train."}},
        {"SectionAsKey", absl::StrCat("train = 1\n", kValid), {"run.toml:1: train is a section"}},
        {"ArrayOfSections", Plus("[[train]]\nlr = 1"), {"run.toml:5: train is a section"}},
        {"KeyAsSection", Plus("[train.lr]\nx = 1"), {"train.lr = { x = 1 } is not allowed"}},
        {"DottedKey",
         absl::StrCat("train.lrr = 1\n", kValid),
         {"run.toml:1: ", "unknown key train.lrr"}},
        {"KeyWithLineBreak", Plus("\"a\\nb\" = 1"), {"run.toml:5: unknown key data.a\\nb"}},
    }),
    NameOf);

INSTANTIATE_TEST_SUITE_P(
    Syntax, BadConfigTest,
    ::testing::ValuesIn(std::vector<BadCase>{
        {"TableWithoutName", "[=]\n", {"run.toml:1: not valid TOML"}},
        {"NameBelowItsBracket", "[\nrun]\n", {"run.toml:1: not valid TOML"}},
        {"NotToml", Plus("[train]\nlr 3"), {"run.toml:6: not valid TOML"}},
        {"UnclosedString", Plus("kind = \"text"), {"run.toml:5: not valid TOML"}},
        {"DoubledKey", Plus("[train]\nlr = 1\nlr = 2"), {"run.toml:7: not valid TOML"}},
        {"Binary",
         std::string("\x7f"
                     "ELF\x02\x01\x01\0\0",
                     9),
         {"run.toml:1: not valid TOML"}},
        {"NotUtf8", Plus("[run]\ndir = \"\xff\xfe\""), {"run.toml:6: not valid TOML"}},
        {"DeeplyNested", Plus("kind = " + std::string(10000, '[')), {"not valid TOML"}},
        {"HugeInteger", Plus("[train]\nsteps = 99999999999999999999"), {"run.toml:6: not valid"}},
    }),
    NameOf);

INSTANTIATE_TEST_SUITE_P(
    Values, BadConfigTest,
    ::testing::ValuesIn(std::vector<BadCase>{
        {"Choice",
         Plus("[train]\noptimizer = 'adam'"),
         {"run.toml:6: train.optimizer = \"adam\"", "must be \"adamw\" or \"sgd\""}},
        {"Precision", Plus("[train]\nprecision = 'fp16'"), {"must be \"f32\" or \"bf16\""}},
        {"Device", Plus("[worker]\ndevice = 'gpu'"), {"must be \"cpu\" or \"cuda\""}},
        {"ChoiceCase", Plus("[sdp]\nunit = 'Layer'"), {"\"Layer\"", "\"sublayer\" or \"layer\""}},
        {"Preset", "[model]\npreset = 'llama-7b'", {"\"llama-7b\"", "\"llama-134m\""}},
        {"StringForNumber",
         Plus("[train]\nlr = '3e-4'"),
         {"run.toml:6: train.lr = \"3e-4\"", "a number in (0, 1e6]"}},
        {"FloatForInteger",
         Plus("[train]\nsteps = 1e3"),
         {"train.steps = 1000.0", "an integer in [1, 1e12]"}},
        {"IntegerForBool", Plus("shuffle = 1"), {"data.shuffle = 1", "true or false"}},
        {"NumberForString", Plus("kind = 3"), {"data.kind = 3", "\"text\" or \"tokens\""}},
        {"DateForString", Plus("[run]\ndir = 2020-01-01"), {"run.dir = a date or time"}},
        {"StringForList",
         "[model]\npreset = 'llama-tiny'\n[data]\ntrain = 'a.txt'",
         {"run.toml:4: data.train = \"a.txt\"", "a list of at least one file", "[\"a.txt\"]"}},
        {"NoTrainFile",
         "[model]\npreset = 'llama-tiny'\n[data]\ntrain = []",
         {"data.train = []", "at least one file"}},
        {"EmptyFileName",
         Plus("validation = ['b.txt', '']"),
         {"data.validation = [\"b.txt\", \"\"]"}},
        {"ListInList", Plus("validation = [['b.txt']]"), {"[a list in a list]", "a list of files"}},
        {"OneBeta", Plus("[train]\nbetas = [0.9]"), {"[0.9]", "a list of 2 numbers in [0, 1)"}},
        {"ThreeBetas", Plus("[train]\nbetas = [0.9, 0.9, 0.9]"), {"a list of 2 numbers"}},
        {"BetaOfOne", Plus("[train]\nbetas = [0.9, 1]"), {"[0.9, 1]", "in [0, 1)"}},
        {"BetaAsText", Plus("[train]\nbetas = [0.9, 'x']"), {"[0.9, \"x\"]"}},
        {"DepthWithoutValues", Plus("[sdp]\ndepth = []"), {"[]", "a list of numbers in (0, 1]"}},
        {"DepthAboveOne", Plus("[sdp]\ndepth = [1, 2]"), {"[1, 2]", "a list of numbers"}},
        {"DepthWithATable",
         Plus("[sdp]\ndepth = [{ x = 1 }]"),
         {"[{ x = 1 }]", "a list of numbers"}},
        {"KindsWithoutAny",
         Plus("[sdp]\ncoverage_by = {}"),
         {"sdp.coverage_by = {}", "a table of numbers in (0, 1], such as { mlp = 0.5 }"}},
        {"KindZero", Plus("[sdp.coverage_by]\nmlp = 0"), {"run.toml:", "{ mlp = 0 }", "(0, 1]"}},
        {"KindWithText", Plus("[sdp]\ncoverage_by.mlp = 'all'"), {"{ mlp = \"all\" }", "numbers"}},
        {"KindWithAList",
         Plus("[sdp]\ncoverage_by.mlp = [1]"),
         {"{ mlp = [1] }", "a table of numbers"}},
        {"KindsAsANumber", Plus("[sdp]\ncoverage_by = 0.5"), {"= 0.5 is not", "a table of"}},
        {"PhasesAsATable",
         Plus("[sdp]\nphases = { from = 0, coverage = 1 }"),
         {"a list of tables such as { from = 100, coverage = 1.0 }"}},
        {"PhaseWithAnUnknownKey",
         Plus("[sdp]\nphases = [{ from = 0, coverge = 1 }]"),
         {"[{ coverge = 1, from = 0 }]", "coverage or depth, and coverage_by"}},
        {"PhaseWithHolders", Plus("[sdp]\nphases = [{ from = 0, holders = 1 }]"), {"holders = 1"}},
        {"PhaseBeforeZero", Plus("[sdp]\nphases = [{ from = -1, coverage = 1 }]"), {"from = -1"}},
        {"PhaseAboveOne", Plus("[sdp]\nphases = [{ from = 1, coverage = 2 }]"), {"coverage = 2"}},
        {"PhasesTooDeep",
         Plus("[sdp]\nphases = [{ coverage_by = { mlp = [1] } }]"),
         {"mlp = a list in a table"}},
        {"CoverageZero", Plus("[sdp]\ncoverage = 0"), {"sdp.coverage = 0 ", "in (0, 1]"}},
        {"CoverageAboveOne", Plus("[sdp]\ncoverage = 1.01"), {"sdp.coverage = 1.01", "(0, 1]"}},
        {"CoverageNan", Plus("[sdp]\ncoverage = nan"), {"sdp.coverage = nan", "(0, 1]"}},
        {"HoldersZero", Plus("[sdp]\nholders = 0"), {"sdp.holders = 0", "[1, "}},
        {"LrZero", Plus("[train]\nlr = 0.0"), {"train.lr = 0.0", "(0, "}},
        {"LrNegative", Plus("[train]\nlr = -1"), {"train.lr = -1 "}},
        {"LrInfinite", Plus("[train]\nlr = inf"), {"train.lr = inf"}},
        {"DecayNegative", Plus("[train]\nweight_decay = -0.1"), {"train.weight_decay = -0.1"}},
        {"MomentumOfOne", Plus("[train]\nmomentum = 1.0"), {"train.momentum = 1.0", "[0, 1)"}},
        {"DecayOfNothing",
         Plus("[train]\ndecay_fraction = 0"),
         {"train.decay_fraction = 0", "(0, 1]"}},
        {"EpsZero", Plus("[train]\neps = 0"), {"train.eps = 0"}},
        {"SpikeOfWhatIsUsual",
         Plus("[train]\nspike_factor = 1"),
         {"train.spike_factor = 1", "above 1"}},
        {"SpikeWithoutCheckpoints",
         Plus("[train]\nspike_factor = 2\n[checkpoint]\nevery = 0"),
         {"train.spike_factor = 2", "checkpoint.every = 0", "last checkpoint"}},
        {"SpikeWithoutShuffling",
         Plus("shuffle = false\n[train]\nspike_factor = 2"),
         {"data.shuffle = false", "new order"}},
        {"SkipWithoutClipping",
         Plus("[train]\non_nonfinite = 'skip'"),
         {"train.on_nonfinite = \"skip\"", "train.clip_norm = 0", "give a clip_norm"}},
        {"ClipNegative", Plus("[train]\nclip_norm = -1"), {"train.clip_norm = -1"}},
        {"StepsZero", Plus("[train]\nsteps = 0"), {"train.steps = 0", "[1, "}},
        {"BatchZero", Plus("[train]\nglobal_batch = 0"), {"train.global_batch = 0", "[1, "}},
        {"MicroBatchNegative", Plus("[train]\nmicro_batch = -1"), {"train.micro_batch = -1"}},
        {"SeedNegative", Plus("[train]\nseed = -1"), {"train.seed = -1", ">= 0"}},
        {"EvalEveryNegative", Plus("[train]\neval_every = -1"), {"train.eval_every = -1"}},
        {"NoGroups", Plus("[sdp]\ngroups = 0"), {"sdp.groups = 0", "an integer in [1, "}},
        {"Attention", Plus("[sdp]\nattention = 'whole'"), {"\"split\" or \"shared\""}},
        {"RotateNegative", Plus("[sdp]\nrotate_every = -1"), {"sdp.rotate_every = -1"}},
        {"SeqLenZero", Plus("seq_len = 0"), {"run.toml:5: data.seq_len = 0", "[1, "}},
        {"NoWorkers", Plus("[cluster]\nworkers = 0"), {"cluster.workers = 0", "[1, "}},
        {"NoShards", Plus("[cluster]\nshards = 0"), {"cluster.shards = 0", "[1, "}},
        {"ThreadsNegative", Plus("[worker]\nthreads = -1"), {"worker.threads = -1"}},
        {"MemoryWithoutUnit", Plus("[worker]\nmemory = '6'"), {"\"6\"", "such as \"6GiB\""}},
        {"LongValue",
         Plus(absl::StrCat("kind = '", std::string(100000, 'k'), "'")),
         {"data.kind = \"kkk", "k... is not allowed; it must be \"text\""}},
        {"MemoryWords", Plus("[worker]\nmemory = 'lots'"), {"\"lots\"", "such as \"6GiB\""}},
        {"MemoryZero", Plus("[worker]\nmemory = '0GiB'"), {"\"0GiB\"", "such as \"6GiB\""}},
        {"MinWorkersAboveWorkers",
         Plus("[cluster]\nworkers = 2\nmin_workers = 3"),
         {"cluster.min_workers = 3", "cluster.workers = 2"}},
        {"MaxWorkersBelowWorkers",
         Plus("[cluster]\nworkers = 4\nmax_workers = 3"),
         {"cluster.max_workers = 3", "cluster.workers = 4"}},
        {"MeasuredPortionsWithoutMicroBatch",
         Plus("[cluster]\nportions = 'measured'"),
         {"cluster.portions = \"measured\"", "train.micro_batch = 0"}},
        {"MeasuredPortionsOfAFixedBatch",
         Plus("[train]\nmicro_batch = 1\nworker_batch = 2\n[cluster]\nportions = 'measured'"),
         {"cluster.portions = \"measured\"", "train.worker_batch = 2"}},
        {"TokenizerIsAPath", Plus("tokenizer = 7"), {"run.toml:5: data.tokenizer = 7", "a string"}},
        {"CoverageOtherWord",
         Plus("[sdp]\ncoverage = 'much'"),
         {"sdp.coverage", "(0, 1], or \"auto\""}},
        {"HalfASecurity",
         Plus("[security]\nca = 'ca.crt'\ncert = 'sdp.crt'\nkey = 'sdp.key'"),
         {"security.token = \"\"", "give all four, or none"}},
        {"ServerNameWithoutTls",
         Plus("[security]\nserver_name = 'sdp'"),
         {"security.server_name = \"sdp\"", "goes with all of security.ca"}},
        {"EmptyRunFolder", Plus("[run]\ndir = ''"), {"run.dir = \"\"", "not empty"}},
    }),
    NameOf);

INSTANTIATE_TEST_SUITE_P(
    NotBuilt, BadConfigTest,
    ::testing::ValuesIn(std::vector<BadCase>{
        {"Replicas", Plus("[shard]\nreplicas = 1"), {"shard.replicas is not built yet"}},
    }),
    NameOf);

INSTANTIATE_TEST_SUITE_P(
    Together, BadConfigTest,
    ::testing::ValuesIn(std::vector<BadCase>{
        {"CoverageAutoWithoutMemory",
         Plus("[sdp]\ncoverage = 'auto'"),
         {"sdp.coverage = \"auto\"", "worker.memory", "such as \"2GiB\""}},
        {"CoverageAutoAndByKind",
         Plus("[sdp]\ncoverage = 'auto'\ncoverage_by = {mlp = 0.5}\n[worker]\nmemory = '1GiB'"),
         {"sdp.coverage_by", "give numbers, or coverage alone"}},
        {"CoverageAndHolders",
         Plus("[sdp]\ncoverage = 0.5\nholders = 2"),
         {"sdp.coverage = 0.5 (run.toml:6)", "sdp.holders = 2 (run.toml:7)", "give one of these"}},
        {"CoverageAndHoldersBySet",
         Plus("[sdp]\ncoverage = 0.5"),
         {"sdp.coverage = 0.5 (run.toml:6), sdp.holders = 2 (--set)"},
         {"sdp.holders=2"}},
        {"DepthAndCoverage",
         Plus("[sdp]\ndepth = [1, 0.5]\ncoverage = 0.5"),
         {"sdp.coverage = 0.5 (run.toml:7), sdp.depth = [1.0, 0.5] (run.toml:6)", "one of these"}},
        {"DepthAndHolders",
         Plus("[sdp]\ndepth = [1]"),
         {"sdp.holders = 2 (--set), sdp.depth = [1.0]"},
         {"sdp.holders=2"}},
        {"DepthBelowOneHolder",
         Plus("[sdp]\ndepth = [1, 0.2, 0.5]"),
         {"sdp.depth = [1.0, 0.2, 0.5] (run.toml:6), cluster.workers = 4", "at least", "0.25"}},
        {"KindBelowOneHolder",
         Plus("[sdp]\ncoverage_by = { mlp = 0.1, attention = 1 }"),
         {"sdp.coverage_by = { attention = 1.0, mlp = 0.1 } (run.toml:6)", "0.25"}},
        {"PhaseWithoutCoverage",
         Plus("[sdp]\nphases = [{ from = 5, coverage_by = { mlp = 1 } }]"),
         {"sdp.phases = [{ from = 5, coverage_by = { mlp = 1.0 } }] (run.toml:6)",
          "phase from step 5 needs one of coverage and depth"}},
        {"PhaseWithBoth",
         Plus("[sdp]\nphases = [{ from = 5, coverage = 1, depth = [1] }]"),
         {"phase from step 5 needs one of"}},
        {"PhasesOutOfOrder",
         Plus("[sdp]\nphases = [{ from = 5, coverage = 1 }, { from = 5, coverage = 0.5 }]"),
         {"phase from step 5 comes after that from step 5", "order of their steps"}},
        {"PhaseBelowOneHolder",
         Plus("[sdp]\nphases = [{ from = 5, depth = [1, 0.1] }]"),
         {"cluster.workers = 4 (default)", "phase from step 5", "0.25"}},
        {"NeuronsOfLayers",
         Plus("[sdp]\ngranularity = 'neuron'\nunit = 'layer'"),
         {"sdp.unit = \"layer\" (run.toml:7)", "it says what a block is"}},
        {"MoreGroupsThanNeurons",
         Plus("[sdp]\ngranularity = 'neuron'\ngroups = 345"),
         {"sdp.groups = 345 (run.toml:7)", "model.ffn_dim = 344", "no more parts than neurons"}},
        {"GroupsOfBlocks",
         Plus("[sdp]\ngroups = 24"),
         {"sdp.groups = 24 (run.toml:6), sdp.granularity = \"block\"", "\"neuron\""}},
        {"AttentionOfBlocks",
         Plus("[sdp]\nattention = 'shared'"),
         {"sdp.attention = \"shared\" (run.toml:6), sdp.granularity = \"block\""}},
        {"TokenizerOfText",
         Plus("tokenizer = 'gpt2'"),
         {"data.tokenizer = \"gpt2\" (run.toml:5), data.kind = \"text\"", "a token is a byte"}},
        {"NesterovOfAdamW",
         Plus("[train]\nnesterov = true"),
         {"train.nesterov = true (run.toml:6), train.optimizer = \"adamw\"", "only sgd"}},
        {"BackwardScaledUp",
         Plus("[sdp]\nmasking = 'backward'\nrescale = 'sqrt'"),
         {"sdp.masking = \"backward\" (run.toml:6), sdp.rescale = \"sqrt\"", "every factor is 1"}},
        {"NesterovWithoutMomentum",
         Plus("[train]\noptimizer = 'sgd'\nnesterov = true\nmomentum = 0"),
         {"train.nesterov = true (run.toml:7), train.momentum = 0", "above 0"}},
        {"WarmupIntoTheDecay",
         Plus("[train]\nsteps = 100\nschedule = 'wsd'\nwarmup_steps = 81"),
         {"train.warmup_steps = 81 (run.toml:8), train.decay_fraction = 0.2 (default)"}},
        {"KeyOfAnotherArchitecture",
         Resnet("heads = 4"),
         {"model.heads = 4 (run.toml:3), model.arch = \"resnet\" (preset resnet-cifar)",
          "only llama has it"}},
        {"KeyOfImages",
         kValid,
         {"model.widths = [8] (--set), model.arch = \"llama\"", "only resnet has it"},
         {"model.widths=[8]"}},
        {"LengthOfImages", Resnet(""), {"data.seq_len = 8 (--set)"}, {"data.seq_len=8"}},
        {"ImagesForText",
         Plus("kind = 'cifar10'"),
         {"model.arch = \"llama\"", "data.kind = \"cifar10\" (run.toml:5)", "learns from text"}},
        {"FolderForText",
         Plus("kind = 'images'"),
         {"model.arch = \"llama\"", "data.kind = \"images\" (run.toml:5)", "learns from text"}},
        {"FolderWithoutClasses",
         Resnet(""),
         {"model.classes is required with data.kind = \"images\" (--set)", "[1, 1e6]"},
         {"data.kind=images"}},
        {"SeveralFolders",
         Resnet("classes = 9"),
         {"data.train = [\"a\", \"b\"] (--set), data.kind = \"images\"",
          "data.validation = [\"c\", \"d\"] (--set)", "give one folder"},
         {"data.kind=images", "data.train=['a', 'b']", "data.validation=['c', 'd']"}},
        {"SizeOfCifar",
         Resnet("image_size = 64"),
         {"model.image_size = 64 (run.toml:3), data.kind = \"cifar10\"", "32 x 32 pixels"}},
        {"HugeImages",
         Resnet("classes = 9\nimage_size = 8193"),
         {"model.image_size = 8193", "[1, 8192]"}},
        {"TextForImages",
         Resnet(""),
         {"data.kind = \"text\" (--set)", "\"cifar10\""},
         {"data.kind=text"}},
        {"LevelsWithoutDepth",
         Resnet("depths = [1, 2]"),
         {"model.widths = [16, 32, 64] (preset resnet-cifar), model.depths = [1, 2] (run.toml:3)",
          "one number for each level"}},
        {"NoLevels",
         Resnet("depths = []"),
         {"model.depths = []", "a list of integers in [1, 65536]"}},
        {"WidthsAreIntegers", Resnet("widths = [16.5]"), {"a list of integers"}},
        {"GroupsDivideWidths",
         Resnet("widths = [16, 20, 64]"),
         {"model.norm_groups = 8 (preset resnet-cifar)", "divide every width, also 20"}},
        {"BatchesOfOne",
         Resnet("norm = 'batch'"),
         {"model.norm = \"batch\" (run.toml:3), train.global_batch = 7 (--set)", "at least 2"},
         {"train.global_batch=7"}},
        {"MicroBatchesOfOne",
         Resnet("norm = 'batch'"),
         {"train.micro_batch = 1 (--set)", "at least 2"},
         {"train.micro_batch=1"}},
        {"LastMicroBatchOfOne",
         Resnet("norm = 'batch'"),
         {"train.global_batch = 33 (--set), train.micro_batch = 4 (--set)", "one image alone"},
         {"train.global_batch=33", "train.micro_batch=4"}},
        {"FewClasses",
         Resnet("classes = 9"),
         {"model.classes = 9 (run.toml:3), data.kind = \"cifar10\"", "10 classes"}},
        {"Bf16OfImages",
         Resnet(""),
         {"train.precision = \"bf16\" (--set)", "not built yet for image models"},
         {"train.precision=bf16"}},
        {"MoreGroupsThanNormGroups",
         Resnet(""),
         {"sdp.groups = 9 (--set), model.norm_groups = 8 (preset resnet-cifar)", "would else mix"},
         {"sdp.granularity=neuron", "sdp.groups=9"}},
        {"MoreGroupsThanChannels",
         Resnet("norm = 'batch'"),
         {"sdp.groups = 17 (--set), model.widths = [16, 32, 64]", "no more parts than channels"},
         {"sdp.granularity=neuron", "sdp.groups=17"}},
        {"AttentionOfImages",
         Resnet(""),
         {"sdp.attention = \"shared\" (--set), model.arch = \"resnet\"",
          "only llama and swin has it"},
         {"sdp.granularity=neuron", "sdp.attention=shared"}},
        {"UnitOfImagesInParts",
         Resnet(""),
         {"sdp.unit = \"layer\" (--set), model.arch = \"resnet\""},
         {"sdp.granularity=neuron", "sdp.unit=layer"}},
        {"UnitOfImages", Resnet(""), {"sdp.unit = \"layer\" (--set)"}, {"sdp.unit=layer"}},
        {"HeadsPerLevel",
         Swin("depths = [1, 2]"),
         {"model.level_heads = [4, 8, 16] (preset swin-cifar), model.depths = [1, 2] (run.toml:3)",
          "one number for each level"}},
        {"HeadsDivideWidths",
         Swin("level_heads = [4, 8, 17]"),
         {"model.level_heads = [4, 8, 17] (run.toml:3), model.dim = 48", "level 3", "width, 192"}},
        {"PatchesDivideImages",
         Swin("patch = 5"),
         {"model.patch = 5 (run.toml:3)", "model.image_size = 32"}},
        {"WindowsDivideTokens",
         Swin("window = 8"),
         {"model.window = 8 (run.toml:3)", "level 3 has 4 x 4 tokens"}},
        {"TokensToMerge",
         Swin("window = 1\ndepths = [1, 1, 1, 1, 1, 1]\nlevel_heads = [1, 1, 1, 1, 1, 1]"),
         {"level 6 would merge 2 x 2 of 1 x 1 tokens"}},
        {"LargeImagesModelOnSmallOnes",
         Swin(""),
         {"model.window = 7 (preset swin-t)", "level 1 has 8 x 8 tokens"},
         {"model.preset=swin-t"}},
        {"GroupsOfSwin",
         Swin(""),
         {"sdp.groups = 193 (--set), model.dim = 48 (preset swin-cifar), model.mlp_ratio = 4",
          "no more parts than neurons"},
         {"sdp.granularity=neuron", "sdp.groups=193"}},
        {"SwinWithoutSizes",
         "[model]\narch = 'swin'\n[data]\nkind = 'cifar10'\ntrain = ['a']",
         {"model.dim is required", "model.depths is required", "model.level_heads is required",
          "model.window is required", "model.patch is required"}},
        {"HugeSwin",
         Swin("depths = [65536, 65536, 65536]"),
         {"model.depths = [65536, 65536, 65536] (run.toml:3)", "too large to count"},
         {"model.dim=65536"}},
        {"ResnetWithoutSizes",
         "[model]\narch = 'resnet'\n[data]\nkind = 'cifar10'\ntrain = ['a']",
         {"model.widths is required", "model.depths is required"}},
        {"HugeResnet",
         Resnet("widths = [65536, 65536, 65536]"),
         {"too large to count"},
         {"model.depths=[65536, 65536, 65536]"}},
        {"MoreHoldersThanWorkers",
         Plus("[sdp]\nholders = 5"),
         {"sdp.holders = 5 (run.toml:6), cluster.workers = 4 (default)"}},
        {"CoverageBelowOneHolder",
         Plus("[sdp]\ncoverage = 0.2"),
         {"sdp.coverage = 0.2 (run.toml:6), cluster.workers = 4 (default)", "at least", "0.25"}},
        {"ArchBesidePreset",
         "[model]\npreset = 'llama-tiny'\narch = 'llama'\n[data]\ntrain = ['a']",
         {"model.preset = \"llama-tiny\" (run.toml:2)", "model.arch = \"llama\" (run.toml:3)"}},
        {"NoModel",
         "[data]\ntrain = ['a']",
         {"model.preset or model.arch is required", "\"llama-tiny\"", "arch: \"llama\""}},
        {"NoData", "[model]\npreset = 'llama-tiny'", {"data.train is required"}},
        {"Nothing", "", {"model.preset or model.arch is required", "data.train is required"}},
        {"ArchWithoutSizes",
         Sizes(""),
         {"model.dim is required", "model.heads is required", "model.ffn_dim is required"}},
        {"VocabOfTokens",
         Sizes("dim = 8\nheads = 2\nffn_dim = 8"),
         {"model.vocab is required with data.kind = \"tokens\" (--set)"},
         {"data.kind=tokens"}},
        {"VocabBelowBytes",
         Sizes("dim = 8\nheads = 2\nffn_dim = 8\nvocab = 255"),
         {"model.vocab = 255 (run.toml:9), data.kind = \"text\" (default)", "at least 256"}},
        {"HeadsDivideDim",
         kValid,
         {"model.dim = 128 (preset llama-tiny), model.heads = 6 (--set)", "heads must divide dim"},
         {"model.heads=6"}},
        {"OddHead",
         Sizes("dim = 6\nheads = 2\nffn_dim = 8"),
         {"model.dim = 6 (run.toml:6)", "dim / heads = 3, must be even"}},
        {"KvHeadsDivideHeads",
         Sizes("dim = 8\nheads = 4\nffn_dim = 8\nkv_heads = 3"),
         {"model.kv_heads = 3 (run.toml:9)", "must divide"}},
        {"MoreKvHeadsThanHeads",
         Sizes("dim = 8\nheads = 2\nffn_dim = 8\nkv_heads = 4"),
         {"model.kv_heads = 4 (run.toml:9)", "must divide"}},
        {"WarmupPastTheEnd",
         Plus("[train]\nwarmup_steps = 1001"),
         {"train.warmup_steps = 1001 (run.toml:6), train.steps = 1000 (default)"}},
        {"MoreTokensThanCountable",
         Plus("[train]\nsteps = 1000000000000\nglobal_batch = 1000000000"),
         {"train.steps", "train.global_batch", "64 bits"}},
        {"ModelTooLarge",
         Sizes("dim = 65536\nheads = 2\nffn_dim = 1000000\nvocab = 10000000"),
         {"model.dim = 65536", "too large"},
         {"model.layers=65536", "data.seq_len=10000000"}},
    }),
    NameOf);

INSTANTIATE_TEST_SUITE_P(
    Overrides, BadConfigTest,
    ::testing::ValuesIn(std::vector<BadCase>{
        {"NoEquals", kValid, {"--set train.lr: ", "section.key=value"}, {"train.lr"}},
        {"NoSection", kValid, {"--set lr=1: ", "section.key=value"}, {"lr=1"}},
        {"NoKey", kValid, {"section.key=value"}, {"train.=1"}},
        {"Empty", kValid, {"section.key=value"}, {""}},
        {"UnknownKey", kValid, {"--set: unknown key train.lrr", "train.lr"}, {"train.lrr=1"}},
        {"NotBuilt", kValid, {"--set: shard.replicas is not built"}, {"shard.replicas=1"}},
        {"CheckpointBuffer",
         kValid,
         {"checkpoint.buffer = \"much\"", "such as"},
         {"checkpoint.buffer='much'"}},
        {"KeepNone",
         kValid,
         {"checkpoint.keep_last", "an integer in [1, 1e6]"},
         {"checkpoint.keep_last=0"}},
        {"BadValue", kValid, {"--set: train.lr = \"fast\"", "a number"}, {"train.lr=fast"}},
        {"NoValue", kValid, {"--set: train.lr = \"\""}, {"train.lr="}},
        {"SecondLine", kValid, {"--set: train.lr = "}, {"train.lr=1\ny = 2"}},
        {"ValueNotUtf8", kValid, {"not UTF-8"}, {"run.dir=\xff"}},
        {"NumberForMemory", kValid, {"worker.memory = \"6\"", "6GiB"}, {"worker.memory=6"}},
    }),
    NameOf);

TEST(BadConfigTest, KeysOfOtherPrograms_NameKeysOfOurs) {
  for (const char* const key : {"learning_rate", "batch_size", "batch", "max_steps", "iterations",
                                "sequence_length", "block_size", "hidden_size", "num_hidden_layers",
                                "num_attention_heads", "grad_clip", "max_grad_norm"}) {
    const std::string message = config::ExplainUnknownKey("train", key);
    const size_t begin = message.find("key is ") + 7;
    const std::string named = message.substr(begin, message.find(';', begin) - begin);
    EXPECT_NE(config::FindRule(named), nullptr) << message;
  }
}

TEST(BadConfigTest, Load_SeveralErrors_OneLineEachInFileOrder) {
  const auto loaded = LoadConfigText(Plus("[train]\nsteps = 0\nlrr = 1\nlr = 0"), "run.toml", {});
  const std::vector<std::string> lines =
      absl::StrSplit(std::string(loaded.status().message()), '\n');
  ASSERT_EQ(lines.size(), 3U) << loaded.status();
  EXPECT_THAT(lines[0], HasSubstr("run.toml:6: train.steps"));
  EXPECT_THAT(lines[1], HasSubstr("run.toml:7: unknown key train.lrr"));
  EXPECT_THAT(lines[2], HasSubstr("run.toml:8: train.lr"));
}

TEST(BadConfigTest, Load_AThousandErrors_ShowsTheFirst) {
  std::string text = Plus("[train]\n");
  for (int i = 0; i < 1000; ++i)
    absl::StrAppend(&text, "key", i, " = '", std::string(500, 'x'), "'\n");
  const auto loaded = LoadConfigText(text, "run.toml", {});
  EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("train.key0;"));
  EXPECT_LT(loaded.status().message().size(), 10000U);
}

TEST(BadConfigTest, LoadConfig_MissingFile_NotFound) {
  const auto loaded = LoadConfig(::testing::TempDir() + "/no-such.toml", {});
  EXPECT_TRUE(absl::IsNotFound(loaded.status())) << loaded.status();
  EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("no-such.toml"));
}

TEST(BadConfigTest, LoadConfig_Folder_InvalidArgument) {
  const auto loaded = LoadConfig(::testing::TempDir(), {});
  EXPECT_TRUE(absl::IsInvalidArgument(loaded.status())) << loaded.status();
}

TEST(BadConfigTest, LoadConfig_LargeFile_InvalidArgument) {
  const std::string path = ::testing::TempDir() + "/large.toml";
  std::ofstream(path) << std::string((1 << 20) + 1, '#');
  const auto loaded = LoadConfig(path, {});
  EXPECT_TRUE(absl::IsInvalidArgument(loaded.status())) << loaded.status();
  EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("1 MiB"));
}

TEST(BadConfigTest, Load_EveryCutOfAFile_NeverCrashes) {
  const std::string text = Plus(
      "[train]\nlr = 3e-4\nbetas = [0.9, 0.95]\nschedule = \"cosine\" # x\n[run]\ndir = '''a'''\n");
  for (size_t length = 0; length <= text.size(); ++length) {
    const auto loaded = LoadConfigText(text.substr(0, length), "cut.toml", {});
    EXPECT_TRUE(loaded.ok() || absl::IsInvalidArgument(loaded.status())) << length;
  }
}

TEST(ParseBytesTest, BadText_InvalidArgument) {
  for (const char* const text : {"", "6", "GiB", "-1GiB", "1e3B", "nanB", "6gib", "6 GiB x",
                                 "1..5GiB", "0x10B", "9000000TiB", "inf", ".", " 6GiB"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseBytes(text).status())) << text;
  }
}

TEST(ParseBytesTest, UnitsOfTwoAndTen) {
  EXPECT_EQ(*ParseBytes("512B"), 512);
  EXPECT_EQ(*ParseBytes("6GiB"), int64_t{6} << 30);
  EXPECT_EQ(*ParseBytes("1.5 MiB"), 3 << 19);
  EXPECT_EQ(*ParseBytes("3KiB"), 3 << 10);
  EXPECT_EQ(*ParseBytes("2TiB"), int64_t{2} << 40);
  EXPECT_EQ(*ParseBytes("200MB"), 200000000);
  EXPECT_EQ(*ParseBytes("0B"), 0);
}

}  // namespace
}  // namespace sdp
