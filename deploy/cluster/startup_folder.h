#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace sdp {

// A hidden folder in the run folder, or beside it where it is still to be made, for what the
// coordinator writes before it has it: its address and its first log lines. On the same file
// system, so that the log can be moved while it is being written. Threads: one at a time. Lifetime:
// the destructor removes the folder.
class StartupFolder {
 public:
  // Makes missing parents of `run_dir` too. PermissionDenied, ... - the folder cannot be made.
  static absl::StatusOr<std::unique_ptr<StartupFolder>> Make(const std::string& run_dir);
  ~StartupFolder();
  StartupFolder(const StartupFolder&) = delete;
  StartupFolder& operator=(const StartupFolder&) = delete;

  std::string address_path() const { return path_ + "/address"; }
  std::string log_path() const { return path_ + "/coordinator.log"; }

  // Readable when Address() may have changed; for poll().
  int fd() const { return inotify_; }
  // What the coordinator wrote to address_path(), once that is complete: closed by its writer, or
  // renamed into place.
  std::optional<std::string> Address();

 private:
  StartupFolder(std::string path, int inotify);

  const std::string path_;
  const int inotify_;
  bool complete_ = false;
};

}  // namespace sdp
