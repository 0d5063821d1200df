// Real processes: a run starts from a dense model, of which its full model at step 0 is a copy, and
// fine-tunes it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/export/byte_tokenizer.h"
#include "tests/end_to_end/train_fixture.h"
#include "tests/export/dense_folder.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class PretrainedRunTest : public TrainFixture {
 protected:
  PretrainedRunTest() {
    // Without [model]: it is the folder's.
    std::ofstream(folder_ / "tune.toml")
        << "[data]\nkind = \"text\"\ntrain = [\"train.txt\"]\nvalidation = [\"validation.txt\"]\n"
        << "seq_len = 15\n[train]\nsteps = 6\nglobal_batch = 10\nlr = 0.01\neval_every = 3\n"
        << "[cluster]\nworkers = 4\nshards = 2\n[worker]\nthreads = 1\n";
  }

  Outcome Sdp(const std::string& args) const { return Shell(Program("sdp") + " " + args); }
  Outcome Tune(const std::string& model, const std::string& run, const std::string& more = "") {
    return Sdp(absl::StrCat("train tune.toml --from-pretrained ", model, " --set run.dir=", run,
                            " ", more));
  }
  double Loss(const std::string& model, const std::string& data = "validation.txt") const {
    const Outcome outcome =
        Sdp(absl::StrCat("eval ", model, " --data ", data, " --seq-len 15 --threads 1 --json"));
    EXPECT_EQ(outcome.exit_status, 0) << outcome.output;
    const Json json = Json::parse(outcome.output, nullptr, /*allow_exceptions=*/false);
    return json.is_object() ? json.value("loss", -1.0) : -1;
  }
  // The run's full model before its first step, and after its last, is what the folders compute.
  void ExpectTuned(const std::string& model, const std::string& run) const {
    const std::vector<Json> lines = Metrics(run);
    ASSERT_EQ(lines.size(), 7u);
    const double dense = Loss(model), tuned = lines.back().at("full_loss");
    EXPECT_NEAR(lines.front().at("full_loss").get<double>(), dense, 1e-5 * dense);
    EXPECT_LT(tuned, dense - 0.01);
    const Outcome exported = Sdp(absl::StrCat("export ", run, " --out ", run, "-model"));
    ASSERT_EQ(exported.exit_status, 0) << exported.output;
    EXPECT_NEAR(Loss(run + "-model"), tuned, 1e-5 * tuned);
  }
};

// Exported with factors of 3/4 folded in, taken up with those of another coverage and rescaling.
TEST_F(PretrainedRunTest, ExportedFolder_OtherCoverage) {
  ASSERT_EQ(Train("first", "--set sdp.holders=3 --set train.steps=20").exit_status, 0);
  ASSERT_EQ(Sdp("export first --out model").exit_status, 0);
  for (const char* rescale : {"eval", "sqrt", "inverted"}) {
    const Outcome outcome = Tune("model", rescale, absl::StrCat("--set sdp.rescale=", rescale));
    ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
    ExpectTuned("model", rescale);
  }
  const Outcome again = Tune("model", "again", "--set sdp.unit=layer --set sdp.coverage=0.25");
  ASSERT_EQ(again.exit_status, 0) << again.output;
  ExpectTuned("model", "again");
  const Outcome neurons = Tune("model", "neurons",
                               "--set sdp.granularity=neuron --set sdp.groups=5 "
                               "--set 'sdp.depth=[1,0.6]'");
  ASSERT_EQ(neurons.exit_status, 0) << neurons.output;
  ExpectTuned("model", "neurons");
}

// Three parts with an index, in bf16, f16 and f32, a tied head and grouped queries.
TEST_F(PretrainedRunTest, FolderOfAnotherProgram_AndResume) {
  DenseFolder dense;
  dense.Write((folder_ / "model").string());
  WriteAll((folder_ / "model/tokenizer.json").string(), ByteTokenizerJson());
  const Outcome outcome = Tune("model", "run");
  ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("starting from the dense model"));
  ExpectTuned("model", "run");

  // Again from the initial values, which are read from the folder again, by other shards.
  const std::string hash = StateHash("run");
  const std::string resume = "train run/config.toml --resume 0 --set cluster.shards=3";
  const Outcome resumed = Sdp(resume);
  EXPECT_EQ(resumed.exit_status, 0) << resumed.output;
  EXPECT_EQ(StateHash("run"), hash);
  EXPECT_EQ(Metrics("run").back().at("generation"), 2);
  dense.spec.norm_eps = 1e-5;
  dense.Write((folder_ / "model").string());
  const Outcome changed = Sdp(resume);
  EXPECT_NE(changed.exit_status, 0);
  EXPECT_THAT(changed.output, AllOf(HasSubstr("model"), HasSubstr("have changed")));
}

// The ids are those of the folder's tokenizer, which comes along.
TEST_F(PretrainedRunTest, TokenIds_TheTokenizerIsExported) {
  DenseFolder dense;
  dense.Write((folder_ / "model").string());
  const std::string tokenizer = "{\"model\": {\"type\": \"BPE\"}}";
  WriteAll((folder_ / "model/tokenizer.json").string(), tokenizer);
  std::vector<int32_t> header(256);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = 2000;
  std::vector<uint16_t> ids(2000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<uint16_t>(i * i % 200);
  WriteAll((folder_ / "ids.bin").string(), AsBytes(header) + AsBytes(ids));
  const std::string more =
      "--set data.kind=tokens --set 'data.train=[\"ids.bin\"]' --set "
      "'data.validation=[\"ids.bin\"]'";
  const Outcome outcome = Tune("model", "run", more);
  ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
  const double dense_loss = Loss("model", "ids.bin");
  EXPECT_NEAR(Metrics("run").front().at("full_loss").get<double>(), dense_loss, 1e-5 * dense_loss);
  ASSERT_EQ(Sdp("export run --out tuned").exit_status, 0);
  EXPECT_EQ(ReadAll((folder_ / "tuned/tokenizer.json").string()), tokenizer);

  const Outcome text = Tune("model", "text");
  EXPECT_EQ(text.exit_status, 2);
  EXPECT_THAT(text.output, HasSubstr("another tokenizer"));
}

TEST_F(PretrainedRunTest, WrongInput_IsOneClearErrorAndStatus2) {
  DenseFolder dense;
  dense.Write((folder_ / "model").string());
  dense.more_config = ", \"rope_scaling\": {\"rope_type\": \"llama3\"}";
  dense.Write((folder_ / "scaled").string());
  fs::create_directory(folder_ / "empty");
  const struct {
    const char* args;
    const char* says;
  } cases[] = {
      {"--from-pretrained nowhere", "nowhere"},
      {"--from-pretrained empty", "config.json"},
      {"--from-pretrained scaled", "rope_scaling"},
      {"--from-pretrained model --init model", "--init"},
      {"--from-pretrained model --resume", "--from-pretrained"},
      {"--from-pretrained model --set data.seq_len=65", "64 positions"},
      {"--from-pretrained model --set model.preset=llama-tiny", "model.dim = 128"},
      {"--init model --set model.preset=llama-tiny", "--init"},
      {"", "model.preset or model.arch is required"},
  };
  for (const auto& c : cases) {
    const Outcome outcome = Sdp(absl::StrCat("train tune.toml --set run.dir=bad ", c.args));
    EXPECT_EQ(outcome.exit_status, 2) << c.args;
    EXPECT_THAT(outcome.output, HasSubstr(c.says)) << c.args;
    EXPECT_FALSE(fs::exists(RunDir("bad"))) << c.args;
  }
}

}  // namespace
}  // namespace sdp
