#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "server/coordinator/logic/records.h"

struct sqlite3;

namespace sdp {

// Where the coordinator's records become durable. A seam: tests have one in memory.
class StateStore {
 public:
  using Done = std::function<void(absl::Status)>;

  virtual ~StateStore() = default;
  // Calls `done`, on a thread of the store's, once the record survives a crash of the machine. In
  // order of the calls. An error is final: every later write fails with it.
  virtual void Write(Record record, Done done) = 0;
};

// Format of the file; another one is refused. Raise it with every change of the tables.
inline constexpr int kStoreFormat = 6;

// A StateStore in one SQLite file, a table per kind of record. Write-ahead log with synchronous =
// FULL: one fsync for each transaction, so that what workers have acted on is not forgotten in a
// power failure; the writes that pile up meanwhile share the next transaction. Threads: Write from
// any; it returns at once. Read before the first Write. The destructor writes what is left, and
// joins.
class SqliteStore : public StateStore {
 public:
  // Opens the file, or makes a new one. Errors name the file. FailedPrecondition - it is another
  // program's or of another format. DataLoss - it is no SQLite file, or damaged. Unavailable - it
  // cannot be opened or is locked.
  static absl::StatusOr<std::unique_ptr<SqliteStore>> Open(const std::string& path);
  ~SqliteStore() override;
  SqliteStore(const SqliteStore&) = delete;
  SqliteStore& operator=(const SqliteStore&) = delete;

  void Write(Record record, Done done) override ABSL_LOCKS_EXCLUDED(mutex_);

  // All records, in the order in which they were written.
  absl::StatusOr<std::vector<Record>> Read();

 private:
  struct Tables;  // the prepared statements
  struct Close {
    void operator()(sqlite3* db) const;
  };
  using Database = std::unique_ptr<sqlite3, Close>;
  struct Job {
    Record record;
    Done done;
  };

  SqliteStore(std::string path, Database db, std::unique_ptr<Tables> tables);
  static absl::Status Prepare(sqlite3* db);
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status WriteAll(const std::vector<Job>& jobs);

  const std::string path_;
  const Database db_;
  const std::unique_ptr<Tables> tables_;  // Before db_ is closed, these are.

  Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Job> queue_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace sdp
