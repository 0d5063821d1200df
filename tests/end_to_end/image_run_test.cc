// Image models in real processes on loopback: files in CIFAR's format, made here.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/end_to_end/train_fixture.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

class ImageRunTest : public TrainFixture {
 protected:
  ImageRunTest() {
    WriteImages("train.bin", 60, 0);
    WriteImages("validation.bin", 20, 1000);
    WriteConfig("arch = \"resnet\"\nwidths = [8, 16]\ndepths = [2, 2]\nnorm_groups = 4");
  }

  // `model`: the lines of [model].
  void WriteConfig(const std::string& model) const {
    std::ofstream(Config()) << "[model]\n"
                            << model << "\n[data]\nkind = \"cifar10\"\ntrain = [\""
                            << (folder_ / "train.bin").string() << "\"]\nvalidation = [\""
                            << (folder_ / "validation.bin").string() << "\"]\n"
                            << "[train]\nsteps = 4\nglobal_batch = 8\nlr = 0.01\nclip_norm = 1.0\n"
                            << "eval_every = 2\n[cluster]\nworkers = 2\nshards = 2\n"
                            << "[worker]\nthreads = 1\n";
  }

  // The same run with three shards, and with a look at its gradients: the same bits, though every
  // block is compared with the dense gradient.
  void ExpectSameBits(const std::string& one, const std::string& more) const {
    const std::string run = one + "-three";
    const Outcome outcome = Train(run, more + " --set cluster.shards=3 --set diagnostics.every=20");
    ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
    EXPECT_EQ(StateHash(run), StateHash(one));
    for (const Json& block : Metrics(run).front().at("blocks")) {
      EXPECT_GT(block.at("dense_cosine").get<double>(), 0) << block;
      EXPECT_LT(block.at("dense_cosine").get<double>(), 1 + 1e-12) << block;
    }
  }

  // Noise around a brightness that is the class's, so that something can be learnt.
  void WriteImages(const std::string& name, int images, uint64_t seed) const {
    std::string bytes;
    for (int image = 0; image < images; ++image) {
      const int label = image % 10;
      bytes.push_back(static_cast<char>(label));
      for (uint64_t i = 0; i < 3072; ++i) {
        const uint64_t noise = RandomBits(seed, static_cast<uint64_t>(image), i) % 60;
        bytes.push_back(static_cast<char>(static_cast<uint64_t>(label) * 19 + noise));
      }
    }
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }
};

TEST_F(ImageRunTest, BadFiles_AreOneClearError) {
  std::ofstream(folder_ / "cut.bin", std::ios::binary) << std::string(3000, 'x');
  const struct {
    const char* args;
    const char* says;
  } cases[] = {
      {"--set data.train='[\"cut.bin\"]'", "cut.bin: 3000 bytes are no number of CIFAR-10 images"},
      {"--set data.kind=cifar100", "are no number of CIFAR-100 images"},
      {"--set model.norm=batch --set train.micro_batch=1", "batches of at least 2"},
      {"--set model.norm_groups=3", "norm_groups must divide every width"},
  };
  for (size_t i = 0; i < std::size(cases); ++i) {
    const std::string run = absl::StrCat("bad", i);
    const Outcome outcome = Train(run, cases[i].args);
    EXPECT_NE(outcome.exit_status, 0) << cases[i].args;
    EXPECT_THAT(outcome.output, HasSubstr(cases[i].says)) << cases[i].args;
    EXPECT_TRUE(Metrics(run).empty()) << cases[i].args;
  }
}

