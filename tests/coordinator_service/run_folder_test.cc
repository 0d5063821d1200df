#include "server/coordinator/service/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/cluster_process/temp_folder.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::set<std::string> Names(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.insert(entry.path().filename());
  return names;
}

StepMetrics Trained() {
  StepMetrics metrics;
  metrics.generation = Generation(1);
  metrics.step = 120;
  metrics.loss = 3.4125;
  metrics.gradient_norm = 0.91;
  metrics.workers = 8;
  metrics.min_holders = metrics.max_holders = 4;
  metrics.samples = 32;
  metrics.tokens = 8192;
  metrics.elapsed = absl::Milliseconds(500);
  metrics.pull = absl::Milliseconds(10);
  metrics.pulled_bytes = int64_t{24} << 20;
  metrics.plan_hash = 255;
  return metrics;
}

TEST(RunFolderTest, Create_HasARun_AlreadyExistsWithWhatToDo) {
  TempFolder folder;
  const std::string path = folder / "first";
  {
    const auto run = RunFolder::Create(path);
    ASSERT_TRUE(run.ok()) << run.status();
    ASSERT_TRUE((*run)->AppendMetrics(Trained()).ok());
  }
  const absl::Status status = RunFolder::Create(path).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(path), HasSubstr("metrics.jsonl"), HasSubstr("--set run.dir=")));
}

TEST(RunFolderTest, Create_OtherFiles_AlreadyExistsAndNothingIsAdded) {
  TempFolder folder;
  WriteAll(folder / "thesis.tex", "x");
  const absl::Status status = RunFolder::Create(folder / "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(status.message()), HasSubstr("thesis.tex"));
  EXPECT_EQ(Names(folder / ""), std::set<std::string>{"thesis.tex"});
}

TEST(RunFolderTest, Create_InUse_FailedPreconditionWithProcess) {
  TempFolder folder;
  const auto run = RunFolder::Create(folder / "first");
  ASSERT_TRUE(run.ok()) << run.status();
  const absl::Status status = RunFolder::Create(folder / "first").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(absl::StrCat("in use by process ", getpid())));
}

TEST(RunFolderTest, Create_UnderAFile_NamesThePath) {
  TempFolder folder;
  WriteAll(folder / "file", "x");
  const absl::Status status = RunFolder::Create(folder / "file/run").status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(folder / "file/run"));
}

// A file that may not grow any more stands for a full disk.
TEST(RunFolderTest, AppendMetrics_NoRoom_ErrorStays) {
  TempFolder folder;
  const auto run = RunFolder::Create(folder / "first");
  ASSERT_TRUE(run.ok()) << run.status();
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  const absl::Status status = (*run)->AppendMetrics(Trained());
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_THAT(std::string(status.message()), HasSubstr("metrics.jsonl"));
  EXPECT_EQ((*run)->AppendMetrics(Trained()), status);
}

TEST(RunFolderTest, Create_LaunchersPreparations_AreNoRun) {
  TempFolder folder;
  std::filesystem::create_directories(folder / "first/logs");
  WriteAll(folder / "first/coordinator.address", "127.0.0.1:1");
  EXPECT_TRUE(RunFolder::Create(folder / "first").ok());
}

TEST(RunFolderTest, Discard_LeavesNoTrace) {
  TempFolder folder;
  {
    const auto run = RunFolder::Create(folder / "runs/first");
    ASSERT_TRUE(run.ok()) << run.status();
    ASSERT_TRUE((*run)->WritePlan("{}\n").ok());
    ASSERT_TRUE((*run)->WriteAddress("127.0.0.1:1").ok());
    (*run)->Discard();
  }
  EXPECT_EQ(Names(folder / "runs"), std::set<std::string>{});
}

TEST(RunFolderTest, Discard_KeepsLogs) {
  TempFolder folder;
  {
    const auto run = RunFolder::Create(folder / "first");
    ASSERT_TRUE(run.ok()) << run.status();
    WriteAll((*run)->logs_path() + "/shard-0.log", "x");
    (*run)->Discard();
  }
  EXPECT_EQ(Names(folder / "first"), std::set<std::string>{"logs"});
  EXPECT_TRUE(RunFolder::Create(folder / "first").ok());
}

TEST(RunFolderTest, AppendMetrics_IsThereAtOnce) {
  TempFolder folder;
  const auto run = RunFolder::Create(folder / "first");
  ASSERT_TRUE(run.ok()) << run.status();
  ASSERT_TRUE((*run)->AppendMetrics(Trained()).ok());
  EXPECT_EQ(ReadAll(folder / "first/metrics.jsonl"), MetricsJson(Trained()) + "\n");
}

