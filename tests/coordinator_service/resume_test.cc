#include "server/coordinator/service/resume.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/checkpoint/checkpoint_reader.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "common/config/config.h"
#include "common/data/file_checksum.h"
#include "tests/cluster_process/temp_folder.h"
#include "tests/data/files.h"
#include "tests/export/dense_folder.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ResumeTest : public ::testing::Test {
 protected:
  ResumeTest() : setup_(Setup({})) {
    request_.checkpoints = folder_ / "checkpoints";
    request_.before = setup_.config;
    request_.records = {
        GenerationRecord{Generation(2), Term(2), setup_.config_hash, 0, "", 0, setup_.coverage},
        MemberRecord{Incarnation(9), "worker-0"}, MemberRecord{Incarnation(8), "worker-1"},
        ViewRecord{ViewId(3), {}, {}}};
  }

  static RunSetup Setup(const std::vector<std::string>& sets) {
    const auto loaded = LoadConfigText(
        "[model]\narch = 'llama'\ndim = 8\nlayers = 2\nheads = 2\nffn_dim = 12\n"
        "[data]\ntrain = ['a.txt']\n[train]\nsteps = 100\n",
        "run.toml", sets);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    auto setup = MakeRunSetup(loaded->config);
    EXPECT_TRUE(setup.ok()) << setup.status();
    return *std::move(setup);
  }

  std::string Path(Step step) const { return request_.checkpoints + "/" + CheckpointName(step); }

  void WriteCheckpoint(Step step, const RunSetup& setup) {
    std::vector<CheckpointFileWriter::Fragment> fragments;
    for (int f = 0; f < setup.layout.fragments(); ++f)
      fragments.push_back({FragmentId(f), setup.layout.fragment(FragmentId(f)).size});
    auto writer = CheckpointFileWriter::Create(Path(step), "all.safetensors", fragments, 0);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (const auto& fragment : fragments) {
      const std::vector<float> value(static_cast<size_t>(fragment.size), 1.5f);
      ASSERT_EQ((*writer)->Add(value, {}, step), absl::OkStatus());
    }
    const auto file = (*writer)->Finish();
    ASSERT_TRUE(file.ok()) << file.status();
    CheckpointManifest manifest;
    manifest.step = step;
    manifest.cursor = SampleCursor(32 * step);
    manifest.config_hash = setup.config_hash;
    manifest.coverage = setup.coverage;
    manifest.data = {10, 1, 0, 0};
    manifest.files = {*file};
    ASSERT_EQ(WriteManifest(Path(step), manifest), absl::OkStatus());
  }
  void FlipLastByte(Step step) {
    const std::string path = Path(step) + "/all.safetensors";
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put(0x11);
  }

  TempFolder folder_;
  RunSetup setup_;
  ResumeRequest request_;
};

TEST_F(ResumeTest, Newest_NumbersNeverUsedBefore) {
  WriteCheckpoint(10, setup_);
  WriteCheckpoint(20, setup_);
  const auto beginning = ResumeRun(setup_, request_);
  ASSERT_TRUE(beginning.ok()) << beginning.status();
  const GenerationStart& start = beginning->start;
  EXPECT_EQ(start.state.step, 20);
  EXPECT_EQ(start.state.checkpoint, fs::absolute(Path(20)).lexically_normal());
  EXPECT_EQ(start.cursor, SampleCursor(640));
  EXPECT_EQ(start.data, (DataSummary{10, 1, 0, 0}));
  EXPECT_EQ(start.generation, Generation(3));
  EXPECT_EQ(start.last_incarnation, Incarnation(9));
  EXPECT_EQ(start.last_view, ViewId(3));
}