TEST_F(ImageRunTest, SameBitsForAnyShards_LossAndSummary) {
  const Outcome first = Train("one");
  ASSERT_EQ(first.exit_status, 0) << first.output;
  EXPECT_THAT(first.output, HasSubstr(" img/s"));
  EXPECT_EQ(StateHash("one").size(), 16u);
  for (const int shards : {1, 3}) {
    const std::string run = absl::StrCat("shards", shards);
    EXPECT_EQ(Train(run, absl::StrCat("--set cluster.shards=", shards)).exit_status, 0);
    EXPECT_EQ(StateHash(run), StateHash("one")) << run;
  }
  const std::vector<Json> lines = Metrics("one");
  ASSERT_EQ(lines.size(), 5u);
  // Untrained: no class is much more likely than another.
  EXPECT_NEAR(lines.front().at("loss").get<double>(), std::log(10), 1);
  for (const size_t step : {2, 4}) {
    EXPECT_NEAR(lines[step].at("full_loss").get<double>(), std::log(10), 1) << step;
  }
  EXPECT_EQ(lines.front().at("samples"), 8);
  // A share of the 20 validation images.
  const double right = 20 * lines.back().at("full_accuracy").get<double>();
  EXPECT_NEAR(right, std::round(right), 1e-9);
  EXPECT_THAT(first.output, HasSubstr("% right (version 4)"));
  const Json plan = Json::parse(std::ifstream(RunDir("one") / "plan.json"));
  EXPECT_GT(plan.at("workers").at(0).at("memory_bytes").get<int64_t>(), 0);
}

TEST_F(ImageRunTest, LossFalls_PreActivationAndMlp) {
  for (const std::string model : {"--set model.activation=pre", "--set model.stem=imagenet"}) {
    const std::string run = model.substr(model.rfind('=') + 1);
    const Outcome outcome =
        Train(run, model + " --set train.steps=30 --set train.eval_every=0 --set sdp.coverage=1");
    ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
    EXPECT_LT(Metrics(run).back().at("full_loss").get<double>(), std::log(10) - 0.2) << run;
  }
  std::ofstream(Config()) << "[model]\narch = \"mlp\"\ndim = 16\nlayers = 4\nffn_dim = 24\n"
                          << "[data]\nkind = \"cifar10\"\ntrain = [\"train.bin\"]\n"
                          << "validation = [\"validation.bin\"]\n[train]\nsteps = 30\n"
                          << "global_batch = 8\nlr = 0.0003\n[cluster]\nworkers = 2\nshards = 1\n";
  const Outcome outcome = Train("mlp");
  ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
  EXPECT_LT(Metrics("mlp").back().at("full_loss").get<double>(), std::log(10) - 0.2);
}

// Of heads and neurons, each with its factor: what lies on the disk computes what the run's last
// evaluation did, and learning works.
TEST_F(ImageRunTest, Swin_LossFalls_AndItsFolderHasTheRunsFullLoss) {
  WriteConfig(
      "arch = \"swin\"\ndim = 16\ndepths = [2, 1]\nlevel_heads = [2, 4]\nwindow = 4\npatch = 4");
  const std::string steps = " --set train.steps=30 --set train.eval_every=0";
  const std::string neurons = "--set sdp.granularity=neuron --set sdp.coverage_by='{mlp=0.5}' ";
  const std::string cases[] = {"--set sdp.coverage=1 ", neurons + "--set sdp.coverage=1 ",
                               neurons + "--set sdp.holders=1 ",
                               neurons + "--set sdp.holders=1 --set sdp.masking=backward "};
  for (size_t i = 0; i < std::size(cases); ++i) {
    const std::string run = absl::StrCat("run", i);
    const Outcome outcome = Train(run, cases[i] + steps);
    ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
    const double loss = Metrics(run).back().at("full_loss").get<double>();
    EXPECT_LT(loss, std::log(10) - 0.1) << cases[i];
    const std::string sdp = Program("sdp"), folder = run + "-model";
    const Outcome exported =
        Shell(absl::StrCat(sdp, " export ", RunDir(run).string(), " --out ", folder));
    ASSERT_EQ(exported.exit_status, 0) << exported.output;
    const Outcome eval =
        Shell(absl::StrCat(sdp, " eval ", folder, " --data validation.bin --json"));
    ASSERT_EQ(eval.exit_status, 0) << eval.output;
    EXPECT_NEAR(Json::parse(eval.output).at("loss").get<double>(), loss, 1e-5) << cases[i];
  }
  ExpectSameBits("run2", cases[2] + steps);
}

