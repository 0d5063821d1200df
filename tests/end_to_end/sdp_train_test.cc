// Real processes on loopback: what `sdp train` promises, seen from outside.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/config/config.h"
#include "common/model/initial_values.h"
#include "common/run/run_setup.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cluster/sim_cluster.h"
#include "tests/data/files.h"
#include "tests/end_to_end/train_fixture.h"
#include "tests/places/places.h"
#include "worker/data/dataset.h"
#include "worker/model/make_model.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

class SdpTrainTest : public TrainFixture {
 protected:
  // All blocks come in at every worker, and what it holds goes out.
  void ExpectBackwardBytes(const std::string& run) const {
    const Json plan = Json::parse(std::ifstream(RunDir(run) / "plan.json"));
    double params = 0, held = 0;
    for (const Json& unit : plan.at("units")) params += unit.at("params").get<double>();
    for (const Json& worker : plan.at("workers")) held += worker.at("params").get<double>();
    EXPECT_LT(held, 0.8 * 4 * params);
    const std::vector<Json> lines = Metrics(run);
    for (size_t t = 0; t + 1 < lines.size(); ++t) {
      EXPECT_NEAR(lines[t].at("pulled_bytes").get<double>() / (4 * 4 * params), 1, 0.02) << t;
      EXPECT_NEAR(lines[t].at("pushed_bytes").get<double>() / (4 * held), 1, 0.02) << t;
    }
  }

  // The state hash of the run's cluster over a simulated network. Its configuration is the
  // fixture's but for the masking.
  std::string SimulatedHash(const std::string& run) const {
    const auto loaded = LoadConfig((RunDir(run) / "config.toml").string(), {});
    if (!loaded.ok()) return loaded.status().ToString();
    const auto setup = MakeRunSetup(loaded->config);
    if (!setup.ok()) return setup.status().ToString();
    const auto training = OpenText({(folder_ / "train.txt").string()}, 15);
    const auto validation = OpenText({(folder_ / "validation.txt").string()}, 15);
    if (!training.ok() || !validation.ok()) return "no data";
    SimCluster::Options options;
    options.run.catalog = &setup->catalog;
    options.run.layout = &setup->layout;
    options.run.shards = 2;
    options.run.workers = 4;
    options.run.coverage = setup->coverage;
    options.run.rescale = setup->rescale;
    options.run.steps = 6;
    options.run.global_batch = 10;
    options.run.clip_norm = 1;
    options.run.eval_every = 3;
    options.run.validation = true;
    options.masking = setup->masking;
    options.optimizer.lr = 0.01;
    options.optimizer.steps = 6;
    options.terms_per_sample = 15;
    options.data = {(*training)->samples(), 1, (*validation)->samples(), 1};
    options.schedule_seed = 77;
    SimCluster cluster(options, [&](int) {
      auto model = MakeTorchModel(setup->catalog, setup->layout, setup->model, training->get(),
                                  validation->get(), {.threads = 1});
      EXPECT_TRUE(model.ok()) << model.status();
      return *std::move(model);
    });
    EXPECT_EQ(cluster.Run(), absl::OkStatus());
    return absl::StrCat(
        absl::Hex(cluster.metrics().back().state_hash.value_or(0), absl::kZeroPad16));
  }
};

TEST_F(SdpTrainTest, BadInput_IsOneClearErrorAndNothingTrains) {
  const struct {
    const char* args;
    const char* says;
  } cases[] = {
      {"--set train.lrr=1", "train.lr"},
      {"--set sdp.coverage=0", "coverage"},
      {"--set sdp.coverage=0.1", "coverage"},
      {"--set sdp.holders=5", "holders"},
      {"--set sdp.assignment=cyclic --set cluster.workers=8 --set sdp.coverage=0.5", "cyclic"},
      {"--set data.train='[\"nowhere.txt\"]'", "nowhere.txt"},
      {"--set data.seq_len=1000000", "seq_len"},
      {"--set data.kind=tokens --set model.vocab=300", "train.txt"},
      {"--set model.vocab=64", "vocab"},
      {"--init nowhere.safetensors", "nowhere.safetensors"},
      {"--set cluster.workers=3 --set sdp.coverage=0.33", "coverage"},
  };
  for (size_t i = 0; i < std::size(cases); ++i) {
    const auto& c = cases[i];
    const std::string run = absl::StrCat("bad", i);
    const Outcome outcome = Train(run, c.args);
    EXPECT_NE(outcome.exit_status, 0) << c.args;
    EXPECT_NE(outcome.exit_status, 124) << c.args << " hung";
    EXPECT_THAT(outcome.output, HasSubstr(c.says)) << c.args;
    EXPECT_TRUE(Metrics(run).empty()) << c.args;
  }
}

