// Real processes: a run is trained, its model leaves it, and is the model that was trained.
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/end_to_end/train_fixture.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class ExportTest : public TrainFixture {
 protected:
  // Runs `sdp` with these arguments in the test's folder.
  Outcome Sdp(const std::string& args) const { return Shell(Program("sdp") + " " + args); }
  void ExpectOk(const Outcome& outcome) const {
    ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
  }

  double Loss(const std::string& model) const {
    const Outcome outcome =
        Sdp(absl::StrCat("eval ", model, " --data validation.txt --threads 1 --json"));
    EXPECT_EQ(outcome.exit_status, 0) << outcome.output;
    const Json json = Json::parse(outcome.output, nullptr, /*allow_exceptions=*/false);
    return json.is_object() ? json.value("loss", -1.0) : -1;
  }
  // The run's own validation, by step.
  std::map<int64_t, double> FullLosses() const {
    std::map<int64_t, double> losses;
    for (const Json& line : Metrics("run")) {
      if (line.contains("full_loss")) losses[line["step"]] = line["full_loss"];
    }
    return losses;
  }
};

TEST_F(ExportTest, WrongInput_IsOneClearErrorAndStatus2) {
  fs::create_directory(folder_ / "empty");
  fs::create_directory(folder_ / "run");
  fs::copy_file(Config(), folder_ / "run/config.toml");
  const struct {
    const char* args;
    const char* says;
  } cases[] = {
      {"export empty --out model", "no run folder"},
      {"export run --out model", "no complete checkpoint yet"},
      {"export run", "--out"},
      {"export run --out model --dtype f64", "--dtype"},
      {"export run --out model --part-size 7", "--part-size"},
      {"eval run --data validation.txt", "no complete checkpoint yet"},
      {"eval empty --data validation.txt", "is no model"},
      {"eval nowhere --data validation.txt", "no folder nowhere"},
      {"eval run", "--data"},
      {"generate run --prompt x", "no complete checkpoint yet"},
      {"generate run --prompt x --temperature -1", "--temperature"},
      {"generate", "DIR|RUN"},
  };
  for (const auto& c : cases) {
    const Outcome outcome = Sdp(c.args);
    EXPECT_EQ(outcome.exit_status, 2) << c.args;
    EXPECT_THAT(outcome.output, StartsWith("sdp: ")) << c.args;
    EXPECT_THAT(outcome.output, HasSubstr(c.says)) << c.args;
  }
  EXPECT_EQ(Sdp("generate --help").exit_status, 0);
}

// The run evaluates with unfolded weights on four workers, a part of the samples each: the same
// numbers but for rounding.
TEST_F(ExportTest, EvalOfTheFolder_IsTheRunsFullLoss) {
  ExpectOk(Train("run", "--set sdp.holders=3 --set checkpoint.every=3"));
  const std::map<int64_t, double> full = FullLosses();
  ASSERT_EQ(full.size(), 2u);
  ExpectOk(Sdp("export run --out model"));
  ExpectOk(Sdp("export run --out first --step 3 --part-size 10KB"));
  EXPECT_NEAR(Loss("run"), full.at(6), 1e-5 * full.at(6));
  EXPECT_NEAR(Loss("model"), full.at(6), 1e-5 * full.at(6));
  EXPECT_NEAR(Loss("first"), full.at(3), 1e-5 * full.at(3));
  // bf16 keeps 8 bits of each weight.
  ExpectOk(Sdp("export run --out half --dtype bf16"));
  EXPECT_NEAR(Loss("half"), full.at(6), 1e-2 * full.at(6));
  const Outcome again = Sdp("export run --out model");
  EXPECT_EQ(again.exit_status, 2);
  EXPECT_THAT(again.output, HasSubstr("model is there already"));
}

// Whatever is multiplied where: the folder, which has no factors, computes what the run evaluated.
// 0.6 of 4 workers are 2 or 3 holders, so training has factors other than 1 too.
TEST_F(ExportTest, EveryRescaling_EvalOfTheFolderIsTheRunsFullLoss) {
  std::set<double> losses;
  for (const char* rescale : {"none", "eval", "inverted", "sqrt"}) {
    ExpectOk(Train(rescale, absl::StrCat("--set sdp.coverage=0.6 --set train.eval_every=0 ",
                                         "--set sdp.rescale=", rescale)));
    ExpectOk(Sdp(absl::StrCat("export ", rescale, " --out ", rescale, "-model")));
    const double full = Metrics(rescale).back().at("full_loss");
    EXPECT_NEAR(Loss(absl::StrCat(rescale, "-model")), full, 1e-5 * full) << rescale;
    losses.insert(full);
  }
  EXPECT_EQ(losses.size(), 4u);  // four different networks
}

