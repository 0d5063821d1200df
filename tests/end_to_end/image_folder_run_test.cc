// A folder of JPEG files in real processes on loopback, made here: in training, evaluation, export,
// and what happens when one of the files is damaged.
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
#include "tests/data/jpeg_files.h"
#include "tests/end_to_end/train_fixture.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ImageFolderRunTest : public TrainFixture {
 protected:
  ImageFolderRunTest() {
    WriteImages("train", 12, 0);
    WriteImages("val", 5, 1000);
    std::ofstream(Config()) << "[model]\narch = \"resnet\"\nwidths = [8, 16]\ndepths = [2, 2]\n"
                            << "norm = \"batch\"\nclasses = 3\nimage_size = 28\n"
                            << "[data]\nkind = \"images\"\ntrain = [\""
                            << (folder_ / "train").string() << "\"]\nvalidation = [\""
                            << (folder_ / "val").string() << "\"]\n[train]\nsteps = 4\n"
                            << "global_batch = 8\nlr = 0.01\neval_every = 2\n"
                            << "[cluster]\nworkers = 2\nshards = 2\n[worker]\nthreads = 1\n";
  }

  // Of three classes `count` images each, of sizes that differ: noise around a class's color.
  void WriteImages(const std::string& name, int count, uint64_t seed) const {
    const char* const classes[] = {"blue", "green", "red"};
    for (int label = 0; label < 3; ++label) {
      fs::create_directories(folder_ / name / classes[label]);
      for (int i = 0; i < count; ++i) {
        RgbImage image{.height = 20 + 3 * i, .width = 40 - i, .pixels = {}};
        RandomStream random(seed + static_cast<uint64_t>(i), static_cast<uint64_t>(label));
        for (int64_t at = 0; at < image.height * image.width * 3; ++at) {
          const uint64_t light = at % 3 == 2 - label ? 120 : 20;
          image.pixels.push_back(static_cast<unsigned char>(light + random.Below(60)));
        }
        std::ofstream(folder_ / name / classes[label] / absl::StrCat(i, ".jpg"), std::ios::binary)
            << EncodeJpeg(image);
      }
    }
  }
};

TEST_F(ImageFolderRunTest, Learns_WithTheSameBitsForAnyShards) {
  const std::string more = "--set train.steps=30 --set train.eval_every=0 --set sdp.coverage=1 ";
  const Outcome outcome = Train("one", more);
  ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr(" img/s"));
  ASSERT_EQ(Train("three", more + "--set cluster.shards=3").exit_status, 0);
  EXPECT_EQ(StateHash("one"), StateHash("three"));
  EXPECT_LT(Metrics("one").back().at("full_loss").get<double>(), std::log(3) - 0.2);
}

// At rest it computes what the run's last evaluation did, BatchNorm's statistics included.
TEST_F(ImageFolderRunTest, ExportAndEval_HaveTheRunsFullLoss) {
  ASSERT_EQ(Train("run").exit_status, 0);
  const Json last = Metrics("run").back();
  const Outcome exported = Shell(Program("sdp") + " export run --out model");
  ASSERT_EQ(exported.exit_status, 0) << exported.output;
  for (const std::string stored : {"run", "model"}) {
    const Outcome outcome =
        Shell(absl::StrCat(Program("sdp"), " eval ", stored, " --data val --json"));
    ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
    const Json eval = Json::parse(outcome.output);
    EXPECT_NEAR(eval.at("loss").get<double>(), last.at("full_loss").get<double>(), 1e-5) << stored;
    EXPECT_EQ(eval.at("accuracy"), last.at("full_accuracy")) << stored;
    EXPECT_EQ(eval.at("samples"), 15);
  }
  const Outcome two = Shell(Program("sdp") + " eval model --data val --data val");
  EXPECT_NE(two.exit_status, 0);
  EXPECT_THAT(two.output, HasSubstr("val, val: give one folder of images"));
}

TEST_F(ImageFolderRunTest, WhatIsWrongWithTheFolder_IsOneClearError) {
  const auto refused = [&](const std::string& run, const std::string& args,
                           const std::string& says) {
    const Outcome outcome = Train(run, args);
    EXPECT_NE(outcome.exit_status, 0) << args;
    EXPECT_THAT(outcome.output, HasSubstr(says)) << args;
    EXPECT_TRUE(Metrics(run).empty()) << args;
  };
  refused("classes", "--set model.classes=4", "has 3 sub-folders, each a class; the model has 4");
  refused("file", "--set data.train='[\"run.toml\"]'", "run.toml: Not a directory");
  fs::rename(folder_ / "val/red", folder_ / "val/rot");
  refused("names", "", "their sub-folders, the classes, have different names");
  fs::rename(folder_ / "train/red/3.jpg", folder_ / "train/red/3.png");
  refused("name", "", "red/3.png: the sub-folder of a class may have files named .jpg");
}

// It was not looked at before its turn.
TEST_F(ImageFolderRunTest, DamagedFile_EndsTheRunNamingIt) {
  for (const auto& [broken, doing] :
       {std::pair<std::string, std::string>{"train/green/7.jpg", "reading samples"},
        {"val/green/2.jpg", "evaluation of version"}}) {
    const std::string path = (folder_ / broken).string();
    fs::resize_file(path, fs::file_size(path) / 2);
    const Outcome outcome =
        Train("run-of-" + broken.substr(0, 3), "--set train.steps=20 --set train.eval_every=1");
    EXPECT_NE(outcome.exit_status, 0);
    EXPECT_THAT(outcome.output, AllOf(HasSubstr(broken), HasSubstr("Premature end of JPEG file"),
                                      HasSubstr(doing)));
    fs::remove(path);
  }
}

}  // namespace
}  // namespace sdp
