#include "deploy/audit/run_records.h"

#include <sqlite3.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "common/checkpoint/manifest.h"
#include "common/data/small_file.h"

namespace sdp::audit {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kApplicationId = 0x73647063;  // "sdpc"

absl::Status StoreError(sqlite3* db) {
  const int code = sqlite3_errcode(db) & 0xff;
  const bool damaged = code == SQLITE_CORRUPT || code == SQLITE_NOTADB;
  return damaged ? absl::DataLossError(sqlite3_errmsg(db))
                 : absl::UnavailableError(sqlite3_errmsg(db));
}

// Numbers with spaces between.
absl::StatusOr<std::vector<int64_t>> Numbers(const std::string& text) {
  std::vector<int64_t> numbers;
  for (const absl::string_view part : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (!absl::SimpleAtoi(part, &numbers.emplace_back()))
      return absl::DataLossError(absl::StrCat("\"", part, "\" in it is no whole number"));
  }
  return numbers;
}

std::vector<Incarnation> Workers(const std::vector<int64_t>& numbers) {
  std::vector<Incarnation> workers;
  for (const int64_t number : numbers) workers.push_back(Incarnation(number));
  return workers;
}

FreePositions Free(const SampleCursor& cursor) {
  std::vector<Range> returned;
  for (const PositionRange& range : cursor.returned())
    returned.push_back({range.first, range.first + range.count});
  return FreePositions(cursor.next(), returned);
}

}  // namespace

// A query's rows; columns are read left to right.
class RunRecords::Rows {
 public:
  Rows(sqlite3* db, const std::string& sql) : db_(db) {
    if (sqlite3_prepare_v2(db, sql.c_str(), -1, &statement_, nullptr) != SQLITE_OK)
      status_ = StoreError(db);
  }
  ~Rows() { sqlite3_finalize(statement_); }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  absl::StatusOr<bool> Next() {  // true: there is one
    if (!status_.ok()) return status_;
    column_ = 0;
    const int code = sqlite3_step(statement_);
    if (code != SQLITE_ROW && code != SQLITE_DONE) return StoreError(db_);
    return code == SQLITE_ROW;
  }
  int64_t Integer() { return sqlite3_column_int64(statement_, column_++); }
  std::string Text() {
    const auto* text = sqlite3_column_text(statement_, column_);
    const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, column_++));
    return text == nullptr ? "" : std::string(reinterpret_cast<const char*>(text), size);
  }

 private:
  sqlite3* const db_;
  sqlite3_stmt* statement_ = nullptr;
  int column_ = 0;
  absl::Status status_;
};

void RunRecords::Close::operator()(sqlite3* db) const { sqlite3_close_v2(db); }

RunRecords::RunRecords(std::string run_dir) : run_dir_(std::move(run_dir)) {}
RunRecords::~RunRecords() = default;

absl::StatusOr<std::unique_ptr<RunRecords>> RunRecords::Open(const std::string& run_dir) {
  std::unique_ptr<RunRecords> records(new RunRecords(run_dir));
  std::error_code error;
  if (!fs::exists(records->store_path(), error)) {
    return absl::NotFoundError(absl::StrCat(records->store_path(), " is missing: ", run_dir,
                                            " is no run folder, or its run never began"));
  }
  // The lines first: what they are of is then in the store.
  records->metrics_.open(records->metrics_path(), std::ios::binary);
  if (!records->metrics_)
    return absl::NotFoundError(absl::StrCat("cannot read ", records->metrics_path()));
  records->metrics_end_ = static_cast<int64_t>(fs::file_size(records->metrics_path(), error));
  if (error)
    return absl::UnavailableError(absl::StrCat(records->metrics_path(), ": ", error.message()));
  SDP_RETURN_IF_ERROR(Context(records->OpenStore(), records->store_path()));
  return records;
}

