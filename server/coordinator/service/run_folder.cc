#include "server/coordinator/service/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "common/base/hash.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"

namespace sdp {
namespace {

namespace fs = std::filesystem;

absl::Status Errno(absl::string_view doing, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(doing, " ", path));
}

std::string WhatToDo() {
  return "choose another with --set run.dir=FOLDER, or remove it if it is not needed";
}

// The names in a folder that a run would mix with its own. The lock file does not count: a run that
// was refused leaves it.
absl::StatusOr<std::vector<std::string>> Contents(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename();
    const bool ours = name == "logs" || name == "lock" || absl::EndsWith(name, ".address") ||
                      absl::StartsWith(name, ".starting-");
    if (!ours) names.push_back(name);
  }
  if (error)
    return absl::UnavailableError(absl::StrCat("read run folder ", path, ": ", error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status CheckEmpty(const std::string& path) {
  SDP_ASSIGN_OR_RETURN(std::vector<std::string> names, Contents(path));
  if (names.empty()) return absl::OkStatus();
  constexpr size_t kShown = 5;
  if (names.size() > kShown) {
    names.resize(kShown);
    names.push_back("...");
  }
  return absl::AlreadyExistsError(absl::StrCat("run folder ", path, " exists and is not empty (",
                                               absl::StrJoin(names, ", "), "): ", WhatToDo()));
}

// The descriptor of the lock file, locked. -1: another process has the lock, and `owner` is what it
// wrote.
absl::StatusOr<int> Lock(const std::string& path, int flags, std::string* owner) {
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC | flags, 0644);
  if (file < 0) return Errno("open", path);
  if (flock(file, LOCK_EX | LOCK_NB) == 0) return file;
  const int error = errno;
  char text[32] = {};
  const ssize_t size = pread(file, text, sizeof(text) - 1, 0);
  close(file);
  if (error != EWOULDBLOCK) return absl::ErrnoToStatus(error, absl::StrCat("lock ", path));
  *owner = size > 0 ? std::string(absl::StripSuffix(text, "\n")) : "?";
  return -1;
}

absl::Status InUse(const std::string& path, const std::string& owner) {
  return absl::FailedPreconditionError(absl::StrCat("run folder ", path, " is in use by process ",
                                                    owner,
                                                    ": choose another with --set run.dir=FOLDER"));
}

// Cuts what is behind the last newline.
absl::Status CutIncompleteLine(const std::string& path) {
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return errno == ENOENT ? absl::OkStatus() : Errno("open", path);
  off_t end = lseek(file, 0, SEEK_END);
  char last = 0;
  while (end > 0 && pread(file, &last, 1, end - 1) == 1 && last != '\n') --end;
  const bool cut = ftruncate(file, end) == 0;
  close(file);
  return cut ? absl::OkStatus() : Errno("cut", path);
}

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

nlohmann::ordered_json KindsJson(const BytesByKind& bytes) {
  nlohmann::ordered_json json;
  for (size_t kind = 0; kind < kMemoryKinds; ++kind) json[kMemoryKindNames[kind]] = bytes[kind];
  return json;
}

}  // namespace

std::string MetricsJson(const StepMetrics& metrics) {
  nlohmann::ordered_json json;
  json["generation"] = metrics.generation.value();
  json["step"] = metrics.step;
  if (metrics.loss.has_value()) json["loss"] = *metrics.loss;
  if (metrics.full_loss.has_value()) json["full_loss"] = *metrics.full_loss;
  if (metrics.full_accuracy.has_value()) json["full_accuracy"] = *metrics.full_accuracy;
  if (metrics.state_hash.has_value()) json["state_hash"] = HashText(*metrics.state_hash);
  if (metrics.trains()) {
    if (metrics.skipped.empty()) {
      json["gradient_norm"] = metrics.gradient_norm;
      json["clip_scale"] = metrics.clip_scale;
    } else {
      json["skipped"] = metrics.skipped;
    }
    json["workers"] = metrics.workers;
    for (const Incarnation worker : metrics.lost) json["lost_workers"].push_back(worker.value());
    json["min_holders"] = metrics.min_holders;
    json["max_holders"] = metrics.max_holders;
    json["uncovered_fragments"] = metrics.uncovered;
    json["samples"] = metrics.samples;
    json["tokens"] = metrics.tokens;
    json["elapsed_sec"] = Seconds(metrics.elapsed);
    json["pull_sec"] = Seconds(metrics.pull);
    json["forward_sec"] = Seconds(metrics.forward);
    json["backward_sec"] = Seconds(metrics.backward);
    json["push_sec"] = Seconds(metrics.push);
    json["pulled_bytes"] = metrics.pulled_bytes;
    json["pushed_bytes"] = metrics.pushed_bytes;
  }
  json["run_sec"] = Seconds(metrics.run_time);
  json["max_worker_memory_bytes"] = metrics.max_worker_memory_bytes;
  json["max_worker_allocated_bytes"] = metrics.max_worker_allocated_bytes;
  if (metrics.predicted_worker_allocated_bytes > 0)
    json["predicted_worker_allocated_bytes"] = metrics.predicted_worker_allocated_bytes;
  if (!metrics.largest_worker.empty()) {
    nlohmann::ordered_json& largest = json["largest_worker"];
    largest["worker"] = metrics.largest_worker;
    largest["now_bytes"] = KindsJson(metrics.largest_worker_ledger.now);
    largest["peak_bytes"] = KindsJson(metrics.largest_worker_ledger.peak);
  }
  json["max_shard_memory_bytes"] = metrics.max_shard_memory_bytes;
  json["max_shard_allocated_bytes"] = metrics.max_shard_allocated_bytes;
  json["plan_hash"] = HashText(metrics.plan_hash);
  for (const BlockDiagnostics& block : metrics.blocks) {
    nlohmann::ordered_json& entry = json["blocks"].emplace_back();
    entry["unit"] = block.unit;
    entry["holders"] = block.holders;
    entry["gradient_norm"] = block.gradient_norm;
    if (block.cosine.has_value()) entry["cosine"] = *block.cosine;
    if (block.variance.has_value()) entry["variance"] = *block.variance;
    if (block.dense_cosine.has_value()) entry["dense_cosine"] = *block.dense_cosine;
    if (block.dense_ratio.has_value()) entry["dense_ratio"] = *block.dense_ratio;
  }
  return json.dump();
}

std::string EventJson(const RunEvent& event, absl::Time at) {
  nlohmann::ordered_json json;
  json["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", at, absl::UTCTimeZone());
  json["event"] = EventName(event.kind);
  json["generation"] = event.generation.value();
  json["step"] = event.step;
  if (!event.worker.empty()) json["worker"] = event.worker;
  if (!event.shard.empty()) json["shard"] = event.shard;
  if (event.incarnation != Incarnation()) json["incarnation"] = event.incarnation.value();
  if (event.view != ViewId()) json["view"] = event.view.value();
  if (event.workers > 0) json["workers"] = event.workers;
  if (event.plan_hash != 0) json["plan_hash"] = HashText(event.plan_hash);
  if (event.kind == RunEvent::Kind::kEnd) json["code"] = absl::StatusCodeToString(event.code);
  if (!event.reason.empty()) json["reason"] = event.reason;
  json["text"] = EventText(event);
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::StatusOr<std::unique_ptr<RunFolder>> RunFolder::Create(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error)
    return absl::UnavailableError(absl::StrCat("make run folder ", path, ": ", error.message()));
  const std::string lock_path = path + "/lock";
  std::string owner;
  // First without making the lock file: nothing is written into a folder that is not a run's.
  if (const absl::Status empty = CheckEmpty(path); !empty.ok()) {
    const absl::StatusOr<int> lock = Lock(lock_path, 0, &owner);
    if (lock.ok() && *lock >= 0) close(*lock);
    return lock.ok() && *lock < 0 ? InUse(path, owner) : empty;
  }
  SDP_ASSIGN_OR_RETURN(const int lock, Lock(lock_path, O_CREAT, &owner));
  if (lock < 0) return InUse(path, owner);
  // Again, now that nobody else can begin here.
  absl::Status status = CheckEmpty(path);
  if (status.ok()) {
    fs::create_directories(path + "/logs", error);
    if (error)
      status = absl::UnavailableError(absl::StrCat("make ", path, "/logs: ", error.message()));
  }
  return Begin(path, lock, status);
}

absl::StatusOr<std::unique_ptr<RunFolder>> RunFolder::Open(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path + "/state.db", error)) {
    return absl::NotFoundError(
        absl::StrCat("there is no run to resume in ", path, " (no state.db): start it without it"));
  }
  std::string owner;
  SDP_ASSIGN_OR_RETURN(const int lock, Lock(path + "/lock", O_CREAT, &owner));
  if (lock < 0) return InUse(path, owner);
  absl::Status status = CutIncompleteLine(path + "/metrics.jsonl");
  if (status.ok()) status = CutIncompleteLine(path + "/events.jsonl");
  return Begin(path, lock, status);
}