TEST(RunFolderTest, NewestLosses_TheOldestFirst_OfLinesThatHaveOne) {
  TempFolder folder;
  const auto run = RunFolder::Create(folder / "first");
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_TRUE((*run)->NewestLosses(3).empty());
  for (const double loss : {4.0, 1.0 / 3, 2.0, 1.0}) {
    StepMetrics metrics = Trained();
    metrics.loss = loss;
    ASSERT_TRUE((*run)->AppendMetrics(metrics).ok());
    metrics.loss.reset();
    ASSERT_TRUE((*run)->AppendMetrics(metrics).ok());
  }
  std::ofstream(folder / "first/metrics.jsonl", std::ios::app) << "{\"loss\":";
  EXPECT_EQ((*run)->NewestLosses(3), (std::vector<double>{1.0 / 3, 2, 1}));
}

TEST(RunFolderTest, AppendEvent_IsThereAtOnce_AndWithoutRoomItsErrorStays) {
  TempFolder folder;
  const auto run = RunFolder::Create(folder / "first");
  ASSERT_TRUE(run.ok()) << run.status();
  ASSERT_TRUE((*run)->AppendEvent("{}").ok());
  EXPECT_EQ(ReadAll(folder / "first/events.jsonl"), "{}\n");
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 3;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  const absl::Status status = (*run)->AppendEvent("{}");
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_THAT(std::string(status.message()), HasSubstr("events.jsonl"));
  EXPECT_EQ((*run)->AppendEvent("{}"), status);
  EXPECT_TRUE((*run)->AppendMetrics(Trained()).ok());
}

TEST(RunFolderTest, Open_CutsIncompleteLastLines) {
  TempFolder folder;
  ASSERT_TRUE(RunFolder::Create(folder / "first").ok());
  WriteAll(folder / "first/state.db", "");
  for (const char* name : {"first/metrics.jsonl", "first/events.jsonl"})
    WriteAll(folder / name, "{\"a\":1}\n{\"a");
  ASSERT_TRUE(RunFolder::Open(folder / "first").ok());
  for (const char* name : {"first/metrics.jsonl", "first/events.jsonl"})
    EXPECT_EQ(ReadAll(folder / name), "{\"a\":1}\n") << name;
}

TEST(EventJsonTest, HasWhatTheKindHas_AndTheText) {
  const absl::Time at = absl::FromUnixMillis(1714543200123);
  const RunEvent lost{.kind = RunEvent::Kind::kExclude,
                      .generation = Generation(2),
                      .step = 12,
                      .worker = "worker-2",
                      .incarnation = Incarnation(3),
                      .reason = "its process has ended"};
  EXPECT_EQ(EventJson(lost, at),
            "{\"time\":\"2024-05-01T06:00:00.123Z\",\"event\":\"exclude\",\"generation\":2,"
            "\"step\":12,\"worker\":\"worker-2\",\"incarnation\":3,\"reason\":\"its process has "
            "ended\",\"text\":\"worker-2 (incarnation 3) is excluded: its process has ended\"}");
  const RunEvent replan{
      .kind = RunEvent::Kind::kReplan, .view = ViewId(4), .workers = 3, .plan_hash = 255};
  const auto json = nlohmann::json::parse(EventJson(replan, at));
  EXPECT_EQ(json["view"], 4);
  EXPECT_EQ(json["workers"], 3);
  EXPECT_EQ(json["plan_hash"], "00000000000000ff");
  EXPECT_FALSE(json.contains("worker"));
  EXPECT_FALSE(json.contains("code"));
  const RunEvent end{.kind = RunEvent::Kind::kEnd, .code = absl::StatusCode::kCancelled};
  EXPECT_EQ(nlohmann::json::parse(EventJson(end, at))["code"], "CANCELLED");
}

TEST(RunFolderTest, WriteAddress_IsOneLine) {
  TempFolder folder;
  const auto run = RunFolder::Create(folder / "first");
  ASSERT_TRUE(run.ok()) << run.status();
  ASSERT_TRUE((*run)->WriteAddress("127.0.0.1:1").ok());
  EXPECT_EQ(ReadAll(folder / "first/coordinator.address"), "127.0.0.1:1\n");
}