absl::Status RunRecords::OpenStore() {
  sqlite3* opened = nullptr;
  const int code = sqlite3_open_v2(store_path().c_str(), &opened,
                                   SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, nullptr);
  db_.reset(opened);
  if (code != SQLITE_OK) return StoreError(opened);
  const auto pragma = [opened](const char* name) -> absl::StatusOr<int64_t> {
    Rows rows(opened, absl::StrCat("PRAGMA ", name));
    SDP_ASSIGN_OR_RETURN(const bool row, rows.Next());
    return row ? rows.Integer() : 0;
  };
  // All of one moment, though a run may go on.
  if (sqlite3_exec(opened, "BEGIN", nullptr, nullptr, nullptr) != SQLITE_OK)
    return StoreError(opened);
  SDP_ASSIGN_OR_RETURN(const int64_t application, pragma("application_id"));
  if (application != kApplicationId)
    return absl::FailedPreconditionError("it is the file of another program");
  SDP_ASSIGN_OR_RETURN(const int64_t format, pragma("user_version"));
  if (format != kReadStoreFormat) {
    return absl::FailedPreconditionError(
        absl::StrCat("it has format ", format, ", this program reads format ", kReadStoreFormat));
  }
  Rows starts(opened, "SELECT generation, step FROM generations ORDER BY seq");
  for (;;) {
    SDP_ASSIGN_OR_RETURN(const bool row, starts.Next());
    if (!row) break;
    starts_.push_back({Generation(starts.Integer()), starts.Integer()});
  }
  return OpenTables();
}

absl::Status RunRecords::OpenTables() {
  const auto add = [this](const char* name, const char* columns,
                          absl::StatusOr<Record> (*read)(Rows&)) {
    tables_.push_back(
        {name, read,
         std::make_unique<Rows>(
             db_.get(), absl::StrCat("SELECT seq, ", columns, " FROM ", name, " ORDER BY seq")),
         std::nullopt});
  };
  add("generations", "generation, step", [](Rows& row) -> absl::StatusOr<Record> {
    const Generation generation(row.Integer());
    return StartRecord{generation, row.Integer()};
  });
  add("views", "view, members, portions", [](Rows& row) -> absl::StatusOr<Record> {
    const ViewId view(row.Integer());
    SDP_ASSIGN_OR_RETURN(const std::vector<int64_t> members, Numbers(row.Text()));
    SDP_ASSIGN_OR_RETURN(std::vector<int64_t> portions, Numbers(row.Text()));
    return ViewRecord{view, Workers(members), std::move(portions)};
  });
  add("bindings", "generation, step, view, cursor, returned, samples, closing",
      [](Rows& row) -> absl::StatusOr<Record> {
        BindingRecord binding;
        binding.generation = Generation(row.Integer());
        binding.step = row.Integer();
        binding.view = ViewId(row.Integer());
        const int64_t next = row.Integer();
        SDP_ASSIGN_OR_RETURN(const std::vector<int64_t> returned, Numbers(row.Text()));
        if (returned.size() % 2 != 0) return absl::DataLossError("\"returned\" has no pairs");
        std::vector<Range> ranges;
        for (size_t i = 0; i < returned.size(); i += 2)
          ranges.push_back({returned[i], returned[i] + returned[i + 1]});
        binding.free = FreePositions(next, ranges);
        binding.samples = row.Integer();
        binding.closing = row.Integer() != 0;
        return binding;
      });
  add("exclusions", "generation, number, worker, reason, committed, returned",
      [](Rows& row) -> absl::StatusOr<Record> {
        ExclusionRecord exclusion;
        exclusion.generation = Generation(row.Integer());
        exclusion.number = row.Integer();
        exclusion.worker = Incarnation(row.Integer());
        exclusion.reason = row.Text();
        exclusion.committed = row.Integer();
        SDP_ASSIGN_OR_RETURN(exclusion.returned, Numbers(row.Text()));
        return exclusion;
      });
  for (Table& table : tables_) SDP_RETURN_IF_ERROR(Advance(table));
  return absl::OkStatus();
}