// A start that failed leaves nothing in the way of the next one, and says why once.
TEST_F(SdpTrainTest, FailedStart_CanBeRepeatedInTheSameFolder) {
  const std::string file = WriteFile("bad.safetensors", "no such thing");
  for (int i = 0; i < 2; ++i) {
    const Outcome outcome = Train("run", "--init " + file);
    EXPECT_NE(outcome.exit_status, 0);
    EXPECT_THAT(outcome.output, HasSubstr("not a safetensors file"));
    EXPECT_EQ(outcome.output.find("not a safetensors file"),
              outcome.output.rfind("not a safetensors file"));
  }
  EXPECT_EQ(Train("run", "--set train.steps=1 --set train.eval_every=0").exit_status, 0);
}

TEST_F(SdpTrainTest, RunFolderOnAnotherFileSystem) {
  std::string other = "/dev/shm/sdp-train-XXXXXX";
  if (::mkdtemp(other.data()) == nullptr)
    GTEST_SKIP() << "no folder on another file system: " << other;
  fs::create_directory_symlink(other, RunDir("link"));
  const Outcome outcome = Train("link", "--set train.steps=1 --set train.eval_every=0");
  EXPECT_EQ(outcome.exit_status, 0) << outcome.output;
  EXPECT_TRUE(fs::exists(fs::path(other) / "logs" / "coordinator.log"));
  fs::remove_all(other);
}

TEST_F(SdpTrainTest, ExistingRunFolder_IsRefused) {
  ASSERT_EQ(Train("run", "--set train.steps=1 --set train.eval_every=0").exit_status, 0);
  const Outcome again = Train("run");
  EXPECT_EQ(again.exit_status, 1);
  EXPECT_THAT(again.output, HasSubstr(RunDir("run").string()));
}

// Two runs, other numbers of shards and unix sockets have the same weights at the end, and they are
// the weights of the same cluster over a simulated network.
TEST_F(SdpTrainTest, SameBits_TwiceAnyShardsAnyTransport_AndSimulated) {
  const Outcome first = Train("one");
  ASSERT_EQ(first.exit_status, 0) << first.output;
  const std::string hash = StateHash("one");
  ASSERT_EQ(hash.size(), 16u);
  EXPECT_EQ(Train("again").exit_status, 0);
  EXPECT_EQ(Train("single", "--set cluster.shards=1").exit_status, 0);
  EXPECT_EQ(Train("three", "--set cluster.shards=3").exit_status, 0);
  EXPECT_EQ(Train("unix", "--unix-sockets").exit_status, 0);
  for (const char* run : {"again", "single", "three", "unix"}) {
    EXPECT_EQ(StateHash(run), hash) << run;
    const auto lines = Metrics(run), expected = Metrics("one");
    ASSERT_EQ(lines.size(), expected.size());
    for (size_t t = 0; t < lines.size(); ++t) {
      EXPECT_EQ(lines[t].value("loss", 0.0), expected[t].value("loss", 0.0))
          << run << " step " << t;
      EXPECT_EQ(lines[t].value("full_loss", 0.0), expected[t].value("full_loss", 0.0))
          << run << " step " << t;
    }
  }

  EXPECT_EQ(SimulatedHash("one"), hash);
}

// What the allocator counted on the worst worker and on the shards, against what the plan says.
class SdpTrainMemoryTest : public SdpTrainTest,
                           public ::testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Kinds, SdpTrainMemoryTest,
                         ::testing::Values("masking=forward", "masking=backward",
                                           "granularity=neuron"),
                         [](const auto& info) {
                           return info.param.substr(info.param.find('=') + 1);
                         });

