#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "deploy/audit/logic/records.h"

struct sqlite3;

namespace sdp::audit {

// Format of state.db that is read (server/coordinator/service/store.h).
inline constexpr int kReadStoreFormat = 6;

// Reads the records of a run folder in the order in which they were written, a row at a time: the
// tables of state.db, and metrics.jsonl. Also while the run goes on: then it sees what was there
// when it was opened. Nothing is written. Threads: confined to one.
// Errors name the file. NotFound - it is missing. DataLoss - damaged; says where.
// FailedPrecondition - state.db is not a coordinator's, or of another format.
class RunRecords {
 public:
  static absl::StatusOr<std::unique_ptr<RunRecords>> Open(const std::string& run_dir);
  ~RunRecords();

  const std::vector<StartRecord>& starts() const { return starts_; }
  absl::StatusOr<std::optional<Record>> NextRecord();
  absl::StatusOr<std::optional<StepRecord>> NextLine();
  // "worker-2 (incarnation 3)"
  std::string NameOf(Incarnation worker);

 private:
  class Rows;
  struct Table {  // one kind of record, by its number in the order of all of them
    std::string name;
    absl::StatusOr<Record> (*read)(Rows& row);
    std::unique_ptr<Rows> rows;
    std::optional<int64_t> seq;  // of the next row; none: there is none
  };
  struct Close {
    void operator()(sqlite3* db) const;
  };

  explicit RunRecords(std::string run_dir);
  absl::Status OpenStore();
  absl::Status OpenTables();
  absl::Status Advance(Table& table);
  std::string store_path() const { return run_dir_ + "/state.db"; }
  std::string metrics_path() const { return run_dir_ + "/metrics.jsonl"; }

  const std::string run_dir_;
  std::unique_ptr<sqlite3, Close> db_;
  std::vector<Table> tables_;
  std::vector<StartRecord> starts_;
  std::ifstream metrics_;
  int64_t metrics_end_ = 0;  // bytes that were there
  int64_t line_ = 0;
};

// The cursors of a folder's complete checkpoints, those that were set aside too, and of the newest
// one the number of the training data's samples (0: there is none). A manifest that cannot be read
// is noted, as the run itself passes over it.
struct Checkpoints {
  std::vector<CheckpointRecord> records;
  std::vector<std::string> notes;
  int64_t train_samples = 0;
};
absl::StatusOr<Checkpoints> ReadCheckpoints(const std::string& folder);

}  // namespace sdp::audit
