// Real processes that are killed, stopped and damaged, and what `sdp train --resume` makes of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/random.h"
#include "tests/end_to_end/train_fixture.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class ResumeRunTest : public TrainFixture {
 protected:
  // Rotation, clipping and evaluation; a checkpoint every 5 steps.
  static constexpr char kRun[] =
      "--set train.steps=40 --set checkpoint.every=5 --set sdp.rotate_every=4 --set "
      "train.eval_every=6 ";

  // Starts `sdp train`, and kills all its processes at once when metrics.jsonl has `lines` lines.
  void TrainAndKill(const std::string& run, const std::string& more, size_t lines) const {
    const Outcome outcome =
        Shell(absl::StrCat("bash -c 'set -m; ", Program("sdp"), " train ", Config(),
                           " --set run.dir=", RunDir(run).string(), " ", more,
                           " & top=$!; for i in $(seq 3000); do test $(cat ", RunDir(run).string(),
                           "/metrics.jsonl 2>/dev/null | wc -l) -ge ", lines,
                           " && break; sleep 0.02; done; kill -KILL -- -$top; wait $top'"));
    EXPECT_NE(outcome.exit_status, 124) << outcome.output;
  }

  // Starts it, and sends SIGINT when metrics.jsonl has `lines` lines.
  Outcome TrainAndInterrupt(const std::string& run, const std::string& more, size_t lines) const {
    return Shell(absl::StrCat(
        "bash -c 'set -m; ", Program("sdp"), " train ", Config(), " --set run.dir=",
        RunDir(run).string(), " ", more, " & top=$!; for i in $(seq 3000); do test $(cat ",
        RunDir(run).string(), "/metrics.jsonl 2>/dev/null | wc -l) -ge ", lines,
        " && break; sleep 0.02; done; kill -INT $top; wait $top; echo exit=$?'"));
  }

  // Per step the line of the highest generation.
  std::map<int64_t, Json> Newest(const std::string& run) const {
    std::map<int64_t, Json> newest;
    for (const Json& line : Metrics(run)) {
      Json& kept = newest[line.at("step").get<int64_t>()];
      if (kept.is_null() || kept.at("generation") <= line.at("generation")) kept = line;
    }
    return newest;
  }

  // What was learned is the same, step by step and bit by bit.
  void ExpectSameRun(const std::string& run, const std::string& expected) const {
    EXPECT_EQ(StateHash(run), StateHash(expected));
    const std::map<int64_t, Json> lines = Newest(run), wanted = Newest(expected);
    ASSERT_EQ(lines.size(), wanted.size());
    for (const auto& [step, line] : lines) {
      for (const char* key : {"loss", "full_loss", "plan_hash", "samples", "clip_scale"}) {
        EXPECT_EQ(line.value(key, Json()), wanted.at(step).value(key, Json()))
            << key << " of step " << step;
      }
    }
  }

  std::vector<std::string> Checkpoints(const std::string& run) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(RunDir(run) / "checkpoints"))
      names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
};

TEST_F(ResumeRunTest, KilledAtRandomMoments_OtherShards_SameBits) {
  ASSERT_EQ(Train("whole", kRun).exit_status, 0);
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  RandomStream random(seed, 0);
  for (int life = 0; life < 3; ++life) {
    const std::string resume = life == 0 ? "" : "--resume ";
    TrainAndKill("killed", absl::StrCat(kRun, resume, "--set cluster.shards=", 1 + random.Below(3)),
                 Metrics("killed").size() + 1 + random.Below(12));
  }
  const Outcome end = Train("killed", absl::StrCat(kRun, "--resume --set cluster.shards=2"));
  EXPECT_EQ(end.exit_status, 0) << end.output;
  ExpectSameRun("killed", "whole");
  EXPECT_EQ(Checkpoints("killed"), Checkpoints("whole"));
  const Outcome audit = Shell(absl::StrCat(Program("sdp"), " audit ", RunDir("killed").string()));
  EXPECT_EQ(audit.exit_status, 0) << audit.output;
  EXPECT_THAT(audit.output, HasSubstr("all samples were used as promised"));

  const Outcome again = Train("killed", absl::StrCat(kRun, "--resume"));
  EXPECT_EQ(again.exit_status, 0);
  EXPECT_THAT(again.output, HasSubstr("is finished"));
}

TEST_F(ResumeRunTest, BackwardMasking_KilledAndResumed_SameBits) {
  const std::string run = absl::StrCat(kRun, "--set sdp.masking=backward --set train.steps=20 ");
  ASSERT_EQ(Train("whole", run).exit_status, 0);
  TrainAndKill("killed", absl::StrCat(run, "--set cluster.shards=3"), 8);
  const Outcome end = Train("killed", absl::StrCat(run, "--resume"));
  EXPECT_EQ(end.exit_status, 0) << end.output;
  ExpectSameRun("killed", "whole");
}

TEST_F(ResumeRunTest, Interrupt_WritesACheckpoint_ResumeGoesOnFromThere) {
  ASSERT_EQ(Train("whole", kRun).exit_status, 0);
  const Outcome stopped =
      TrainAndInterrupt("stopped", absl::StrCat(kRun, "--set checkpoint.every=0"), 8);
  EXPECT_THAT(stopped.output, AllOf(HasSubstr("exit=130"), HasSubstr("config.toml --resume")));
  ASSERT_EQ(Checkpoints("stopped").size(), 1u);
  const std::string checkpoint = Checkpoints("stopped")[0];
  // From the folder's own configuration, as the message says.
  const Outcome end = Shell(absl::StrCat(
      Program("sdp"), " train ", (RunDir("stopped") / "config.toml").string(), " --resume"));
  EXPECT_EQ(end.exit_status, 0) << end.output;
  EXPECT_THAT(end.output,
              HasSubstr(absl::StrCat("going on from checkpoint ", checkpoint.substr(5))));
  ExpectSameRun("stopped", "whole");
}