TEST_F(ImageRunTest, Resume_GoesOnWithTheSameBits) {
  ASSERT_EQ(Train("whole", "--set train.steps=6").exit_status, 0);
  ASSERT_EQ(Train("parts", "--set train.steps=3").exit_status, 0);
  const Outcome resumed = Train("parts", "--set train.steps=6 --resume");
  ASSERT_EQ(resumed.exit_status, 0) << resumed.output;
  EXPECT_EQ(StateHash("parts"), StateHash("whole"));
}

// Statistics of the full model are learnt before it is evaluated: the loss on the training images
// themselves is near that of training.
TEST_F(ImageRunTest, BatchNorm_SameBitsAndAFullModelThatWorks) {
  const std::string more =
      "--set model.norm=batch --set train.steps=30 --set train.eval_every=0 --set sdp.coverage=1 "
      "--set train.global_batch=16 ";
  ASSERT_EQ(Train("one", more).exit_status, 0);
  ExpectSameBits("one", more);
  const Json last = Metrics("one").back();
  EXPECT_EQ(last.at("full_loss"), Metrics("one-three").back().at("full_loss"));
  EXPECT_LT(last.at("full_loss").get<double>(), std::log(10) - 0.2);
}

// Inner channels as units, with 2 or 3 holders of 4 at a coverage of 2.4: the same bits for any
// shards, slim in bytes, and what is exported is what was evaluated.
TEST_F(ImageRunTest, Neurons_SameBitsBytesOfThePlanAndExport) {
  // Wide enough that the headers of frames are few of the bytes.
  const std::string neurons =
      "--set sdp.granularity=neuron --set sdp.coverage=0.6 --set cluster.workers=4 "
      "--set model.widths='[32,64]' --set train.steps=2 ";
  for (const std::string norm : {"group", "batch"}) {
    const std::string more = neurons + "--set model.norm=" + norm + " ";
    ASSERT_EQ(Train(norm, more).exit_status, 0);
    ExpectSameBits(norm, more);
    const Json plan = Json::parse(std::ifstream(RunDir(norm) / "plan.json"));
    double held = 0;
    for (const Json& worker : plan.at("workers")) held += worker.at("params").get<double>();
    const Json step = Metrics(norm).at(1);
    EXPECT_NEAR(step.at("pulled_bytes").get<double>() / (4 * held), 1, 0.02);
    EXPECT_NEAR(step.at("pushed_bytes").get<double>() / (4 * held), 1, 0.02);
    const std::string sdp = Program("sdp"), folder = norm + "-model";
    ASSERT_EQ(
        Shell(absl::StrCat(sdp, " export ", RunDir(norm).string(), " --out ", folder)).exit_status,
        0);
    for (const std::string& stored : {RunDir(norm).string(), folder}) {
      const Outcome outcome =
          Shell(absl::StrCat(sdp, " eval ", stored, " --data validation.bin --json"));
      ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
      EXPECT_NEAR(Json::parse(outcome.output).at("loss").get<double>(),
                  Metrics(norm).back().at("full_loss").get<double>(), 1e-5)
          << stored;
    }
  }
}

