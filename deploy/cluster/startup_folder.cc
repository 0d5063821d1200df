#include "deploy/cluster/startup_folder.h"

#include <stdlib.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace sdp {

namespace fs = std::filesystem;

absl::StatusOr<std::unique_ptr<StartupFolder>> StartupFolder::Make(const std::string& run_dir) {
  std::error_code error;
  fs::path run = fs::absolute(run_dir, error).lexically_normal();
  if (!run.has_filename()) run = run.parent_path();  // "runs/first/"
  fs::create_directories(run.parent_path(), error);
  if (error) {
    return absl::ErrnoToStatus(error.value(),
                               absl::StrCat("make the folder ", run.parent_path().string()));
  }
  // On the run folder's file system, so that the log can be renamed: in it, if it is there already.
  std::string path =
      fs::is_directory(run, error)
          ? (run / ".starting-XXXXXX").string()
          : (run.parent_path() / absl::StrCat(".", run.filename().string(), ".starting-XXXXXX"))
                .string();
  if (mkdtemp(path.data()) == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("make the folder ", path));
  }
  std::unique_ptr<StartupFolder> folder(
      new StartupFolder(path, inotify_init1(IN_CLOEXEC | IN_NONBLOCK)));
  if (folder->inotify_ < 0 ||
      inotify_add_watch(folder->inotify_, path.c_str(), IN_CLOSE_WRITE | IN_MOVED_TO) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("watch the folder ", path, " (inotify)"));
  }
  return folder;
}

StartupFolder::StartupFolder(std::string path, int inotify)
    : path_(std::move(path)), inotify_(inotify) {}

StartupFolder::~StartupFolder() {
  if (inotify_ >= 0) close(inotify_);
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::optional<std::string> StartupFolder::Address() {
  alignas(inotify_event) char buffer[4096];
  ssize_t size;
  while ((size = read(inotify_, buffer, sizeof(buffer))) > 0) {
    for (ssize_t at = 0; at < size;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
      if (event->len > 0 && std::strcmp(event->name, "address") == 0) complete_ = true;
      at += static_cast<ssize_t>(sizeof(inotify_event)) + event->len;
    }
  }
  if (!complete_) return std::nullopt;
  std::ifstream file(address_path());
  std::stringstream text;
  text << file.rdbuf();
  const std::string address(absl::StripAsciiWhitespace(text.str()));
  if (address.empty()) return std::nullopt;
  return address;
}

}  // namespace sdp