TEST_P(SdpTrainMemoryTest, IsThatOfThePlan) {
  const Outcome outcome =
      Train("run", absl::StrCat("--set model.dim=64 --set model.ffn_dim=172 --set data.seq_len=60 "
                                "--set data.validation=[] --set sdp.coverage=0.5 --set "
                                "train.global_batch=32 --set sdp.",
                                GetParam()));
  ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("tensors and buffers, peak/predicted: shard-0 "));
  const Json step = Metrics("run").at(5);
  std::ifstream file(RunDir("run") / "plan.json");
  const Json plan = Json::parse(file);
  int64_t predicted = 0, shard = 0;
  for (const Json& worker : plan["workers"])
    predicted = std::max(predicted, worker["memory_bytes"].get<int64_t>());
  for (const Json& load : plan["shards"])
    shard = std::max(shard, load["memory_bytes"].get<int64_t>());
  EXPECT_EQ(step["predicted_worker_allocated_bytes"], predicted);
  // 10%: the prediction takes the network at its worst, when weights come and gradients leave is
  // chance; at this size a batch's few kilobytes that overlap with the next one's show.
  const auto measured = step["max_worker_allocated_bytes"].get<double>();
  EXPECT_NEAR(measured / static_cast<double>(predicted), 1, 0.1);
  // Looser: a value that a send still refers to is not updated in place, and contributions to one
  // round may meet.
  EXPECT_GT(step["max_shard_allocated_bytes"].get<double>(), 0.7 * static_cast<double>(shard));
  EXPECT_LT(step["max_shard_allocated_bytes"].get<double>(), 1.5 * static_cast<double>(shard));
  EXPECT_GT(step["max_worker_memory_bytes"].get<double>(), measured);
}

// The values that shards would draw, given to them as a file, train to the same bits.
TEST_F(SdpTrainTest, Init_FromSafetensors) {
  ASSERT_EQ(Train("drawn").exit_status, 0);
  const auto loaded = LoadConfig((RunDir("drawn") / "config.toml").string(), {});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const auto setup = MakeRunSetup(loaded->config);
  ASSERT_TRUE(setup.ok()) << setup.status();
  std::vector<std::vector<float>> values;
  for (const TensorSpec& tensor : setup->catalog.tensors) {
    values.emplace_back(static_cast<size_t>(tensor.elements()));
  }
  for (int f = 0; f < setup->layout.fragments(); ++f) {
    FloatBuffer fragment(setup->layout.fragment(FragmentId(f)).size);
    FillInitialValues(setup->catalog, setup->layout, FragmentId(f), 0, fragment.span());
    for (const Piece& piece : setup->layout.pieces(FragmentId(f))) {
      std::copy_n(fragment.data() + piece.fragment_offset, piece.size,
                  values[static_cast<size_t>(piece.tensor)].data() + piece.tensor_offset);
    }
  }
  std::vector<TensorToWrite> tensors;
  for (size_t t = 0; t < values.size(); ++t) {
    const TensorSpec& tensor = setup->catalog.tensors[t];
    tensors.push_back({tensor.name, "F32", tensor.shape, AsBytes(values[t])});
  }
  const std::string file = WriteFile("init.safetensors", SafetensorsBytes(tensors));
  ASSERT_EQ(Train("given", "--init " + file).exit_status, 0);
  EXPECT_EQ(StateHash("given"), StateHash("drawn"));

  tensors.back().shape[0] += 1;
  tensors.back().bytes.append(
      static_cast<size_t>(tensors.back().shape.size() == 1 ? 1 : tensors.back().shape[1]) * 4,
      '\0');
  const std::string wrong = WriteFile("wrong.safetensors", SafetensorsBytes(tensors));
  const Outcome refused = Train("wrong", "--init " + wrong);
  EXPECT_NE(refused.exit_status, 0);
  EXPECT_THAT(refused.output, HasSubstr(tensors.back().name));
}

TEST_F(SdpTrainTest, Rotation_AndWholeLayers_AreReproducible) {
  const std::string more =
      "--set sdp.rotate_every=2 --set sdp.unit=layer --set train.micro_batch=1";
  ASSERT_EQ(Train("one", more).exit_status, 0);
  ASSERT_EQ(Train("two", more + " --set cluster.shards=3").exit_status, 0);
  EXPECT_EQ(StateHash("one"), StateHash("two"));
  std::set<std::string> plans;
  for (const Json& line : Metrics("one")) plans.insert(line.at("plan_hash").get<std::string>());
  EXPECT_EQ(plans.size(), 3u);
}

