#include "deploy/audit/run_records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "server/coordinator/service/store.h"
#include "tests/audit/stored_records.h"
#include "tests/cluster_process/temp_folder.h"

namespace sdp::audit {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

static_assert(kReadStoreFormat == kStoreFormat);

std::string Text(const Record& record) {
  struct {
    std::string operator()(const StartRecord& r) {
      return absl::StrCat("start ", r.generation.value(), " ", r.step);
    }
    std::string operator()(const ViewRecord& r) {
      std::string text = absl::StrCat("view ", r.view.value(), ":");
      for (size_t i = 0; i < r.members.size(); ++i)
        absl::StrAppend(&text, " ", r.members[i].value(), "x", r.portions[i]);
      return text;
    }
    std::string operator()(const BindingRecord& r) {
      FreePositions free = r.free;
      return absl::StrCat("binding ", r.generation.value(), " ", r.step, " ", r.view.value(), " ",
                          RangesText(free.TakeLowest(5)), " ", r.samples, " ", r.closing);
    }
    std::string operator()(const ExclusionRecord& r) {
      std::string text = absl::StrCat("exclusion ", r.generation.value(), " ", r.number, " ",
                                      r.worker.value(), " ", r.reason, " ", r.committed, ":");
      for (const Step step : r.returned) absl::StrAppend(&text, " ", step);
      return text;
    }
    std::string operator()(const StepRecord&) { return "line"; }
  } text;
  return std::visit(text, record);
}

class RunRecordsTest : public ::testing::Test {
 protected:
  RunRecordsTest() {
    WriteRecords(
        folder_ / "state.db",
        {GenerationRecord{Generation(1), Term(1), "00ff", 0, "", 0, {1}},
         MemberRecord{Incarnation(7), "worker-0"}, MemberRecord{Incarnation(8), "worker-1"},
         sdp::ViewRecord{ViewId(1), {Incarnation(8), Incarnation(7)}, {3, 1}},
         sdp::BindingRecord{Generation(1), 0, ViewId(1), SampleCursor(9, {{2, 2}, {6, 1}}), 4,
                            false, false, true},
         sdp::ExclusionRecord{Generation(1), 1, Incarnation(8), "it rains", -1, {0}},
         sdp::BindingRecord{Generation(1), 1, ViewId(1), SampleCursor(10), 0, false, true}});
    WriteAll(folder_ / "metrics.jsonl",
             "{\"generation\":1,\"step\":0,\"lost_workers\":[8]}\n{\"generation\":1,\"step\":1}\n");
  }

  std::vector<std::string> ReadRecords(RunRecords& records) {
    std::vector<std::string> texts;
    for (;;) {
      const auto record = records.NextRecord();
      EXPECT_TRUE(record.ok()) << record.status();
      if (!record.ok() || !record->has_value()) return texts;
      texts.push_back(Text(**record));
    }
  }
  // Of opening and reading all.
  absl::Status Error() {
    const auto records = RunRecords::Open(folder_.path());
    if (!records.ok()) return records.status();
    for (;;) {
      const auto record = (*records)->NextRecord();
      if (!record.ok()) return record.status();
      if (!record->has_value()) break;
    }
    for (;;) {
      const auto line = (*records)->NextLine();
      if (!line.ok()) return line.status();
      if (!line->has_value()) return absl::OkStatus();
    }
  }

