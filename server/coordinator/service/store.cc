#include "server/coordinator/service/store.h"

#include <pthread.h>
#include <sqlite3.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "common/base/status.h"

namespace sdp {
namespace {

constexpr int kApplicationId = 0x73647063;  // "sdpc": marks the file as a coordinator's

absl::Status Error(sqlite3* db) {
  const int code = sqlite3_errcode(db);
  const std::string message = sqlite3_errmsg(db);
  switch (code & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
      return absl::OkStatus();
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
      return absl::DataLossError(message);
    case SQLITE_CONSTRAINT:
      return absl::InternalError(message);
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::UnavailableError(message);
  }
}

absl::Status Execute(sqlite3* db, const char* sql) {
  return sqlite3_exec(db, sql, nullptr, nullptr, nullptr) == SQLITE_OK ? absl::OkStatus()
                                                                       : Error(db);
}

// A prepared statement. Values are bound and columns read left to right.
class Statement {
 public:
  Statement(sqlite3* db, const std::string& sql) : db_(db) {
    sqlite3_prepare_v3(db, sql.c_str(), -1, SQLITE_PREPARE_PERSISTENT, &statement_, nullptr);
    if (statement_ == nullptr) status_ = Error(db);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  const absl::Status& status() const { return status_; }

  Statement& Begin() {
    sqlite3_reset(statement_);
    next_ = 0;
    return *this;
  }
  Statement& Bind(int64_t value) { return Check(sqlite3_bind_int64(statement_, ++next_, value)); }
  Statement& Bind(double value) { return Check(sqlite3_bind_double(statement_, ++next_, value)); }
  Statement& Bind(const std::string& value) {
    return Check(sqlite3_bind_text(statement_, ++next_, value.data(),
                                   static_cast<int>(value.size()), SQLITE_TRANSIENT));
  }

  // True: there is a row, to be read with the functions below.
  absl::StatusOr<bool> Step() {
    if (!status_.ok()) return status_;
    next_ = 0;
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    const absl::Status status = code == SQLITE_DONE ? absl::OkStatus() : Error(db_);
    sqlite3_reset(statement_);
    if (!status.ok()) return status;
    return false;
  }
  int64_t Integer() { return sqlite3_column_int64(statement_, next_++); }
  double Real() { return sqlite3_column_double(statement_, next_++); }
  std::string Text() {
    const auto* text = sqlite3_column_text(statement_, next_);
    const int size = sqlite3_column_bytes(statement_, next_++);
    return text == nullptr
               ? ""
               : std::string(reinterpret_cast<const char*>(text), static_cast<size_t>(size));
  }

 private:
  Statement& Check(int code) {
    if (code != SQLITE_OK && status_.ok()) status_ = Error(db_);
    return *this;
  }

  sqlite3* const db_;
  sqlite3_stmt* statement_ = nullptr;
  int next_ = 0;
  absl::Status status_;
};

// A kind of record and its table, in the order of Record's alternatives. `seq` orders the records
// of all kinds. Only members and shards are written again, when one asks again to be let in, and
// what the data is, at most once in a process: for the others a second row is a bug, which must not
// pass.
struct Kind {
  const char* table;
  const char* columns;  // with constraints
  const char* names;
  int count;
  const char* insert;
};
constexpr const char* kOnce = "INSERT";
constexpr const char* kAgain = "INSERT OR REPLACE";
constexpr std::array<Kind, std::variant_size_v<Record>> kKinds = {{
    {"generations",
     "generation INTEGER UNIQUE, term INTEGER, config_hash TEXT, step INTEGER, init_file TEXT, "
     "init_checksum INTEGER, coverage TEXT, reshuffles TEXT",
     "generation, term, config_hash, step, init_file, init_checksum, coverage, reshuffles", 8,
     kOnce},
    {"members", "incarnation INTEGER UNIQUE, name TEXT, instance INTEGER, memory INTEGER",
     "incarnation, name, instance, memory", 4, kAgain},
    {"shards", "shard INTEGER UNIQUE, name TEXT, address TEXT, instance INTEGER",
     "shard, name, address, instance", 4, kAgain},
    {"views", "view INTEGER UNIQUE, members TEXT, portions TEXT", "view, members, portions", 3,
     kOnce},
    {"bindings",
     "generation INTEGER, step INTEGER, view INTEGER, cursor INTEGER, returned TEXT, samples "
     "INTEGER, evaluate INTEGER, closing INTEGER, checkpoint INTEGER, "
     "UNIQUE (generation, step)",
     "generation, step, view, cursor, returned, samples, evaluate, closing, checkpoint", 9, kOnce},
    {"scales", "generation INTEGER, step INTEGER, scale REAL, UNIQUE (generation, step)",
     "generation, step, scale", 3, kOnce},
    {"exclusions",
     "generation INTEGER, number INTEGER, worker INTEGER, reason TEXT, committed INTEGER, returned "
     "TEXT, UNIQUE (generation, number)",
     "generation, number, worker, reason, committed, returned", 6, kOnce},
    {"data",
     "one INTEGER UNIQUE, train_samples INTEGER, train_checksum INTEGER, validation_samples "
     "INTEGER, validation_checksum INTEGER",
     "one, train_samples, train_checksum, validation_samples, validation_checksum", 5, kAgain},
    {"shard_leaves", "generation INTEGER, shard INTEGER, UNIQUE (generation, shard)",
     "generation, shard", 2, kOnce},
    {"ends", "generation INTEGER UNIQUE, reason TEXT, reshuffle INTEGER",
     "generation, reason, reshuffle", 3, kOnce},
}};

void Bind(Statement& to, const GenerationRecord& record) {
  to.Bind(record.generation.value())
      .Bind(record.term.value())
      .Bind(record.config_hash)
      .Bind(record.step)
      .Bind(record.init_path)
      .Bind(static_cast<int64_t>(record.init_checksum));
  // 17 digits give the same double again.
  const auto number = [](std::string* out, double share) {
    absl::StrAppendFormat(out, "%.17g", share);
  };
  to.Bind(absl::StrJoin(record.coverage, " ", number)).Bind(absl::StrJoin(record.reshuffles, " "));
}
void Bind(Statement& to, const MemberRecord& record) {
  to.Bind(record.incarnation.value())
      .Bind(record.name)
      .Bind(static_cast<int64_t>(record.instance))
      .Bind(record.memory_bytes);
}
void Bind(Statement& to, const ShardRecord& record) {
  to.Bind(int64_t{record.shard.value()})
      .Bind(record.name)
      .Bind(record.address)
      .Bind(static_cast<int64_t>(record.instance));
}
void Bind(Statement& to, const ViewRecord& record) {
  const auto number = [](std::string* out, Incarnation member) {
    absl::StrAppend(out, member.value());
  };
  to.Bind(record.view.value())
      .Bind(absl::StrJoin(record.members, " ", number))
      .Bind(absl::StrJoin(record.portions, " "));
}
void Bind(Statement& to, const BindingRecord& record) {
  const auto range = [](std::string* out, const PositionRange& positions) {
    absl::StrAppend(out, positions.first, " ", positions.count);
  };
  to.Bind(record.generation.value())
      .Bind(record.step)
      .Bind(record.view.value())
      .Bind(record.cursor.next())
      .Bind(absl::StrJoin(record.cursor.returned(), " ", range))
      .Bind(record.samples);
  to.Bind(int64_t{record.evaluate}).Bind(int64_t{record.closing}).Bind(int64_t{record.checkpoint});
}
void Bind(Statement& to, const ScaleRecord& record) {
  to.Bind(record.generation.value()).Bind(record.step).Bind(record.scale);
}

void Bind(Statement& to, const ExclusionRecord& record) {
  to.Bind(record.generation.value())
      .Bind(record.number)
      .Bind(record.worker.value())
      .Bind(record.reason)
      .Bind(record.committed)
      .Bind(absl::StrJoin(record.returned, " "));
}

void Bind(Statement& to, const DataRecord& record) {
  to.Bind(int64_t{1})
      .Bind(record.data.train_samples)
      .Bind(static_cast<int64_t>(record.data.train_checksum))
      .Bind(record.data.validation_samples)
      .Bind(static_cast<int64_t>(record.data.validation_checksum));
}

void Bind(Statement& to, const ShardLeaveRecord& record) {
  to.Bind(record.generation.value()).Bind(int64_t{record.shard.value()});
}

void Bind(Statement& to, const GenerationEndRecord& record) {
  to.Bind(record.generation.value()).Bind(record.reason).Bind(int64_t{record.reshuffle});
}

bool Parse(absl::string_view text, double* number) { return absl::SimpleAtod(text, number); }
bool Parse(absl::string_view text, int64_t* number) { return absl::SimpleAtoi(text, number); }

// Numbers with spaces between, as Bind wrote them. DataLoss - one is none of their type.
template <typename Number>
absl::StatusOr<std::vector<Number>> ReadNumbers(const std::string& text) {
  std::vector<Number> numbers;
  for (const absl::string_view part : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (!Parse(part, &numbers.emplace_back()))
      return absl::DataLossError(absl::StrCat("\"", part, "\" in it is no number of this column"));
  }
  return numbers;
}

// Braces evaluate from left to right, as the columns are.
absl::Status ReadRow(Statement& row, GenerationRecord* record) {
  *record = {Generation(row.Integer()),
             Term(row.Integer()),
             row.Text(),
             row.Integer(),
             row.Text(),
             static_cast<uint64_t>(row.Integer()),
             {},
             {}};
  SDP_ASSIGN_OR_RETURN(record->coverage, ReadNumbers<double>(row.Text()));
  SDP_ASSIGN_OR_RETURN(record->reshuffles, ReadNumbers<int64_t>(row.Text()));
  return absl::OkStatus();
}
absl::Status ReadRow(Statement& row, MemberRecord* record) {
  *record = {Incarnation(row.Integer()), row.Text(), static_cast<uint64_t>(row.Integer()),
             row.Integer()};
  return absl::OkStatus();
}
absl::Status ReadRow(Statement& row, ShardRecord* record) {
  *record = {ShardId(static_cast<int32_t>(row.Integer())), row.Text(), row.Text(),
             static_cast<uint64_t>(row.Integer())};
  return absl::OkStatus();
}
absl::Status ReadRow(Statement& row, ViewRecord* record) {
  record->view = ViewId(row.Integer());
  SDP_ASSIGN_OR_RETURN(const std::vector<int64_t> members, ReadNumbers<int64_t>(row.Text()));
  for (const int64_t member : members) record->members.push_back(Incarnation(member));
  SDP_ASSIGN_OR_RETURN(record->portions, ReadNumbers<int64_t>(row.Text()));
  return absl::OkStatus();
}
absl::Status ReadRow(Statement& row, BindingRecord* record) {
  *record = {Generation(row.Integer()),
             row.Integer(),
             ViewId(row.Integer()),
             SampleCursor(row.Integer()),
             0,
             false,
             false,
             false};
  SDP_ASSIGN_OR_RETURN(const std::vector<int64_t> returned, ReadNumbers<int64_t>(row.Text()));
  if (returned.size() % 2 != 0) return absl::DataLossError("\"returned\" has no pairs");
  for (size_t i = 0; i < returned.size(); i += 2)
    record->cursor.Return(std::vector<PositionRange>{{returned[i], returned[i + 1]}});
  record->samples = row.Integer();
  record->evaluate = row.Integer() != 0;
  record->closing = row.Integer() != 0;
  record->checkpoint = row.Integer() != 0;
  return absl::OkStatus();
}
absl::Status ReadRow(Statement& row, ScaleRecord* record) {
  *record = {Generation(row.Integer()), row.Integer(), row.Real()};
  return absl::OkStatus();
}

absl::Status ReadRow(Statement& row, ExclusionRecord* record) {
  *record = {Generation(row.Integer()),
             row.Integer(),
             Incarnation(row.Integer()),
             row.Text(),
             row.Integer(),
             {}};
  SDP_ASSIGN_OR_RETURN(record->returned, ReadNumbers<int64_t>(row.Text()));
  return absl::OkStatus();
}

absl::Status ReadRow(Statement& row, DataRecord* record) {
  row.Integer();
  record->data = {row.Integer(), static_cast<uint64_t>(row.Integer()), row.Integer(),
                  static_cast<uint64_t>(row.Integer())};
  return absl::OkStatus();
}

absl::Status ReadRow(Statement& row, ShardLeaveRecord* record) {
  *record = {Generation(row.Integer()), ShardId(static_cast<int32_t>(row.Integer()))};
  return absl::OkStatus();
}

absl::Status ReadRow(Statement& row, GenerationEndRecord* record) {
  *record = {Generation(row.Integer()), row.Text(), row.Integer() != 0};
  return absl::OkStatus();
}

template <size_t kind>
absl::Status ReadTable(sqlite3* db, std::vector<std::pair<int64_t, Record>>* records) {
  Statement rows(db,
                 absl::StrCat("SELECT seq, ", kKinds[kind].names, " FROM ", kKinds[kind].table));
  for (;;) {
    SDP_ASSIGN_OR_RETURN(const bool more, rows.Step());
    if (!more) return absl::OkStatus();
    const int64_t seq = rows.Integer();
    std::variant_alternative_t<kind, Record> record;
    SDP_RETURN_IF_ERROR(
        Context(ReadRow(rows, &record), absl::StrCat("table ", kKinds[kind].table, ", row ", seq)));
    records->emplace_back(seq, std::move(record));
  }
}

template <size_t... kinds>
absl::Status ReadTables(sqlite3* db, std::vector<std::pair<int64_t, Record>>* records,
                        std::index_sequence<kinds...>) {
  absl::Status status;
  ((status = status.ok() ? ReadTable<kinds>(db, records) : status), ...);
  return status;
}

absl::StatusOr<int64_t> Pragma(sqlite3* db, const char* name) {
  Statement pragma(db, absl::StrCat("PRAGMA ", name));
  SDP_ASSIGN_OR_RETURN(const bool row, pragma.Step());
  return row ? pragma.Integer() : 0;
}

}  // namespace

struct SqliteStore::Tables {
  std::vector<std::unique_ptr<Statement>> inserts;  // by kind
  int64_t next_seq = 1;
};

void SqliteStore::Close::operator()(sqlite3* db) const { sqlite3_close_v2(db); }

absl::Status SqliteStore::Prepare(sqlite3* db) {
  SDP_ASSIGN_OR_RETURN(const int64_t application, Pragma(db, "application_id"));
  SDP_ASSIGN_OR_RETURN(const int64_t tables, Pragma(db, "schema_version"));
  SDP_ASSIGN_OR_RETURN(const int64_t format, Pragma(db, "user_version"));
  if (application != kApplicationId && tables != 0)
    return absl::FailedPreconditionError("it is the file of another program");
  if (tables != 0 && format != kStoreFormat) {
    return absl::FailedPreconditionError(absl::StrCat(
        "it has format ", format, ", this program reads and writes format ", kStoreFormat));
  }
  SDP_RETURN_IF_ERROR(Execute(db, "PRAGMA journal_mode = WAL"));
  SDP_RETURN_IF_ERROR(Execute(db, "PRAGMA synchronous = FULL"));
  SDP_RETURN_IF_ERROR(Execute(db, "BEGIN IMMEDIATE"));
  for (const Kind& kind : kKinds) {
    const std::string sql = absl::StrCat("CREATE TABLE IF NOT EXISTS ", kind.table,
                                         " (seq INTEGER PRIMARY KEY, ", kind.columns, ")");
    SDP_RETURN_IF_ERROR(Execute(db, sql.c_str()));
  }
  SDP_RETURN_IF_ERROR(
      Execute(db, absl::StrCat("PRAGMA application_id = ", kApplicationId).c_str()));
  SDP_RETURN_IF_ERROR(Execute(db, absl::StrCat("PRAGMA user_version = ", kStoreFormat).c_str()));
  return Execute(db, "COMMIT");
}

absl::StatusOr<std::unique_ptr<SqliteStore>> SqliteStore::Open(const std::string& path) {
  sqlite3* opened = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &opened,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  Database db(opened);
  const std::string what = absl::StrCat("coordinator's store ", path);
  if (code != SQLITE_OK) return Context(Error(db.get()), what);
  SDP_RETURN_IF_ERROR(Context(Prepare(db.get()), what));

  auto tables = std::make_unique<Tables>();
  for (const Kind& kind : kKinds) {
    std::string marks = "?";
    for (int i = 0; i < kind.count; ++i) marks += ", ?";
    tables->inserts.push_back(std::make_unique<Statement>(
        db.get(), absl::StrCat(kind.insert, " INTO ", kind.table, " (seq, ", kind.names,
                               ") VALUES (", marks, ")")));
    SDP_RETURN_IF_ERROR(Context(tables->inserts.back()->status(), what));
    Statement last(db.get(), absl::StrCat("SELECT coalesce(max(seq), 0) FROM ", kind.table));
    if (const auto row = last.Step(); !row.ok()) return Context(row.status(), what);
    tables->next_seq = std::max(tables->next_seq, last.Integer() + 1);
  }
  return std::unique_ptr<SqliteStore>(new SqliteStore(path, std::move(db), std::move(tables)));
}

SqliteStore::SqliteStore(std::string path, Database db, std::unique_ptr<Tables> tables)
    : path_(std::move(path)),
      db_(std::move(db)),
      tables_(std::move(tables)),
      thread_([this] { Run(); }) {}

SqliteStore::~SqliteStore() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void SqliteStore::Write(Record record, Done done) {
  MutexLock lock(&mutex_);
  queue_.push_back({std::move(record), std::move(done)});
}

absl::StatusOr<std::vector<Record>> SqliteStore::Read() {
  std::vector<std::pair<int64_t, Record>> numbered;
  SDP_RETURN_IF_ERROR(Context(
      ReadTables(db_.get(), &numbered, std::make_index_sequence<std::variant_size_v<Record>>()),
      absl::StrCat("read coordinator's store ", path_)));
  std::sort(numbered.begin(), numbered.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Record> records;
  for (auto& [seq, record] : numbered) records.push_back(std::move(record));
  return records;
}

void SqliteStore::Run() {
  pthread_setname_np(pthread_self(), "store");
  absl::Status sticky;
  for (;;) {
    std::vector<Job> jobs;
    {
      MutexLock lock(&mutex_);
      auto awake = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !queue_.empty();
      };
      mutex_.AwaitWithDeadline(absl::Condition(&awake), absl::InfiniteFuture());
      jobs.swap(queue_);
      if (jobs.empty()) return;  // stopping, and everything is written
    }
    if (sticky.ok())
      sticky = Context(WriteAll(jobs), absl::StrCat("write to the coordinator's store ", path_));
    for (const Job& job : jobs) job.done(sticky);
  }
}

absl::Status SqliteStore::WriteAll(const std::vector<Job>& jobs) {
  SDP_RETURN_IF_ERROR(Execute(db_.get(), "BEGIN IMMEDIATE"));
  for (const Job& job : jobs) {
    Statement& insert = tables_->inserts[job.record.index()]->Begin();
    insert.Bind(tables_->next_seq++);
    std::visit([&insert](const auto& record) { Bind(insert, record); }, job.record);
    if (const auto row = insert.Step(); !row.ok()) {
      const absl::Status rolled_back =
          Execute(db_.get(), "ROLLBACK");  // The first error is the one to tell.
      return Context(row.status(), kKinds[job.record.index()].table);
    }
  }
  return Execute(db_.get(), "COMMIT");
}

}  // namespace sdp
