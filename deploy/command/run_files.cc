#include "deploy/command/run_files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/config/config.h"

namespace sdp {

absl::StatusOr<std::optional<std::string>> RunOwner(const std::string& run_dir) {
  const std::string path = run_dir + "/lock";
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(run_dir, " is no run folder: open ", path));
  }
  // Shared, so that two who look don't see each other; closing lets go of it.
  const bool held = flock(file, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  char text[32] = {};
  const ssize_t size = pread(file, text, sizeof(text) - 1, 0);
  close(file);
  if (!held) return std::nullopt;
  return std::string(absl::StripAsciiWhitespace(size > 0 ? text : "?"));
}

absl::StatusOr<std::string> CoordinatorAddress(const std::string& run_dir) {
  const std::string path = run_dir + "/coordinator.address";
  std::ifstream file(path);
  std::string address;
  if (!std::getline(file, address) || address.empty()) {
    return absl::NotFoundError(absl::StrCat("no coordinator's address in ", path,
                                            "; give it instead of the folder (HOST:PORT)"));
  }
  return std::string(absl::StripAsciiWhitespace(address));
}

absl::StatusOr<std::string> TargetAddress(const std::string& target,
                                          const SecurityOptions& security) {
  std::error_code error;
  if (std::filesystem::is_directory(target, error)) return CoordinatorAddress(target);
  const absl::Status valid = CheckAddress(target, security);
  if (absl::IsInvalidArgument(valid)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", target, "\" is neither a run folder nor an address (HOST:PORT or unix:PATH)"));
  }
  if (!valid.ok()) return valid;
  return target;
}

absl::StatusOr<RunMetrics> ReadRunMetrics(const std::string& run_dir) {
  const std::string path = run_dir + "/metrics.jsonl";
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  RunMetrics metrics;
  int number = 0;
  for (std::string line; std::getline(file, line) && !file.eof();) {  // eof: no newline yet.
    ++number;
    const nlohmann::json json =
        nlohmann::json::parse(line, /*cb=*/nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) {
      return absl::DataLossError(absl::StrCat(path, ":", number, ": not a JSON object"));
    }
    if (const auto it = json.find("full_loss"); it != json.end() && it->is_number()) {
      metrics.full_loss = it->get<double>();
    }
    metrics.closed = json.contains("state_hash");
    const auto step = json.find("step");
    metrics.last_step = step != json.end() && step->is_number_integer() ? step->get<int64_t>() : -1;
    metrics.last_line = std::move(line);
  }
  return metrics;
}

RunEnd HowItEnded(const std::string& run_dir, const RunMetrics& metrics) {
  if (!metrics.closed) return RunEnd::kBrokenOff;
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig(run_dir + "/config.toml", {});
  if (!loaded.ok()) return RunEnd::kFinished;
  return metrics.last_step < loaded->config.train().steps() ? RunEnd::kStopped : RunEnd::kFinished;
}

}  // namespace sdp