absl::StatusOr<std::unique_ptr<RunFolder>> RunFolder::Begin(const std::string& path, int lock,
                                                            absl::Status status) {
  const std::string process = absl::StrCat(getpid(), "\n");
  if (status.ok() &&
      (ftruncate(lock, 0) != 0 || pwrite(lock, process.data(), process.size(), 0) < 0)) {
    status = Errno("write", path + "/lock");
  }
  std::unique_ptr<RunFolder> folder(new RunFolder(path));
  folder->lock_ = lock;
  for (Lines* lines : {&folder->metrics_, &folder->events_}) {
    if (!status.ok()) break;
    lines->file = std::fopen(lines->path.c_str(), "ae");
    if (lines->file == nullptr) status = Errno("open", lines->path);
  }
  if (!status.ok()) return status;
  return folder;
}

RunFolder::RunFolder(std::string path)
    : path_(std::move(path)), curves_(std::unique_ptr<EventFile>()) {
  metrics_.path = path_ + "/metrics.jsonl";
  events_.path = path_ + "/events.jsonl";
}

RunFolder::~RunFolder() {
  for (const Lines* lines : {&metrics_, &events_}) {
    // Every line was flushed; there is nothing left that could fail.
    if (lines->file != nullptr) std::fclose(lines->file);
  }
  close(lock_);
}