// Real GPT-2 token shards, where the test data is.
TEST_F(SdpTrainTest, TokenShards) {
  const fs::path data = TestDataFolder();
  const fs::path train = data / "tokens" / "linux_doc_gpt2_train_000001.bin";
  const fs::path validation = data / "tokens" / "linux_doc_gpt2_val_000000.bin";
  if (!fs::exists(train))
    GTEST_SKIP() << "no " << train << "; SDP_TEST_DATA names the folder of test data";
  const Outcome outcome = Train(
      "tokens", absl::StrCat("--set data.kind=tokens --set model.vocab=50257 --set 'data.train=[\"",
                             train.string(), "\"]' --set 'data.validation=[\"", validation.string(),
                             "\"]' --set train.eval_samples=50 --set train.steps=20"));
  ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
  const std::vector<Json> lines = Metrics("tokens");
  EXPECT_NEAR(lines.front().at("loss").get<double>(), std::log(50257), 0.2);  // untrained: uniform
  EXPECT_LT(lines.back().at("full_loss").get<double>(), std::log(50257) - 1);
}

TEST_F(SdpTrainTest, Metrics_FollowTheSchema_AndLossFalls) {
  ASSERT_EQ(Train("run", "--set train.steps=30").exit_status, 0);
  const std::vector<Json> lines = Metrics("run");
  ASSERT_EQ(lines.size(), 31u);
  for (size_t t = 0; t < lines.size(); ++t) {
    EXPECT_EQ(lines[t].at("step"), t);
    EXPECT_EQ(lines[t].at("generation"), 1);
    EXPECT_EQ(lines[t].contains("loss"), t < 30);
    EXPECT_EQ(lines[t].contains("full_loss"), t > 0 && t % 3 == 0);
  }
  EXPECT_LT(lines.back().at("full_loss").get<double>(), lines[3].at("full_loss").get<double>());
  const Json plan = Json::parse(std::ifstream(RunDir("run") / "plan.json"));
  EXPECT_EQ(plan.at("workers").size(), 4u);
}

// Looking at the gradients changes nothing.
TEST_F(SdpTrainTest, Diagnostics_AreInTheMetrics_AndTheBitsAreTheSame) {
  const std::string more = "--set sdp.holders=3 --set train.eval_every=0 ";
  ASSERT_EQ(Train("plain", more).exit_status, 0);
  ASSERT_EQ(Train("looked", more + "--set diagnostics.every=4").exit_status, 0);
  EXPECT_EQ(StateHash("looked"), StateHash("plain"));
  for (const Json& line : Metrics("looked")) {
    const int64_t step = line.at("step");
    EXPECT_EQ(line.contains("blocks"), step == 0 || step == 4) << step;
    EXPECT_EQ(line.contains("full_loss"), step % 4 == 0 || step == 6) << step;
    if (!line.contains("blocks")) continue;
    ASSERT_EQ(line["blocks"].size(), 10u);  // embedding, head, 8 sub-layers
    double squares = 0;
    for (const Json& block : line["blocks"]) {
      const bool shared = block.at("unit") == "embed" || block.at("unit") == "head";
      EXPECT_EQ(block.at("holders"), shared ? 4 : 3) << block;
      squares += std::pow(block.at("gradient_norm").get<double>(), 2);
      const double cosine = block.at("cosine"), variance = block.at("variance");
      EXPECT_GT(cosine, 0) << block;  // of one text, so much of the gradient is common
      EXPECT_LT(cosine, 1) << block;
      EXPECT_GT(variance, 0) << block;
      const double dense_cosine = block.at("dense_cosine"), ratio = block.at("dense_ratio");
      EXPECT_GT(dense_cosine, 0.5) << block;
      EXPECT_LE(dense_cosine, 1) << block;
      // Of what 3 of 4 hold, training's factor is 4/3 of that in the full model.
      EXPECT_GT(ratio, shared ? 0.7 : 1) << block;
      EXPECT_LT(ratio, shared ? 1.4 : 1.8) << block;
    }
    const double norm = line.at("gradient_norm");
    EXPECT_NEAR(squares, norm * norm, 1e-9 * norm * norm);
  }
}