TEST_F(ResumeTest, DamagedOnes_AreNamed_AndTheOneBeforeIsTaken) {
  for (const Step step : {10, 20, 30, 40}) WriteCheckpoint(step, setup_);
  FlipLastByte(40);
  fs::resize_file(Path(30) + "/all.safetensors", 100);
  fs::resize_file(Path(20) + "/manifest.json", 100);
  const auto beginning = ResumeRun(setup_, request_);
  ASSERT_TRUE(beginning.ok()) << beginning.status();
  EXPECT_EQ(beginning->start.state.step, 10);
  for (const char* part : {"checkpoint 40 is damaged", "checkpoint 30 is damaged",
                           "checkpoint 20 is damaged", "checksum", "all.safetensors", "manifest"}) {
    EXPECT_THAT(beginning->notes, Contains(HasSubstr(part)));
  }
  request_.step = 30;  // asked for by name: no other one is taken
  EXPECT_TRUE(absl::IsDataLoss(ResumeRun(setup_, request_).status()));
  request_.step = 15;
  EXPECT_TRUE(absl::IsNotFound(ResumeRun(setup_, request_).status()));
}

TEST_F(ResumeTest, WithoutACheckpoint_BeginsAgain_WithTheCoverageOfTheFirstStart) {
  std::get<GenerationRecord>(request_.records[0]).coverage[1] = 0.25;
  const auto beginning = ResumeRun(setup_, request_);
  ASSERT_TRUE(beginning.ok()) << beginning.status();
  EXPECT_EQ(beginning->start.state.step, 0);
  EXPECT_EQ(beginning->start.state.checkpoint, "");
  EXPECT_EQ(beginning->start.generation, Generation(3));
  EXPECT_EQ(beginning->coverage[1], 0.25);
}

TEST_F(ResumeTest, ChangedInitFile_IsRefused) {
  const std::string path = WriteFile("init", "first");
  EXPECT_FALSE(BeginRun(setup_, {.init_file = path}).ok());  // it is no safetensors file
  auto& record = std::get<GenerationRecord>(request_.records[0]);
  record.init_path = path;
  record.init_checksum = *FileChecksum(path);
  EXPECT_TRUE(ResumeRun(setup_, request_).ok());
  WriteFile("init", "other");
  const absl::Status status = ResumeRun(setup_, request_).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
}

TEST_F(ResumeTest, ChangedFolder_IsRefused) {
  DenseFolder dense;
  dense.spec = std::get<LlamaSpec>(setup_.model);
  dense.positions = 256;
  const std::string path = folder_ / "model";
  EXPECT_TRUE(absl::IsNotFound(BeginRun(setup_, {.pretrained = path}).status()));
  dense.Write(path);
  const auto begun = BeginRun(setup_, {.pretrained = path});
  ASSERT_TRUE(begun.ok()) << begun.status();
  EXPECT_EQ(begun->start.state.init_path, path);
  EXPECT_THAT(begun->notes, Contains(HasSubstr(path)));

  auto& record = std::get<GenerationRecord>(request_.records[0]);
  record.init_path = begun->start.state.init_path;
  record.init_checksum = begun->start.init_checksum;
  const auto again = ResumeRun(setup_, request_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->start.state.init_path, path);
  const std::string part = path + "/" + DenseFolder::PartName(2);
  std::string bytes = ReadAll(part);
  bytes.back() ^= 1;
  WriteAll(part, bytes);
  EXPECT_TRUE(absl::IsFailedPrecondition(ResumeRun(setup_, request_).status()));
}