TEST_F(ResumeRunTest, DamagedCheckpoint_IsNamed_AndTheOneBeforeIsUsed) {
  const std::string run = absl::StrCat(kRun, "--set train.steps=20 ");
  ASSERT_EQ(Train("whole", run).exit_status, 0);
  ASSERT_EQ(Checkpoints("whole"), (std::vector<std::string>{"step-15", "step-20"}));
  const std::string hash = StateHash("whole");
  const fs::path file = RunDir("whole") / "checkpoints/step-20/shard-1-of-2.gen-1.safetensors";
  fs::resize_file(file, fs::file_size(file) - 4);
  // A finished run has nothing to resume; asked for by its step, a damaged checkpoint is an error.
  const Outcome asked = Train("whole", absl::StrCat(run, "--resume 20"));
  EXPECT_NE(asked.exit_status, 0);
  EXPECT_THAT(asked.output, HasSubstr(file.filename().string()));
  // More steps: then it goes on, from the one before.
  const Outcome end = Train("whole", absl::StrCat(kRun, "--set train.steps=25 --resume"));
  EXPECT_EQ(end.exit_status, 0) << end.output;
  EXPECT_THAT(end.output,
              AllOf(HasSubstr("checkpoint 20 is damaged"), HasSubstr("going on from checkpoint 15"),
                    HasSubstr("train.steps: 20 -> 25")));
  EXPECT_THAT(Checkpoints("whole"), ::testing::Contains("step-20.before-gen-2"));
}

TEST_F(ResumeRunTest, OtherConfig_NeedsForce_AndNoRunIsNamed) {
  ASSERT_EQ(Train("run").exit_status, 0);
  const std::string more = "--set train.steps=8 --set train.lr=0.02 ";
  const Outcome refused = Train("run", absl::StrCat(more, "--resume"));
  EXPECT_NE(refused.exit_status, 0);
  EXPECT_THAT(refused.output, AllOf(HasSubstr("train.lr: 0.01 -> 0.02"), HasSubstr("--force")));
  const Outcome forced = Train("run", absl::StrCat(more, "--resume --force"));
  EXPECT_EQ(forced.exit_status, 0) << forced.output;
  const Outcome none = Train("nowhere", "--resume");
  EXPECT_NE(none.exit_status, 0);
  EXPECT_THAT(none.output, HasSubstr("no run to resume"));
  EXPECT_NE(Train("other", "--force").exit_status, 0);
}

// What cannot be written costs the checkpoint, not the training; but the exit status tells.
TEST_F(ResumeRunTest, CheckpointThatCannotBeWritten_TrainingGoesOn_ExitStatusTells) {
  fs::create_directories(folder_ / "disk");
  std::ofstream(folder_ / "disk" / "step-10") << "in the way";
  const Outcome outcome = Train(
      "run", absl::StrCat(
                 kRun, "--set train.steps=20 --set checkpoint.dir=", (folder_ / "disk").string()));
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("checkpoint 10"), HasSubstr("trained to step 20")));
  EXPECT_TRUE(Metrics("run").back().contains("state_hash"));
  EXPECT_TRUE(fs::exists(folder_ / "disk" / "step-20" / "manifest.json"));
}

// A file system of its own that is too small, then one that is filled while the run trains and has
// room again later.
TEST_F(ResumeRunTest, FullDisk_RefusedAtTheStart_LaterTrainingGoesOn) {
  fs::create_directories(folder_ / "disk");
  const std::string disk = (folder_ / "disk").string();
  const auto mount = [&](const char* size) {
    return absl::StrCat("mount -t tmpfs -o size=", size, " tmpfs ", disk, " && ");
  };
  if (Shell(absl::StrCat("unshare -m bash -c '", mount("1m"), "true'")).exit_status != 0) {
    GTEST_SKIP() << "needs a mount namespace of its own (root)";
  }
  const std::string train = absl::StrCat(
      Program("sdp"), " train ", Config(), " --set train.eval_every=0 --set train.steps=400",
      " --set checkpoint.every=20 --set checkpoint.dir=", disk, " --set run.dir=");

  const Outcome refused = Shell(
      absl::StrCat("unshare -m bash -c '", mount("256k"), train, RunDir("small").string(), "'"));
  EXPECT_EQ(refused.exit_status, 1);
  EXPECT_THAT(refused.output, AllOf(HasSubstr("no room for checkpoints"), HasSubstr(disk)));
  EXPECT_FALSE(fs::exists(RunDir("small")));

  const std::string lines = (RunDir("run") / "metrics.jsonl").string();
  const Outcome outcome = Shell(absl::StrCat(
      "unshare -m bash -c '", mount("4m"), "{ ", train, RunDir("run").string(),
      " > out 2>&1 & top=$!; ", "for i in $(seq 3000); do test -s ", lines,
      " && break; sleep 0.02; done; ", "cat /dev/zero > disk/filler; ",
      "for i in $(seq 3000); do grep -q \"No space left\" run/logs/coordinator.log && break; sleep "
      "0.02; done; rm disk/filler; ",
      "wait $top; echo exit=$?; tail -5 out; test -s disk/step-400/manifest.json && "
      "echo last-one-written; }'"));
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr("exit=1"), HasSubstr("No space left"),
                    HasSubstr("trained to step 400"), HasSubstr("last-one-written")));
  EXPECT_TRUE(Metrics("run").back().contains("state_hash"));
}

}  // namespace
}  // namespace sdp