// Where all hold everything, both gradients are the same sums; whatever the granularity and the
// masking, and without validation data.
TEST_F(SdpTrainTest, Diagnostics_AtCoverage1_TheGradientIsTheDenseOne) {
  const std::string more =
      "--set sdp.holders=4 --set train.steps=2 --set train.micro_batch=1 --set data.validation=[] "
      "--set diagnostics.every=1 ";
  const std::vector<std::string> kinds = {"", "--set sdp.masking=backward ",
                                          "--set sdp.granularity=neuron --set sdp.groups=4 ",
                                          "--set train.precision=bf16 "};
  for (size_t kind = 0; kind < kinds.size(); ++kind) {
    const std::string run = absl::StrCat("dense-", kind);
    const Outcome outcome = Train(run, more + kinds[kind]);
    ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
    for (const Json& line : Metrics(run)) {
      if (!line.contains("loss")) continue;
      ASSERT_TRUE(line.contains("blocks"));
      for (const Json& block : line["blocks"]) {
        EXPECT_NEAR(block.at("dense_cosine").get<double>(), 1, 1e-12) << kinds[kind] << block;
        EXPECT_NEAR(block.at("dense_ratio").get<double>(), 1, 1e-12) << kinds[kind] << block;
      }
    }
  }
}

// Bytes on the wire are those of the held blocks: 4 bytes a parameter each way; headers are within
// 2% at these sizes.
TEST_F(SdpTrainTest, Bytes_AreThoseOfTheSubnetworks) {
  ASSERT_EQ(
      Train(
          "run",
          "--set model.dim=64 --set model.ffn_dim=172 --set train.steps=4 --set train.eval_every=0")
          .exit_status,
      0);
  const Json plan = Json::parse(std::ifstream(RunDir("run") / "plan.json"));
  double pull = 0, push = 0;
  for (const Json& worker : plan.at("workers")) {
    pull += worker.at("pull_bytes").get<double>();
    push += worker.at("push_bytes").get<double>();
  }
  const std::vector<Json> lines = Metrics("run");
  for (size_t t = 0; t + 1 < lines.size(); ++t) {
    EXPECT_NEAR(lines[t].at("pulled_bytes").get<double>() / pull, 1, 0.02) << "step " << t;
    EXPECT_NEAR(lines[t].at("pushed_bytes").get<double>() / push, 1, 0.02) << "step " << t;
  }
}

// Everything comes in, held blocks go out; the bits are those of any number of shards, of unix
// sockets, and of the simulated cluster.
TEST_F(SdpTrainTest, BackwardMasking_SameBitsAnyShards_BytesOfThePlan) {
  const std::string backward = "--set sdp.masking=backward ";
  ASSERT_EQ(Train("one", backward).exit_status, 0);
  EXPECT_EQ(Train("single", backward + "--set cluster.shards=1").exit_status, 0);
  EXPECT_EQ(Train("three", backward + "--set cluster.shards=3 --unix-sockets").exit_status, 0);
  const std::string hash = StateHash("one");
  EXPECT_EQ(hash.size(), 16u);
  EXPECT_EQ(StateHash("single"), hash);
  EXPECT_EQ(StateHash("three"), hash);
  EXPECT_EQ(SimulatedHash("one"), hash);

  const std::string wide = backward + "--set model.dim=64 --set model.ffn_dim=172 ";
  ASSERT_EQ(Train("wide", wide).exit_status, 0);
  ExpectBackwardBytes("wide");
}

