#include "common/export/new_folder.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/data/small_file.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

absl::Status Taken(const std::string& path) {
  return absl::AlreadyExistsError(
      absl::StrCat(path, " is there already: give a folder that is not, or an empty one"));
}

}  // namespace

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
