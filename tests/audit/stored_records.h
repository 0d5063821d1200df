#pragma once

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <future>
#include <string>
#include <utility>
#include <vector>

#include "server/coordinator/service/store.h"

// What a coordinator leaves in its store, made by hand.
namespace sdp {

// Writes all and waits.
inline void WriteRecords(StateStore& store, const std::vector<Record>& records) {
  for (const Record& record : records) {
    std::promise<absl::Status> written;
    store.Write(record, [&written](absl::Status status) { written.set_value(std::move(status)); });
    EXPECT_EQ(written.get_future().get(), absl::OkStatus());
  }
}

inline void WriteRecords(const std::string& path, const std::vector<Record>& records) {
  const auto store = SqliteStore::Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  WriteRecords(**store, records);
}

// Executes SQL with a connection of its own.
inline void Execute(const std::string& path, const std::string& sql) {
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
      << sqlite3_errmsg(db);
  sqlite3_close(db);
}

}  // namespace sdp