// The same where heads and neurons are units, some of which are held and others read.
TEST_F(SdpTrainTest, BackwardMaskingOfParts_SameBitsAnyShards_BytesOfThePlan) {
  const std::string parts =
      "--set sdp.masking=backward --set sdp.granularity=neuron --set sdp.groups=4 --set "
      "sdp.coverage=0.6 --set model.dim=64 --set model.ffn_dim=172 ";
  ASSERT_EQ(Train("one", parts).exit_status, 0);
  EXPECT_EQ(Train("three", parts + "--set cluster.shards=3 --unix-sockets").exit_status, 0);
  EXPECT_EQ(StateHash("one").size(), 16u);
  EXPECT_EQ(StateHash("three"), StateHash("one"));
  EXPECT_EQ(SimulatedHash("one"), StateHash("one"));
  ExpectBackwardBytes("one");
  EXPECT_EQ(
      Train("half", parts + "--set train.precision=bf16 --set train.micro_batch=1").exit_status, 0);

  const std::string full = parts + "--set sdp.coverage=1 ";
  ASSERT_EQ(Train("backward", full).exit_status, 0);
  ASSERT_EQ(Train("forward", full + "--set sdp.masking=forward").exit_status, 0);
  EXPECT_EQ(StateHash("backward"), StateHash("forward"));
}

TEST_F(SdpTrainTest, BackwardMasking_AtCoverage1_HasTheBitsOfForward) {
  ASSERT_EQ(Train("forward", "--set sdp.coverage=1").exit_status, 0);
  ASSERT_EQ(Train("backward", "--set sdp.coverage=1 --set sdp.masking=backward").exit_status, 0);
  EXPECT_EQ(StateHash("backward"), StateHash("forward"));
  const std::vector<Json> a = Metrics("forward"), b = Metrics("backward");
  ASSERT_EQ(a.size(), b.size());
  for (size_t t = 0; t < a.size(); ++t) {
    EXPECT_EQ(a[t].value("loss", 0.0), b[t].value("loss", 0.0));
    EXPECT_EQ(a[t].value("full_loss", 0.0), b[t].value("full_loss", 0.0));
  }
}

// bf16: half of the bytes, the same bits whatever carries them, and a loss near f32's (2^-8 for a
// rounding, some of them, and six steps of what they did to the weights).
TEST_F(SdpTrainTest, Bf16_HalfTheBytes_SameBitsTwiceAndAnyShards_LossNearF32s) {
  const std::string wide = "--set model.dim=64 --set model.ffn_dim=172 ";
  const std::string bf16 = wide + "--set train.precision=bf16 --set train.micro_batch=1 ";
  ASSERT_EQ(Train("f32", wide).exit_status, 0);
  const Outcome outcome = Train("one", bf16);
  ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
  EXPECT_EQ(Train("single", bf16 + "--set cluster.shards=1").exit_status, 0);
  EXPECT_EQ(Train("three", bf16 + "--set cluster.shards=3 --unix-sockets").exit_status, 0);
  EXPECT_EQ(StateHash("one").size(), 16u);
  EXPECT_EQ(StateHash("single"), StateHash("one"));
  EXPECT_EQ(StateHash("three"), StateHash("one"));
  EXPECT_NE(StateHash("f32"), StateHash("one"));

  const std::vector<Json> lines = Metrics("one"), f32 = Metrics("f32");
  ASSERT_EQ(lines.size(), f32.size());
  for (size_t t = 0; t + 1 < lines.size(); ++t) {
    const double loss = f32[t].at("loss").get<double>();
    EXPECT_NEAR(lines[t].at("loss").get<double>(), loss, 0.01 * loss) << "step " << t;
    for (const char* bytes : {"pulled_bytes", "pushed_bytes"}) {
      // Headers, of which there are as many, are within 2%.
      EXPECT_NEAR(lines[t].at(bytes).get<double>() / f32[t].at(bytes).get<double>(), 0.5, 0.01)
          << "step " << t;
    }
  }
  const double full = f32.back().at("full_loss").get<double>();
  EXPECT_NEAR(lines.back().at("full_loss").get<double>(), full, 0.01 * full);
  for (const char* bytes : {"pull_bytes", "push_bytes"}) {
    const auto planned = [&](const char* run) {
      const Json plan = Json::parse(std::ifstream(RunDir(run) / "plan.json"));
      return plan.at("workers").at(0).at(bytes).get<int64_t>();
    };
    EXPECT_EQ(2 * planned("one"), planned("f32"));
  }
}