absl::Status RunRecords::Advance(Table& table) {
  const absl::StatusOr<bool> row = table.rows->Next();
  if (!row.ok()) return Context(row.status(), absl::StrCat("table ", table.name));
  table.seq = std::nullopt;
  if (*row) table.seq = table.rows->Integer();
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Record>> RunRecords::NextRecord() {
  Table* first = nullptr;
  for (Table& table : tables_) {
    if (table.seq.has_value() && (first == nullptr || *table.seq < *first->seq)) first = &table;
  }
  if (first == nullptr) return std::nullopt;
  absl::StatusOr<Record> record = first->read(*first->rows);
  if (!record.ok()) {
    return Context(record.status(),
                   absl::StrCat(store_path(), ": table ", first->name, ", row ", *first->seq));
  }
  SDP_RETURN_IF_ERROR(Context(Advance(*first), store_path()));
  return *std::move(record);
}

absl::StatusOr<std::optional<StepRecord>> RunRecords::NextLine() {
  std::string text;
  if (metrics_.tellg() >= metrics_end_ || !std::getline(metrics_, text) || metrics_.eof())
    return std::nullopt;  // eof: no newline yet
  ++line_;
  const auto json = nlohmann::json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
  const auto damaged = [&](const char* what) {
    return absl::DataLossError(absl::StrCat(metrics_path(), ":", line_, ": ", what));
  };
  if (!json.is_object()) return damaged("not a JSON object");
  const auto is_number = [&json](const char* key) {
    return json.contains(key) && json[key].is_number_integer();
  };
  if (!is_number("generation") || !is_number("step"))
    return damaged("\"generation\" and \"step\" are not whole numbers");
  StepRecord line{Generation(json["generation"].get<int64_t>()), json["step"].get<Step>(), {}};
  if (!json.contains("lost_workers")) return line;
  for (const auto& worker : json["lost_workers"]) {
    if (!worker.is_number_integer()) return damaged("\"lost_workers\" are not whole numbers");
    line.lost.push_back(Incarnation(worker.get<int64_t>()));
  }
  return line;
}

std::string RunRecords::NameOf(Incarnation worker) {
  Rows names(db_.get(),
             absl::StrCat("SELECT name FROM members WHERE incarnation = ", worker.value()));
  const absl::StatusOr<bool> row = names.Next();
  const std::string name = row.ok() && *row ? names.Text() : "a worker without a record";
  return absl::StrCat(name, " (incarnation ", worker.value(), ")");
}

absl::StatusOr<Checkpoints> ReadCheckpoints(const std::string& folder) {
  Checkpoints checkpoints;
  std::error_code error;
  if (!fs::exists(folder, error)) return checkpoints;
  std::vector<std::string> names;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename();
    if (fs::exists(it->path() / kManifestName) && absl::StartsWith(name, "step-"))
      names.push_back(name);
  }
  if (error) return absl::UnavailableError(absl::StrCat("list ", folder, ": ", error.message()));
  std::sort(names.begin(), names.end());
  constexpr size_t kLargestManifest = size_t{1} << 30;
  std::pair<Generation, Step> newest;
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(folder, "/", name, "/", kManifestName);
    const absl::StatusOr<std::string> text = ReadSmallFile(path, kLargestManifest);
    const absl::StatusOr<CheckpointManifest> manifest =
        text.ok() ? ParseManifest(*text) : text.status();
    if (!manifest.ok()) {
      checkpoints.notes.push_back(
          absl::StrCat(path, " is not compared: ", manifest.status().message()));
      continue;
    }
    checkpoints.records.push_back(
        {name, manifest->generation, manifest->step, Free(manifest->cursor)});
    if (std::pair(manifest->generation, manifest->step) < newest) continue;
    newest = {manifest->generation, manifest->step};
    checkpoints.train_samples = manifest->data.train_samples;
  }
  return checkpoints;
}

}  // namespace sdp::audit