// Everything comes in and held blocks go out, for any number of shards with the same bits; where
// everything is held, with those of forward masking.
TEST_F(ImageRunTest, BackwardMasking_SameBitsAndBytesOfThePlan) {
  for (const std::string granularity : {"block", "neuron"}) {
    // Wide enough that the headers of frames are few of the bytes.
    const std::string wide =
        absl::StrCat("--set model.widths='[", granularity == "block" ? "16,32" : "32,64",
                     "]' --set train.steps=3 --set sdp.granularity=", granularity, " ");
    const std::string backward = wide + "--set sdp.masking=backward ";
    const std::string one = granularity + "-one";
    ASSERT_EQ(Train(one, backward).exit_status, 0);
    ExpectSameBits(one, backward);
    const Json plan = Json::parse(std::ifstream(RunDir(one) / "plan.json"));
    double params = 0, held = 0;
    for (const Json& unit : plan.at("units")) params += unit.at("params").get<double>();
    for (const Json& worker : plan.at("workers")) held += worker.at("params").get<double>();
    const Json step = Metrics(one).at(1);
    EXPECT_NEAR(step.at("pulled_bytes").get<double>() / (2 * 4 * params), 1, 0.02);
    EXPECT_NEAR(step.at("pushed_bytes").get<double>() / (4 * held), 1, 0.02);

    const std::string forward = granularity + "-forward", all = granularity + "-backward";
    ASSERT_EQ(Train(forward, wide + "--set sdp.coverage=1").exit_status, 0);
    ASSERT_EQ(Train(all, backward + "--set sdp.coverage=1").exit_status, 0);
    EXPECT_EQ(StateHash(all), StateHash(forward));
  }
}

// What lies on the disk, as a run and as a folder, computes what the run's last evaluation did:
// factors folded in, BatchNorm's statistics learnt of the same images.
TEST_F(ImageRunTest, ExportAndEval_HaveTheRunsFullLoss) {
  int runs = 0;
  for (const std::string model : {"--set model.norm=group", "--set model.norm=batch",
                                  "--set model.norm=batch --set model.activation=pre"}) {
    const std::string run = absl::StrCat("run", ++runs);
    ASSERT_EQ(Train(run, model + " --set train.global_batch=16").exit_status, 0);
    const Json last = Metrics(run).back();
    const std::string sdp = Program("sdp"), folder = run + "-model";
    const Outcome exported =
        Shell(absl::StrCat(sdp, " export ", RunDir(run).string(), " --out ", folder));
    ASSERT_EQ(exported.exit_status, 0) << exported.output;
    for (const std::string& stored : {RunDir(run).string(), folder}) {
      const Outcome outcome =
          Shell(absl::StrCat(sdp, " eval ", stored, " --data validation.bin --json"));
      ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
      const Json eval = Json::parse(outcome.output);
      EXPECT_NEAR(eval.at("loss").get<double>(), last.at("full_loss").get<double>(), 1e-5) << model;
      EXPECT_EQ(eval.at("accuracy"), last.at("full_accuracy")) << model;
      EXPECT_EQ(eval.at("samples"), 20);
    }
  }
  // The training images are needed for statistics alone.
  fs::remove(folder_ / "train.bin");
  EXPECT_EQ(Shell(Program("sdp") + " eval run2-model --data validation.bin").exit_status, 0);
  const Outcome outcome = Shell(Program("sdp") + " export run2 --out again");
  EXPECT_NE(outcome.exit_status, 0);
  EXPECT_THAT(outcome.output, HasSubstr("BatchNorm's statistics are learnt of data.train"));
}

TEST_F(ImageRunTest, WhatOnlyLanguageModelsHave_IsRefusedByName) {
  ASSERT_EQ(Train("run", "--set train.steps=1").exit_status, 0);
  for (const auto& [command, says] :
       {std::pair<std::string, std::string>{"generate run --prompt x", "is an image model"},
        {"eval run --data validation.bin --seq-len 4", "--seq-len is for language models"},
        {"eval run --data run.toml", "are no number of CIFAR-10 images"},
        {"train run.toml --from-pretrained run --set run.dir=other", "LLaMA"}}) {
    const Outcome outcome = Shell(absl::StrCat(Program("sdp"), " ", command));
    EXPECT_NE(outcome.exit_status, 0) << command;
    EXPECT_THAT(outcome.output, HasSubstr(says)) << command;
  }
}

}  // namespace
}  // namespace sdp