absl::StatusOr<std::optional<RunFolder::Line>> RunFolder::NewestLine() const {
  const std::string path = path_ + "/metrics.jsonl";
  std::ifstream file(path);
  std::string newest;
  for (std::string line; std::getline(file, line);) newest = std::move(line);
  if (newest.empty()) return std::nullopt;
  const auto json = nlohmann::json::parse(newest, /*cb=*/nullptr, /*allow_exceptions=*/false);
  const auto is_number = [&](const char* key) {
    return json.is_object() && json.contains(key) && json[key].is_number_integer();
  };
  if (!is_number("generation") || !is_number("step")) {
    return absl::DataLossError(
        absl::StrCat(path, ": the last line is no object with generation and step"));
  }
  return Line{Generation(json["generation"].get<int64_t>()), json["step"].get<Step>(),
              json.contains("state_hash")};
}

std::vector<double> RunFolder::NewestLosses(size_t most) const {
  std::ifstream file(path_ + "/metrics.jsonl");
  // A long run has millions of lines: only those that count are parsed.
  std::deque<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (!absl::StrContains(line, "\"loss\":")) continue;
    lines.push_back(std::move(line));
    if (lines.size() > most + 1) lines.pop_front();  // one may be cut off
  }
  std::vector<double> losses;
  for (const std::string& line : lines) {
    const auto json = nlohmann::json::parse(line, /*cb=*/nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.contains("loss") && json["loss"].is_number())
      losses.push_back(json["loss"].get<double>());
  }
  if (losses.size() > most) losses.erase(losses.begin());
  return losses;
}

absl::Status RunFolder::WritePlan(const std::string& json) {
  return WriteFileAtomically(path_ + "/plan.json", json);
}

absl::Status RunFolder::WriteAddress(const std::string& address) {
  return WriteFileAtomically(path_ + "/coordinator.address", address + "\n");
}

absl::Status RunFolder::AppendMetrics(const StepMetrics& metrics) {
  return Append(MetricsJson(metrics), &metrics_);
}

absl::Status RunFolder::AppendEvent(const std::string& json) { return Append(json, &events_); }

absl::Status RunFolder::AppendCurves(const StepMetrics& metrics, absl::Time now) {
  const CurvePoints points = CurvesOf(metrics);
  if (points.empty()) return absl::OkStatus();
  if (curves_.ok() && *curves_ == nullptr)
    curves_ = EventFile::Create(path_ + "/tensorboard", metrics.step, now);
  if (!curves_.ok()) return curves_.status();
  return (*curves_)->Append(metrics.step, points, now);
}

absl::Status RunFolder::Append(const std::string& json, Lines* lines) {
  if (!lines->status.ok()) return lines->status;
  const std::string line = json + "\n";
  if (std::fwrite(line.data(), 1, line.size(), lines->file) != line.size() ||
      std::fflush(lines->file) != 0) {
    lines->status = Errno("write", lines->path);
  }
  return lines->status;
}

void RunFolder::Discard() {
  std::error_code
      ignored;  // What cannot be removed stays, and the next run in this folder says so.
  for (const char* name :
       {"config.toml", "plan.json", "metrics.jsonl", "events.jsonl", "state.db", "state.db-wal",
        "state.db-shm", "coordinator.address", "lock", "logs", ""}) {
    fs::remove(fs::path(path_) / name, ignored);  // a folder only if it is empty
  }
}

absl::Status WriteFileAtomically(const std::string& path, const std::string& text) {
  const std::string temporary = absl::StrCat(path, ".", getpid());
  std::FILE* file = std::fopen(temporary.c_str(), "we");
  if (file == nullptr) return Errno("write", temporary);
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (std::fclose(file) != 0 || !written) {
    const absl::Status status = Errno("write", temporary);
    std::remove(temporary.c_str());
    return status;
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) return Errno("rename to", path);
  return absl::OkStatus();
}

}  // namespace sdp