  TempFolder folder_;
};

TEST_F(RunRecordsTest, AllKinds_InTheOrderInWhichTheyWereWritten) {
  const auto records = RunRecords::Open(folder_.path());
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_EQ((*records)->starts().size(), 1u);
  EXPECT_THAT(ReadRecords(**records),
              ElementsAre("start 1 0", "view 1: 8x3 7x1", "binding 1 0 1 2-3, 6, 9-10 4 0",
                          "exclusion 1 1 8 it rains -1: 0", "binding 1 1 1 10-14 0 1"));
  EXPECT_EQ((*records)->NameOf(Incarnation(8)), "worker-1 (incarnation 8)");
  EXPECT_EQ((*records)->NameOf(Incarnation(1)), "a worker without a record (incarnation 1)");
}

TEST_F(RunRecordsTest, Lines_WithWhoIsLost_AnIncompleteLastOneIsLeftOut) {
  WriteAll(folder_ / "metrics.jsonl",
           ReadAll(folder_ / "metrics.jsonl") + "{\"generation\":1,\"st");
  const auto records = RunRecords::Open(folder_.path());
  ASSERT_TRUE(records.ok()) << records.status();
  const auto first = (*records)->NextLine(), second = (*records)->NextLine(),
             none = (*records)->NextLine();
  ASSERT_TRUE(first.ok() && second.ok() && none.ok());
  EXPECT_EQ((*first)->step, 0);
  EXPECT_THAT((*first)->lost, ElementsAre(Incarnation(8)));
  EXPECT_EQ((*second)->step, 1);
  EXPECT_TRUE((*second)->lost.empty());
  EXPECT_FALSE(none->has_value());
}

// The coordinator has it open, and goes on writing.
TEST_F(RunRecordsTest, WhileTheRunGoesOn_ItSeesWhatWasThere) {
  auto store = SqliteStore::Open(folder_ / "state.db");
  ASSERT_TRUE(store.ok()) << store.status();
  const auto records = RunRecords::Open(folder_.path());
  ASSERT_TRUE(records.ok()) << records.status();
  WriteRecords(**store, {sdp::ViewRecord{ViewId(2), {}, {}}});
  WriteAll(folder_ / "metrics.jsonl",
           ReadAll(folder_ / "metrics.jsonl") + "{\"generation\":1,\"step\":2}\n");
  EXPECT_EQ(ReadRecords(**records).size(), 5u);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE((*records)->NextLine()->has_value());
  EXPECT_FALSE((*records)->NextLine()->has_value());
}

TEST_F(RunRecordsTest, MissingFiles_AreNamed) {
  std::filesystem::remove(folder_ / "metrics.jsonl");
  EXPECT_TRUE(absl::IsNotFound(Error()));
  EXPECT_THAT(std::string(Error().message()), HasSubstr("metrics.jsonl"));
  std::filesystem::remove(folder_ / "state.db");
  EXPECT_TRUE(absl::IsNotFound(Error()));
  EXPECT_THAT(std::string(Error().message()), HasSubstr("state.db"));
}

TEST_F(RunRecordsTest, DamagedRows_AreNamed) {
  const struct {
    const char *table, *column, *text;
  } cases[] = {{"views", "members", "8 x"},
               {"bindings", "returned", "2 2 6"},
               {"exclusions", "returned", "0 y"}};
  for (const auto& c : cases) {
    Execute(folder_ / "state.db",
            absl::StrCat("UPDATE ", c.table, " SET ", c.column, " = '", c.text, "'"));
    const absl::Status status = Error();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("state.db"), HasSubstr(absl::StrCat("table ", c.table, ", row "))));
    Execute(folder_ / "state.db", absl::StrCat("UPDATE ", c.table, " SET ", c.column, " = ''"));
  }
}

TEST_F(RunRecordsTest, OtherStores_AreRefused) {
  Execute(folder_ / "state.db", "PRAGMA user_version = 3");
  EXPECT_TRUE(absl::IsFailedPrecondition(Error()));
  EXPECT_THAT(std::string(Error().message()), HasSubstr("format 3"));
  Execute(folder_ / "state.db", "PRAGMA application_id = 1");
  EXPECT_THAT(std::string(Error().message()), HasSubstr("another program"));
  for (const char* more : {"-wal", "-shm"}) std::filesystem::remove(folder_ / "state.db" + more);
  WriteAll(folder_ / "state.db", std::string(5000, 'x'));
  EXPECT_TRUE(absl::IsDataLoss(Error())) << Error();
  EXPECT_THAT(std::string(Error().message()), HasSubstr("state.db"));
}

TEST_F(RunRecordsTest, DamagedLines_AreNamed) {
  for (const char* line : {"{", "[]", "{\"generation\":1}", "{\"generation\":1,\"step\":1.5}",
                           "{\"generation\":1,\"step\":1,\"lost_workers\":[\"a\"]}"}) {
    WriteAll(folder_ / "metrics.jsonl",
             absl::StrCat("{\"generation\":1,\"step\":0}\n", line, "\n"));
    EXPECT_TRUE(absl::IsDataLoss(Error())) << line;
    EXPECT_THAT(std::string(Error().message()), HasSubstr("metrics.jsonl:2: "));
  }
}

TEST_F(RunRecordsTest, Checkpoints_AlsoThoseSetAside_DamagedOnesAreNoted) {
  EXPECT_TRUE(ReadCheckpoints(folder_ / "none")->records.empty());
  const std::string folder = folder_ / "checkpoints";
  const auto write = [&](const std::string& name, Generation generation, Step step) {
    CheckpointManifest manifest;
    manifest.generation = generation;
    manifest.step = step;
    manifest.cursor = SampleCursor(8, {{1, 2}});
    manifest.data.train_samples = 100 * generation.value();
    std::filesystem::create_directories(absl::StrCat(folder, "/", name));
    ASSERT_EQ(WriteManifest(absl::StrCat(folder, "/", name), manifest), absl::OkStatus());
  };
  write("step-4.before-gen-2", Generation(1), 4);
  write("step-2", Generation(2), 2);
  write("step-6", Generation(2), 6);
  std::filesystem::resize_file(folder + "/step-6/manifest.json", 50);
  std::filesystem::create_directories(folder + "/step-8");  // being written
  const auto checkpoints = ReadCheckpoints(folder);
  ASSERT_TRUE(checkpoints.ok()) << checkpoints.status();
  ASSERT_EQ(checkpoints->records.size(), 2u);
  EXPECT_EQ(checkpoints->records[0].name, "step-2");
  EXPECT_EQ(checkpoints->records[1].generation, Generation(1));
  EXPECT_EQ(checkpoints->records[1].free.CountBelow(8), 2);
  EXPECT_THAT(checkpoints->notes, ElementsAre(HasSubstr("step-6/manifest.json is not compared")));
  EXPECT_EQ(checkpoints->train_samples, 200);
}

}  // namespace
}  // namespace sdp::audit
