#include "server/coordinator/service/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/cluster_process/temp_folder.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Writes all and waits; the result of each.
std::vector<absl::Status> WriteRecords(StateStore& store, const std::vector<Record>& records) {
  std::vector<std::promise<absl::Status>> written(records.size());
  for (size_t i = 0; i < records.size(); ++i) {
    store.Write(records[i],
                [&written, i](absl::Status status) { written[i].set_value(std::move(status)); });
  }
  std::vector<absl::Status> results;
  for (auto& result : written) results.push_back(result.get_future().get());
  return results;
}

// Executes SQL with a connection of its own.
void Execute(const std::string& path, const std::string& sql) {
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
      << sqlite3_errmsg(db);
  sqlite3_close(db);
}

std::string Text(const Record& record) {
  struct {
    std::string operator()(const GenerationRecord& r) {
      return absl::StrCat("generation ", r.generation.value(), " ", r.term.value(), " ",
                          r.config_hash, " ", r.step, " ", r.init_path, " ", r.init_checksum, " ",
                          r.coverage.size(), r.coverage == std::vector<double>{1, 1.0 / 3}, " ",
                          absl::StrJoin(r.reshuffles, ","));
    }
    std::string operator()(const MemberRecord& r) {
      return absl::StrCat("member ", r.incarnation.value(), " ", r.name, " ", r.instance);
    }
    std::string operator()(const ShardRecord& r) {
      return absl::StrCat("shard ", r.shard.value(), " ", r.name, " ", r.address, " ", r.instance);
    }
    std::string operator()(const ViewRecord& r) {
      std::string text = absl::StrCat("view ", r.view.value());
      for (const Incarnation member : r.members) absl::StrAppend(&text, " ", member.value());
      for (const int64_t samples : r.portions) absl::StrAppend(&text, " x", samples);
      return text;
    }
    std::string operator()(const BindingRecord& r) {
      std::string returned;
      for (const PositionRange& range : r.cursor.returned())
        absl::StrAppend(&returned, " +", range.first, ":", range.count);
      return absl::StrCat("binding ", r.generation.value(), " ", r.step, " ", r.view.value(), " ",
                          r.cursor.next(), returned, " ", r.samples, " ", r.evaluate, " ",
                          r.closing, " ", r.checkpoint);
    }
    std::string operator()(const ExclusionRecord& r) {
      return absl::StrCat("exclusion ", r.generation.value(), " ", r.number, " ", r.worker.value(),
                          " ", r.reason, " ", r.committed, " ", absl::StrJoin(r.returned, ","));
    }
    std::string operator()(const DataRecord& r) {
      return absl::StrCat("data ", r.data.train_samples, " ", r.data.train_checksum, " ",
                          r.data.validation_samples, " ", r.data.validation_checksum);
    }
    std::string operator()(const ShardLeaveRecord& r) {
      return absl::StrCat("shard leaves ", r.generation.value(), " ", r.shard.value());
    }
    std::string operator()(const GenerationEndRecord& r) {
      return absl::StrCat("end ", r.generation.value(), " ", r.reason, " ", r.reshuffle);
    }
    std::string operator()(const ScaleRecord& r) {
      return absl::StrCat("scale ", r.generation.value(), " ", r.step, " ",
                          r.scale == 0.1 + 0.2 ? "exact" : "inexact");
    }
  } text;
  return std::visit(text, record);
}

std::vector<std::string> Texts(const std::vector<Record>& records) {
  std::vector<std::string> texts;
  for (const Record& record : records) texts.push_back(Text(record));
  return texts;
}

std::vector<Record> OneOfEach() {
  return {GenerationRecord{Generation(1),
                           Term(2),
                           "00ff",
                           500,
                           "init.safetensors",
                           0xffffffffffffffff,
                           {1, 1.0 / 3},
                           {640, int64_t{1} << 40}},
          ShardRecord{ShardId(0), "shard-0", "127.0.0.1:1", 0xFEDCBA9876543210},
          MemberRecord{Incarnation(7), "worker-0", 0xFEDCBA9876543210},
          MemberRecord{Incarnation(8), "it's \"quoted\""},
          ViewRecord{ViewId(1), {Incarnation(8), Incarnation(7)}, {5, 4}},
          BindingRecord{Generation(1), 0, ViewId(1),
                        SampleCursor(int64_t{1} << 40, {{7, 2}, {30, 1}}), 32, true, false, true},
          ScaleRecord{Generation(1), 0, 0.1 + 0.2},
          BindingRecord{Generation(1), 1, ViewId(1), SampleCursor(32), 0, false, true},
          ExclusionRecord{Generation(1), 1, Incarnation(3), "no heartbeat for 21s", 4, {5, 6}},
          DataRecord{{100, 0xFEDCBA9876543210, 20, 7}},
          ShardLeaveRecord{Generation(1), ShardId(2)},
          GenerationEndRecord{Generation(1), "shard-0: its process has ended", true},
          ViewRecord{ViewId(2), {}, {}}};
}

TEST(StoreTest, Open_FolderMissing_UnavailableWithPath) {
  TempFolder folder;
  const absl::Status status = SqliteStore::Open(folder / "none/state.db").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(folder / "none/state.db"), HasSubstr("unable to open")));
}