// Heads and neurons as units, with 2 or 3 holders at a coverage of 2.4 of 4: factors differ within
// a stage. The same bits whatever carries them and wherever it stops; only what is held travels.
TEST_F(SdpTrainTest, Neurons_SameBitsAnyShardsAndResumed_BytesOfTheSubnetworks) {
  const std::string neurons =
      "--set sdp.granularity=neuron --set sdp.groups=4 --set sdp.coverage=0.6 --set model.dim=64 "
      "--set model.ffn_dim=172 --set checkpoint.every=3 ";
  const Outcome outcome = Train("one", neurons);
  ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
  EXPECT_EQ(
      Train("single", neurons + "--set cluster.shards=1 --set diagnostics.every=4").exit_status, 0);
  EXPECT_EQ(Train("three", neurons + "--set cluster.shards=3 --unix-sockets").exit_status, 0);
  EXPECT_EQ(Train("two", neurons + "--set train.steps=3").exit_status, 0);
  const Outcome resumed =
      Shell(absl::StrCat(Program("sdp"), " train ", (RunDir("two") / "config.toml").string(),
                         " --set train.steps=6 --set cluster.shards=3 --resume"));
  EXPECT_EQ(resumed.exit_status, 0) << resumed.output;
  EXPECT_EQ(StateHash("one").size(), 16u);
  for (const char* run : {"single", "three", "two"}) EXPECT_EQ(StateHash(run), StateHash("one"));
  EXPECT_EQ(SimulatedHash("one"), StateHash("one"));
  EXPECT_EQ(Train("half", neurons + "--set train.precision=bf16").exit_status, 0);
  EXPECT_EQ(Train("half-of-three", neurons + "--set train.precision=bf16 --set cluster.shards=3")
                .exit_status,
            0);
  EXPECT_EQ(StateHash("half-of-three"), StateHash("half"));

  const Json plan = Json::parse(std::ifstream(RunDir("one") / "plan.json"));
  double pull = 0, push = 0;
  for (const Json& worker : plan.at("workers")) {
    pull += worker.at("pull_bytes").get<double>();
    push += worker.at("push_bytes").get<double>();
  }
  const std::vector<Json> lines = Metrics("one");
  for (size_t t = 0; t + 1 < lines.size(); ++t) {
    EXPECT_NEAR(lines[t].at("pulled_bytes").get<double>() / pull, 1, 0.02) << "step " << t;
    EXPECT_NEAR(lines[t].at("pushed_bytes").get<double>() / push, 1, 0.02) << "step " << t;
  }
  EXPECT_EQ(Metrics("single").front().at("blocks").size(), plan.at("units").size());
}

TEST_F(SdpTrainTest, CudaWithoutAGpu_EndsSayingWhatToDo) {
  const Outcome outcome = Train("run", "--set worker.device=cuda");
  if (outcome.exit_status == 0) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("worker.device = \"cuda\": "));
  EXPECT_THAT(outcome.output, HasSubstr("worker.device = \"cpu\""));
}

TEST_F(SdpTrainTest, InfiniteLoss_EndsTheRunNamingStepAndWorker) {
  const Outcome outcome = Train("run",
                                "--set train.optimizer=sgd --set train.lr=1e6 --set "
                                "train.clip_norm=0 --set train.eval_every=0 "
                                "--set train.steps=50");
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("not finite"));
  EXPECT_THAT(outcome.output, HasSubstr("step "));
}

// The first updates leave weights with which nothing is finite any more.
TEST_F(SdpTrainTest, InfiniteLoss_Skipped_UntilItIsPlainThatItStays) {
  const Outcome outcome = Train("run",
                                "--set train.optimizer=sgd --set train.lr=1e6 --set "
                                "train.clip_norm=1e6 --set train.on_nonfinite=skip --set "
                                "train.eval_every=0 --set train.steps=200");
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("  skipped: the gradient of fragment "));
  EXPECT_THAT(outcome.output, HasSubstr(" changed nothing: "));
}

// The learning rate rises until nothing helps any more, whatever the samples' order.
TEST_F(SdpTrainTest, SpikesOfTheLoss_GoBack_UntilItIsPlainThatTheyStay) {
  const Outcome outcome =
      Train("run",
            "--set train.lr=30 --set train.warmup_steps=150 --set train.steps=150 --set "
            "train.clip_norm=1 --set train.eval_every=0 --set train.spike_factor=1.1 --set "
            "checkpoint.every=10");
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("the loss has had a spike 4 times"));
  std::ifstream events(folder_ / "run/events.jsonl");
  int times = 0;
  for (std::string line; std::getline(events, line);) {
    const auto event = nlohmann::json::parse(line);
    if (event["event"] != "go_back") continue;
    ++times;
    EXPECT_THAT(event["reason"].get<std::string>(), HasSubstr("is more than 1.1 times the median"));
  }
  EXPECT_GE(times, 4);
}