TEST(MetricsJsonTest, TrainedStep_HasAllKeys) {
  const auto json = nlohmann::json::parse(MetricsJson(Trained()));
  EXPECT_EQ(json["generation"], 1);
  EXPECT_EQ(json["step"], 120);
  EXPECT_EQ(json["loss"], 3.4125);
  EXPECT_FALSE(json.contains("full_loss"));
  EXPECT_FALSE(json.contains("full_accuracy"));
  EXPECT_FALSE(json.contains("state_hash"));
  EXPECT_EQ(json["elapsed_sec"], 0.5);
  EXPECT_EQ(json["pull_sec"], 0.01);
  EXPECT_EQ(json["pulled_bytes"], 24 << 20);
  EXPECT_EQ(json["plan_hash"], "00000000000000ff");
  for (const char* key :
       {"gradient_norm", "clip_scale", "workers", "min_holders", "max_holders",
        "uncovered_fragments", "samples", "tokens", "forward_sec", "backward_sec", "push_sec",
        "pushed_bytes", "run_sec", "max_worker_memory_bytes", "max_worker_allocated_bytes",
        "max_shard_memory_bytes", "max_shard_allocated_bytes"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_FALSE(json.contains("predicted_worker_allocated_bytes"));
}

TEST(MetricsJsonTest, Skipped_SaysWhy_InsteadOfANorm) {
  StepMetrics metrics = Trained();
  EXPECT_FALSE(nlohmann::json::parse(MetricsJson(metrics)).contains("skipped"));
  metrics.skipped = "the loss of worker-1 is not finite";
  metrics.loss.reset();  // if it is nobody's
  const auto json = nlohmann::json::parse(MetricsJson(metrics));
  EXPECT_EQ(json["skipped"], metrics.skipped);
  EXPECT_FALSE(json.contains("gradient_norm"));
  EXPECT_TRUE(json.contains("samples"));
}

TEST(MetricsJsonTest, LostWorkers_AreNamedByIncarnation) {
  StepMetrics metrics = Trained();
  EXPECT_FALSE(nlohmann::json::parse(MetricsJson(metrics)).contains("lost_workers"));
  metrics.lost = {Incarnation(3), Incarnation(2)};
  EXPECT_EQ(nlohmann::json::parse(MetricsJson(metrics))["lost_workers"].dump(), "[3,2]");
}

TEST(MetricsJsonTest, DiagnosedStep_HasItsBlocks) {
  StepMetrics metrics = Trained();
  EXPECT_FALSE(nlohmann::json::parse(MetricsJson(metrics)).contains("blocks"));
  metrics.blocks = {{"layers.0.mlp", 3, 0.5, 0.25, 0.125, 0.75, 2},
                    {"layers.1.mlp", 1, 2, {}, {}, {}, {}}};
  EXPECT_EQ(nlohmann::json::parse(MetricsJson(metrics))["blocks"].dump(),
            "[{\"cosine\":0.25,\"dense_cosine\":0.75,\"dense_ratio\":2.0,\"gradient_norm\":0.5,"
            "\"holders\":3,\"unit\":\"layers.0.mlp\","
            "\"variance\":0.125},{\"gradient_norm\":2.0,\"holders\":1,\"unit\":\"layers.1.mlp\"}]");
}

TEST(MetricsJsonTest, Memory_IsInBytes) {
  StepMetrics metrics = Trained();
  metrics.max_worker_memory_bytes = 5;
  metrics.max_worker_allocated_bytes = 3;
  metrics.predicted_worker_allocated_bytes = 4;
  metrics.max_shard_memory_bytes = 2;
  metrics.max_shard_allocated_bytes = 1;
  const auto json = nlohmann::json::parse(MetricsJson(metrics));
  EXPECT_EQ(json["max_worker_memory_bytes"], 5);
  EXPECT_EQ(json["max_worker_allocated_bytes"], 3);
  EXPECT_EQ(json["predicted_worker_allocated_bytes"], 4);
  EXPECT_EQ(json["max_shard_memory_bytes"], 2);
  EXPECT_EQ(json["max_shard_allocated_bytes"], 1);
  EXPECT_FALSE(json.contains("largest_worker"));
}

TEST(MetricsJsonTest, LargestWorker_SaysWhatItsMemoryIsFor) {
  StepMetrics metrics = Trained();
  metrics.largest_worker = "worker-7";
  metrics.largest_worker_ledger = {.now = {1, 2, 3, 4, 5}, .peak = {6, 7, 8, 9, 10}};
  EXPECT_EQ(nlohmann::ordered_json::parse(MetricsJson(metrics))["largest_worker"].dump(),
            "{\"worker\":\"worker-7\",\"now_bytes\":{\"parameters\":1,\"gradients\":2,"
            "\"activations\":3,\"communication\":4,\"other\":5},\"peak_bytes\":{\"parameters\":6,"
            "\"gradients\":7,\"activations\":8,\"communication\":9,\"other\":10}}");
}

TEST(MetricsJsonTest, ClosingStep_HasHashAndFullLossButNoLoss) {
  StepMetrics metrics;
  metrics.step = 5000;
  metrics.full_loss = 3.25;
  metrics.full_accuracy = 0.5;
  metrics.state_hash = 0xabc;
  const auto json = nlohmann::json::parse(MetricsJson(metrics));
  EXPECT_EQ(json["full_loss"], 3.25);
  EXPECT_EQ(json["full_accuracy"], 0.5);
  EXPECT_EQ(json["state_hash"], "0000000000000abc");
  EXPECT_FALSE(json.contains("loss"));
  EXPECT_FALSE(json.contains("elapsed_sec"));
}

TEST(MetricsJsonTest, Loss_SurvivesUnrounded) {
  StepMetrics metrics = Trained();
  metrics.loss = 0.1 + 0.2;
  EXPECT_EQ(nlohmann::json::parse(MetricsJson(metrics))["loss"].get<double>(), 0.1 + 0.2);
}

}  // namespace
}  // namespace sdp