TEST_F(ExportTest, BackwardMasking_NoFactors_EvalIsTheRunsFullLoss) {
  ExpectOk(Train("run", "--set sdp.masking=backward"));
  ExpectOk(Sdp("export run --out model"));
  const double full = FullLosses().at(6);
  EXPECT_NEAR(Loss("run"), full, 1e-5 * full);
  EXPECT_NEAR(Loss("model"), full, 1e-5 * full);
}

// Coverages that differ from unit to unit, each folded into its own branch; resumed on the way, and
// with a dense phase, which changes none of that.
TEST_F(ExportTest, EvalOfTheFolder_CoverageByKindDepthAndPhase) {
  const std::string coverage =
      "--set 'sdp.depth=[1,0.5,0.25]' --set 'sdp.coverage_by={attention=0.75}' "
      "--set 'sdp.phases=[{from=2,coverage=1},{from=5,coverage=0.5,coverage_by={mlp=0.25}}]' ";
  ExpectOk(Train("run", coverage + "--set checkpoint.every=3 --set train.steps=4"));
  ExpectOk(Sdp("train run/config.toml --resume --set train.steps=6"));
  const std::map<int64_t, double> full = FullLosses();
  ASSERT_TRUE(full.contains(6));
  for (const Json& line : Metrics("run")) {
    const int64_t step = line["step"];
    if (!line.contains("loss")) continue;  // the end of a run trains nothing
    EXPECT_EQ(line["min_holders"], step >= 2 && step < 5 ? 4 : 1) << step;
  }
  ExpectOk(Sdp("export run --out model"));
  EXPECT_NEAR(Loss("run"), full.at(6), 1e-5 * full.at(6));
  EXPECT_NEAR(Loss("model"), full.at(6), 1e-5 * full.at(6));
  const Json plan = Json::parse(std::ifstream(RunDir("run") / "plan.json"));
  std::map<std::string, size_t> holders;
  for (const Json& unit : plan["units"]) holders[unit["name"]] = unit["holders"].size();
  EXPECT_EQ(holders.at("layers.0.mlp"), 4u);
  EXPECT_EQ(holders.at("layers.3.mlp"), 1u);
  EXPECT_EQ(holders.at("layers.3.attention"), 3u);
}

// Columns of one matrix with the factors of several units; with other subnetworks and holders from
// step to step on the way.
TEST_F(ExportTest, NeuronRun_EvalOfTheFolderIsTheRunsFullLoss) {
  ExpectOk(Train("run",
                 "--set sdp.granularity=neuron --set sdp.groups=5 --set sdp.rotate_every=1 "
                 "--set 'sdp.depth=[1,0.6]' --set 'sdp.coverage_by={attention=0.75}' "
                 "--set 'sdp.phases=[{from=2,coverage=1},{from=4,coverage=0.5}]'"));
  const double full = FullLosses().at(6);
  ExpectOk(Sdp("export run --out model"));
  EXPECT_NEAR(Loss("run"), full, 1e-5 * full);
  EXPECT_NEAR(Loss("model"), full, 1e-5 * full);
  const std::string args = " --prompt 'The ' --tokens 5 --threads 1 --temperature 0";
  EXPECT_EQ(Sdp("generate run" + args).output, Sdp("generate model" + args).output);
}

TEST_F(ExportTest, Generate_SameSeedSameText_OfRunAndFolder) {
  ExpectOk(Train("run", "--set sdp.unit=layer --set model.tied=true --set data.seq_len=31"));
  ExpectOk(Sdp("export run --out model"));
  const std::string args = " --prompt 'The ' --tokens 20 --threads 1";
  const Outcome first = Sdp("generate model --seed 5" + args);
  ASSERT_EQ(first.exit_status, 0) << first.output;
  EXPECT_THAT(first.output, StartsWith("The "));
  EXPECT_EQ(first.output.size(), 4u + 20 + 1);
  EXPECT_EQ(Sdp("generate model --seed 5" + args).output, first.output);
  EXPECT_NE(Sdp("generate model --seed 6" + args).output, first.output);
  EXPECT_EQ(Sdp("generate run --temperature 0" + args).output,
            Sdp("generate model --top-k 1" + args).output);
}

}  // namespace
}  // namespace sdp
