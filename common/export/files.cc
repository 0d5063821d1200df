#include "common/export/files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

// Waits until what was done to the names in a folder is on the disk.
absl::Status SyncFolder(const std::string& path) {
  const int folder = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", path));
  const int result = fsync(folder), error = errno;
  close(folder);
  return result == 0 ? absl::OkStatus() : absl::ErrnoToStatus(error, absl::StrCat("sync ", path));
}

absl::Status Taken(const std::string& path) {
  return absl::AlreadyExistsError(
      absl::StrCat(path, " is there already: give a folder that is not, or an empty one"));
}

}  // namespace

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t largest) {
  std::FILE* const file = std::fopen(path.c_str(), "rbe");
  if (file == nullptr) return absl::ErrnoToStatus(errno, path);
  std::string text;
  char chunk[1 << 16];
  size_t size = 0;
  while (text.size() <= largest && (size = std::fread(chunk, 1, sizeof(chunk), file)) > 0) {
    text.append(chunk, size);
  }
  const bool failed = std::ferror(file) != 0;
  const int error = errno;
  std::fclose(file);
  if (failed) return absl::ErrnoToStatus(error, absl::StrCat("read ", path));
  if (text.size() > largest) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": more than ", largest, " bytes, so it is not what it is named"));
  }
  return text;
}

absl::Status WriteTextFile(const std::string& path, absl::string_view text) {
  std::FILE* const file = std::fopen(path.c_str(), "wbe");
  if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("write ", path));
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size() &&
                       std::fflush(file) == 0 && fsync(fileno(file)) == 0;
  const int error = errno;
  if (std::fclose(file) == 0 && written) return absl::OkStatus();
  return absl::ErrnoToStatus(written ? errno : error, absl::StrCat("write ", path));
}

absl::StatusOr<std::unique_ptr<NewFolder>> NewFolder::Create(const std::string& path) {
  // "out/" and "out" are one folder, with the same neighbours.
  const fs::path whole = (fs::absolute(path) / "").lexically_normal().parent_path();
  std::error_code ignored;
  const fs::file_status there = fs::symlink_status(whole, ignored);
  const bool usable = there.type() == fs::file_type::not_found ||
                      (fs::is_directory(there) && fs::is_empty(whole, ignored));
  if (!usable) return Taken(path);
  for (int i = 0;; ++i) {
    const std::string partial = absl::StrCat(whole.string(), ".partial-", getpid(), "-", i);
    if (mkdir(partial.c_str(), 0777) == 0) {
      return std::unique_ptr<NewFolder>(new NewFolder(whole.string(), partial));
    }
    if (errno != EEXIST) return absl::ErrnoToStatus(errno, absl::StrCat("make ", partial));
  }
}

NewFolder::~NewFolder() {
  std::error_code ignored;
  fs::remove_all(partial_, ignored);
}

absl::Status NewFolder::Commit() {
  SDP_RETURN_IF_ERROR(SyncFolder(partial_));
  if (rename(partial_.c_str(), path_.c_str()) != 0) {  // takes the place of an empty folder
    if (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR) return Taken(path_);
    return absl::ErrnoToStatus(errno, absl::StrCat("rename ", partial_, " to ", path_));
  }
  return SyncFolder(fs::path(path_).parent_path().string());
}

}  // namespace sdp