TEST_F(ResumeTest, ChangedKeys_AreListed_AndThoseThatTrainSomethingElseNeedForce) {
  WriteCheckpoint(10, setup_);
  const RunSetup free = Setup({"train.steps=200", "cluster.workers=8", "run.dir=elsewhere"});
  const auto beginning = ResumeRun(free, request_);
  ASSERT_TRUE(beginning.ok()) << beginning.status();
  EXPECT_THAT(beginning->notes, Contains(HasSubstr("train.steps: 100 -> 200")));
  EXPECT_THAT(beginning->notes, Contains(HasSubstr("cluster.workers: 4 -> 8")));

  const RunSetup other = Setup({"train.lr=0.5", "sdp.coverage=0.75"});
  const absl::Status refused = ResumeRun(other, request_).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("train.lr: 3e-4 -> 0.5"));
  request_.force = true;
  const auto forced = ResumeRun(other, request_);
  ASSERT_TRUE(forced.ok()) << forced.status();
  EXPECT_EQ(forced->coverage, other.coverage);
  EXPECT_FALSE(forced->start.data.has_value());
  // What no force can make fit.
  const absl::Status model = ResumeRun(Setup({"model.layers=3"}), request_).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(model)) << model;
  EXPECT_THAT(std::string(model.message()), HasSubstr("another model"));
}

// `holders` is a share of the workers of the first start; other workers do not change c_j.
TEST_F(ResumeTest, Coverage_IsNotRecomputed) {
  const RunSetup two = Setup({"sdp.holders=2"});
  request_.before = two.config;
  std::get<GenerationRecord>(request_.records[0]).coverage = two.coverage;
  WriteCheckpoint(10, two);
  const RunSetup more = Setup({"sdp.holders=2", "cluster.workers=8"});
  ASSERT_NE(more.coverage, two.coverage);
  const auto beginning = ResumeRun(more, request_);
  ASSERT_TRUE(beginning.ok()) << beginning.status();
  EXPECT_EQ(beginning->coverage, two.coverage);
}

// The numbers of the life that is taken up, not new ones; its members have them.
TEST_F(ResumeTest, TakeUp_HasTheNumbersOfTheNewestGeneration) {
  WriteCheckpoint(20, setup_);
  std::get<GenerationRecord>(request_.records.front()).step = 20;
  const auto beginning = TakeUpRun(setup_, request_);
  ASSERT_TRUE(beginning.ok()) << beginning.status();
  ASSERT_TRUE(beginning->has_value());
  EXPECT_EQ((*beginning)->start.generation, Generation(2));
  EXPECT_EQ((*beginning)->start.state.step, 20);
  EXPECT_EQ((*beginning)->start.cursor, SampleCursor(640));  // no step is bound yet
  EXPECT_EQ((*beginning)->start.last_incarnation, Incarnation(9));
}

TEST_F(ResumeTest, TakeUp_NothingBegan_HasNothing) {
  request_.records.clear();
  const auto beginning = TakeUpRun(setup_, request_);
  ASSERT_TRUE(beginning.ok()) << beginning.status();
  EXPECT_FALSE(beginning->has_value());
}

TEST_F(ResumeTest, TakeUp_OtherNumberOfShards_IsRefusedWithBoth) {
  const auto beginning = TakeUpRun(Setup({"cluster.shards=5"}), request_);
  EXPECT_TRUE(absl::IsFailedPrecondition(beginning.status()));
  EXPECT_THAT(std::string(beginning.status().message()),
              AllOf(HasSubstr("cluster.shards = 2"), HasSubstr("asks for 5")));
}

// Shards were told which of the bound steps are: with another number these would wait for each
// other.
TEST_F(ResumeTest, TakeUp_OtherStepsDiagnosed_IsRefusedWithBoth) {
  const auto beginning = TakeUpRun(Setup({"diagnostics.every=7"}), request_);
  EXPECT_TRUE(absl::IsFailedPrecondition(beginning.status()));
  EXPECT_THAT(std::string(beginning.status().message()),
              AllOf(HasSubstr("diagnostics.every = 0"), HasSubstr("asks for 7")));
}

TEST_F(ResumeTest, RunThatNeverBegan_IsRefused) {
  request_.records.clear();
  EXPECT_TRUE(absl::IsFailedPrecondition(ResumeRun(setup_, request_).status()));
}

