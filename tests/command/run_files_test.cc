#include "deploy/command/run_files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include "tests/cluster_process/temp_folder.h"

namespace sdp {
namespace {

TEST(RunFilesTest, RunOwner_NoLockFile_IsNoRun) {
  TempFolder folder;
  EXPECT_EQ(RunOwner(folder.path()).status().code(), absl::StatusCode::kNotFound);
}

TEST(RunFilesTest, RunOwner_OnlyWhileTheLockIsHeld) {
  TempFolder folder;
  WriteAll(folder / "lock", "4711\n");
  const int lock = open((folder / "lock").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(flock(lock, LOCK_EX), 0);
  EXPECT_EQ(*RunOwner(folder.path()), "4711");
  close(lock);
  EXPECT_EQ(*RunOwner(folder.path()), std::nullopt);
}

TEST(RunFilesTest, CoordinatorAddress_MissingOrEmpty_IsNotFound) {
  TempFolder folder;
  EXPECT_EQ(CoordinatorAddress(folder.path()).status().code(), absl::StatusCode::kNotFound);
  WriteAll(folder / "coordinator.address", "");
  EXPECT_EQ(CoordinatorAddress(folder.path()).status().code(), absl::StatusCode::kNotFound);
  WriteAll(folder / "coordinator.address", "127.0.0.1:4711\n");
  EXPECT_EQ(*CoordinatorAddress(folder.path()), "127.0.0.1:4711");
}

TEST(RunFilesTest, ReadRunMetrics_NoFile_IsNotFound) {
  TempFolder folder;
  EXPECT_EQ(ReadRunMetrics(folder.path()).status().code(), absl::StatusCode::kNotFound);
}

TEST(RunFilesTest, ReadRunMetrics_LineIsNotJson_NamesIt) {
  TempFolder folder;
  WriteAll(folder / "metrics.jsonl", "{\"step\": 0}\nnonsense\n");
  const auto metrics = ReadRunMetrics(folder.path());
  EXPECT_EQ(metrics.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(metrics.status().message().find("metrics.jsonl:2"), absl::string_view::npos);
}

TEST(RunFilesTest, ReadRunMetrics_NoCompleteLine_IsEmpty) {
  TempFolder folder;
  WriteAll(folder / "metrics.jsonl", "{\"step\": 0");
  const auto metrics = ReadRunMetrics(folder.path());
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_EQ(metrics->last_line, "");
  EXPECT_FALSE(metrics->full_loss);
}

TEST(RunFilesTest, ReadRunMetrics_KeepsTheLastWholeLineAndTheNewestFullLoss) {
  TempFolder folder;
  WriteAll(folder / "metrics.jsonl",
           "{\"step\": 0, \"loss\": 5, \"full_loss\": 4.5}\n{\"step\": 1, \"loss\": 4}\n{\"st");
  auto metrics = ReadRunMetrics(folder.path());
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_EQ(metrics->last_line, "{\"step\": 1, \"loss\": 4}");
  EXPECT_EQ(metrics->full_loss, 4.5);
  EXPECT_FALSE(metrics->closed);

  WriteAll(folder / "metrics.jsonl", "{\"step\": 2, \"full_loss\": 3.5, \"state_hash\": \"00\"}\n");
  metrics = ReadRunMetrics(folder.path());
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_TRUE(metrics->closed);
}

TEST(RunFilesTest, HowItEnded_ComparesWithTheStepsOfTheConfig) {
  TempFolder folder;
  WriteAll(folder / "config.toml",
           "[model]\npreset = \"llama-tiny\"\n[sdp]\ncoverage = 1.0\n[data]\nkind = "
           "\"text\"\ntrain = [\"a\"]\n"
           "[train]\nsteps = 9\n[run]\ndir = \"r\"\n");
  EXPECT_EQ(HowItEnded(folder.path(),
                       {.last_line = "x", .last_step = 9, .closed = true, .full_loss = {}}),
            RunEnd::kFinished);
  EXPECT_EQ(HowItEnded(folder.path(),
                       {.last_line = "x", .last_step = 8, .closed = true, .full_loss = {}}),
            RunEnd::kStopped);
  EXPECT_EQ(HowItEnded(folder.path(),
                       {.last_line = "x", .last_step = 8, .closed = false, .full_loss = {}}),
            RunEnd::kBrokenOff);
  WriteAll(folder / "config.toml", "nonsense");
  EXPECT_EQ(HowItEnded(folder.path(),
                       {.last_line = "x", .last_step = 8, .closed = true, .full_loss = {}}),
            RunEnd::kFinished);
}

}  // namespace
}  // namespace sdp
