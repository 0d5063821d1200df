#include "common/data/small_file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"

namespace sdp {

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

absl::Status SyncFolder(const std::string& path) {
  const int folder = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", path));
  const int result = fsync(folder), error = errno;
  close(folder);
  return result == 0 ? absl::OkStatus() : absl::ErrnoToStatus(error, absl::StrCat("sync ", path));
}

}  // namespace sdp