TEST_F(ResumeTest, ClearTheWay_LeavesTheStartAndWhatIsBeforeIt) {
  for (const Step step : {10, 20, 30}) WriteCheckpoint(step, setup_);
  fs::create_directory(Path(15));
  fs::create_directory(Path(25));  // killed while it was written
  GenerationStart start;
  start.generation = Generation(3);
  start.state.step = 20;
  const auto notes = ClearTheWay(request_.checkpoints, start);
  ASSERT_TRUE(notes.ok()) << notes.status();
  EXPECT_THAT(*notes, ElementsAre(HasSubstr("step-30.before-gen-3"), HasSubstr("2 incomplete")));
  EXPECT_THAT(*ListCheckpoints(request_.checkpoints), ElementsAre(10, 20));
  EXPECT_FALSE(fs::exists(Path(15)));
  EXPECT_FALSE(fs::exists(Path(25)));
}

// keep_last = 2 and the one being written: three; fewer when the run has fewer left.
TEST_F(ResumeTest, Room_IsForWhatWillBeKept) {
  const int64_t one = CheckpointBytes(setup_);
  EXPECT_GE(one, setup_.layout.elements() * 12);  // AdamW: value and two moments, f32
  const RunSetup often = Setup({"checkpoint.every=10"});
  EXPECT_EQ(CheckRoom(often, 0, "x", 3 * one), absl::OkStatus());
  EXPECT_TRUE(absl::IsResourceExhausted(CheckRoom(often, 0, "x", 3 * one - 1)));
  EXPECT_EQ(CheckRoom(often, 90, "x", one), absl::OkStatus());
  EXPECT_EQ(CheckRoom(Setup({"checkpoint.every=0"}), 0, "x", one), absl::OkStatus());
  EXPECT_EQ(CheckRoom(often, 0, "x", -1), absl::OkStatus());
  EXPECT_GT(FreeBytes(folder_ / "not/there/yet"), 0);
}

TEST_F(ResumeTest, GoBack_ForASpike_TheSamplesFromThereOnGetANewOrder_ButNotForEver) {
  WriteCheckpoint(20, setup_);
  GenerationStart next;
  next.generation = Generation(3);
  next.reshuffles = {100};
  for (int time = 0; time < 3; ++time) {
    next.reshuffle = true;
    const auto back = GoBack(setup_, request_.checkpoints, setup_.coverage, next);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_FALSE(back->start.reshuffle);
    next.reshuffles = back->start.reshuffles;
  }
  EXPECT_THAT(next.reshuffles, ElementsAre(100, 640, 640, 640));
  next.reshuffle = false;  // for a lost shard, say
  const auto lost = GoBack(setup_, request_.checkpoints, setup_.coverage, next);
  ASSERT_TRUE(lost.ok()) << lost.status();
  EXPECT_EQ(lost->start.reshuffles, next.reshuffles);
  next.reshuffle = true;
  const absl::Status again = GoBack(setup_, request_.checkpoints, setup_.coverage, next).status();
  EXPECT_EQ(again.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(again.message()), AllOf(HasSubstr("version 20"), HasSubstr("4 times")));
}

TEST_F(ResumeTest, Reshuffles_AreTheRunsFromThenOn) {
  WriteCheckpoint(20, setup_);
  std::get<GenerationRecord>(request_.records.front()).reshuffles = {640, 640};
  const auto resumed = ResumeRun(setup_, request_);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_THAT(resumed->start.reshuffles, ElementsAre(640, 640));
  // Everything was killed before the generation after a spike began.
  request_.records.push_back(GenerationEndRecord{Generation(2), "a spike", /*reshuffle=*/true});
  EXPECT_THAT(ResumeRun(setup_, request_)->start.reshuffles, ElementsAre(640, 640, 640));
  const auto taken_up = TakeUpRun(setup_, request_);
  ASSERT_TRUE(taken_up.ok()) << taken_up.status();
  EXPECT_THAT((*taken_up)->start.reshuffles, ElementsAre(640, 640));
}

}  // namespace
}  // namespace sdp