TEST_F(SdpTrainTest, Interrupt_StopsAtAStepBoundary) {
  const Outcome outcome =
      Shell(absl::StrCat("bash -c 'set -m; ", Program("sdp"), " train ", Config(),
                         " --set run.dir=", RunDir("run").string(),
                         " --set train.steps=1000000 --set train.eval_every=0 & top=$!; "
                         "for i in $(seq 300); do grep -q loss ",
                         RunDir("run").string(),
                         "/metrics.jsonl 2>/dev/null && break; sleep 0.1; done; "
                         "kill -INT $top; wait $top; echo exit=$?'"));
  EXPECT_THAT(outcome.output, HasSubstr("exit=130"));
  const std::vector<Json> lines = Metrics("run");
  ASSERT_FALSE(lines.empty());
  EXPECT_TRUE(lines.back().contains("state_hash"));
  EXPECT_FALSE(lines.back().contains("full_loss"));
}

// The README's three kinds of terminals: roles started by hand, in any order.
TEST_F(SdpTrainTest, RolesByHand_SameBitsAsTheLocalCluster) {
  ASSERT_EQ(Train("local").exit_status, 0);
  const std::string common =
      absl::StrCat(" --config ", Config(), " --set run.dir=", RunDir("hand").string());
  std::string script = absl::StrCat(
      "bash -c '", Program("sdp-coordinator"), common, " --address-file address & top=$!; ",
      "for i in $(seq 300); do test -s address && break; sleep 0.1; done; ");
  for (const char* worker : {"worker-3", "worker-1", "worker-0", "worker-2"}) {
    absl::StrAppend(&script, Program("sdp-worker"), common, " --coordinator $(cat address) --name ",
                    worker, " & ");
  }
  for (const char* shard : {"shard-1", "shard-0"}) {
    absl::StrAppend(&script, Program("sdp-shard"), common, " --coordinator $(cat address) --name ",
                    shard, " & ");
  }
  absl::StrAppend(&script, "wait $top; echo exit=$?; wait'");
  const Outcome outcome = Shell(script);
  EXPECT_THAT(outcome.output, HasSubstr("exit=0"));
  EXPECT_EQ(StateHash("hand"), StateHash("local"));
}

TEST_F(SdpTrainTest, WorkerOfAnotherConfig_IsRefused) {
  const std::string common =
      absl::StrCat(" --config ", Config(), " --set run.dir=", RunDir("hand").string());
  const Outcome refused =
      Shell(absl::StrCat("bash -c '", Program("sdp-coordinator"), common,
                         " --address-file address >coordinator.out 2>&1 & top=$!; ",
                         "for i in $(seq 300); do test -s address && break; sleep 0.1; done; ",
                         Program("sdp-worker"), common,
                         " --set train.lr=0.5 --coordinator $(cat address) --name worker-0; echo "
                         "exit=$?; kill $top; wait'"));
  EXPECT_THAT(refused.output, HasSubstr("config hash"));
  EXPECT_THAT(refused.output, HasSubstr("exit=1"));
}

TEST_F(SdpTrainTest, PortInUse_IsNamed) {
  const std::string common = absl::StrCat(" --config ", Config(), " --set run.dir=");
  const Outcome outcome =
      Shell(absl::StrCat("bash -c '", Program("sdp-coordinator"), common, RunDir("a").string(),
                         " --address-file address >a.out 2>&1 & top=$!; ",
                         "for i in $(seq 300); do test -s address && break; sleep 0.1; done; ",
                         Program("sdp-coordinator"), common, RunDir("b").string(),
                         " --listen $(cat address); echo exit=$?; kill $top; wait'"));
  EXPECT_THAT(outcome.output, HasSubstr("exit=1"));
  EXPECT_THAT(outcome.output, HasSubstr("127.0.0.1:"));
}

}  // namespace
}  // namespace sdp