TEST(StoreTest, Open_OtherFile_DataLossAndUntouched) {
  TempFolder folder;
  const std::string text(5000, 'x');
  WriteAll(folder / "state.db", text);
  const absl::Status status = SqliteStore::Open(folder / "state.db").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(folder / "state.db"));
  EXPECT_EQ(ReadAll(folder / "state.db"), text);
}

TEST(StoreTest, Open_AnotherProgramsDatabase_FailedPrecondition) {
  TempFolder folder;
  Execute(folder / "state.db", "CREATE TABLE bookmarks (url TEXT)");
  const absl::Status status = SqliteStore::Open(folder / "state.db").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("another program"));
}

TEST(StoreTest, Open_OtherFormat_FailedPreconditionWithBothNumbers) {
  TempFolder folder;
  ASSERT_TRUE(SqliteStore::Open(folder / "state.db").ok());
  Execute(folder / "state.db", absl::StrCat("PRAGMA user_version = ", kStoreFormat + 1));
  const absl::Status status = SqliteStore::Open(folder / "state.db").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(absl::StrCat("format ", kStoreFormat + 1)),
                    HasSubstr(absl::StrCat("format ", kStoreFormat))));
}

TEST(StoreTest, Write_SameStepTwice_IsAnErrorThatStays) {
  TempFolder folder;
  auto store = SqliteStore::Open(folder / "state.db");
  ASSERT_TRUE(store.ok()) << store.status();
  const Record binding = BindingRecord{Generation(1), 5, ViewId(1), {}, 1, false, false};
  EXPECT_TRUE(WriteRecords(**store, {binding})[0].ok());
  const absl::Status twice = WriteRecords(**store, {binding})[0];
  EXPECT_EQ(twice.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(twice.message()),
              AllOf(HasSubstr(folder / "state.db"), HasSubstr("bindings")));
  EXPECT_EQ(WriteRecords(**store, {MemberRecord{Incarnation(1), "worker-0"}})[0], twice);
}

// A file that may not grow any more stands for a full disk.
TEST(StoreTest, Write_NoRoom_NamesFileAndCause) {
  TempFolder folder;
  auto store = SqliteStore::Open(folder / "state.db");
  ASSERT_TRUE(store.ok()) << store.status();
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  const absl::Status status = WriteRecords(**store, {MemberRecord{Incarnation(1), "worker-0"}})[0];
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(folder / "state.db"));
}

TEST(StoreTest, Read_AfterReopening_AllKindsInOrder) {
  TempFolder folder;
  const std::vector<Record> records = OneOfEach();
  {
    auto store = SqliteStore::Open(folder / "state.db");
    ASSERT_TRUE(store.ok()) << store.status();
    for (const absl::Status& status : WriteRecords(**store, records))
      EXPECT_TRUE(status.ok()) << status;
  }
  std::vector<Record> expected = records;
  {
    auto store = SqliteStore::Open(folder / "state.db");
    ASSERT_TRUE(store.ok()) << store.status();
    const auto read = (*store)->Read();
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(Texts(*read), Texts(expected));
    expected.push_back(MemberRecord{Incarnation(9), "worker-2"});
    EXPECT_TRUE(WriteRecords(**store, {expected.back()})[0].ok());
  }
  auto store = SqliteStore::Open(folder / "state.db");
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(Texts((*store)->Read().value()), Texts(expected));
}

// A number that cannot be read is not passed over: coverage would have a unit less, a view a
// member.
TEST(StoreTest, Read_DamagedList_DataLossWithTableAndValue) {
  const struct {
    const char *table, *column, *text, *damaged;
  } cases[] = {{"generations", "coverage", "1 l.5", "l.5"},
               {"views", "members", "1 l5", "l5"},
               {"exclusions", "returned", "12 x", "x"},
               {"views", "members", "1 7.5", "7.5"}};  // a member's number is whole
  for (const auto& c : cases) {
    TempFolder folder;
    const std::string path = folder / "state.db";
    WriteRecords(**SqliteStore::Open(path), OneOfEach());
    Execute(path, absl::StrCat("UPDATE ", c.table, " SET ", c.column, " = '", c.text, "'"));
    const absl::Status status = (*SqliteStore::Open(path))->Read().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << c.text;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(c.table), HasSubstr(c.damaged)));
  }
}

TEST(StoreTest, Write_MemberAgain_IsFine) {
  TempFolder folder;
  auto store = SqliteStore::Open(folder / "state.db");
  ASSERT_TRUE(store.ok()) << store.status();
  const Record member = MemberRecord{Incarnation(7), "worker-0"};
  for (const absl::Status& status : WriteRecords(**store, {member, member}))
    EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ((*store)->Read()->size(), 1u);
}

TEST(StoreTest, Destroyed_WithWritesUnderWay_TheyAreWritten) {
  TempFolder folder;
  int done = 0;
  {
    auto store = SqliteStore::Open(folder / "state.db");
    ASSERT_TRUE(store.ok()) << store.status();
    for (int i = 1; i <= 100; ++i) {
      (*store)->Write(MemberRecord{Incarnation(i), "worker"},
                      [&done](const absl::Status& status) { done += status.ok(); });
    }
  }
  EXPECT_EQ(done, 100);
  auto store = SqliteStore::Open(folder / "state.db");
  EXPECT_EQ((*store)->Read()->size(), 100u);
}

}  // namespace
}  // namespace sdp
