#include "deploy/command/train_checks.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/data/image_kinds.h"

namespace sdp {
namespace {

absl::StatusOr<int64_t> ReadableBytes(const std::string& path, const std::string& key) {
  const std::string what = absl::StrCat(key, ": ", path);
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // A fifo must not block.
  if (file < 0) return absl::ErrnoToStatus(errno, what);
  struct stat info = {};
  const bool known = fstat(file, &info) == 0;
  close(file);
  if (!known || !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": not a regular file"));
  }
  return info.st_size;
}

// What is in it, its readers look at.
absl::Status CheckFolder(const std::string& path, const std::string& key) {
  const std::string what = absl::StrCat(key, ": ", path);
  const int folder = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return absl::ErrnoToStatus(errno, what);
  close(folder);
  return absl::OkStatus();
}

absl::Status CheckFiles(const LoadedConfig& loaded, const std::string& key,
                        const google::protobuf::RepeatedPtrField<std::string>& paths) {
  if (paths.empty()) return absl::OkStatus();
  const auto origin = loaded.origins.find(key);
  const std::string name =
      origin == loaded.origins.end() ? key : absl::StrCat(key, " (", origin->second, ")");
  const ImageKind* const images = FindImageKind(loaded.config.data().kind());
  if (images != nullptr && images->IsFolder()) return CheckFolder(paths.Get(0), name);
  int64_t bytes = 0;
  for (const std::string& path : paths) {
    SDP_ASSIGN_OR_RETURN(const int64_t size, ReadableBytes(path, name));
    if (size == 0) return absl::InvalidArgumentError(absl::StrCat(name, ": ", path, " is empty"));
    bytes += size;
  }
  // A sample is seq_len inputs and the target of the last one.
  const int64_t sample_bytes = loaded.config.data().seq_len() + 1;
  if (loaded.config.data().kind() == "text" && bytes < sample_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": ", bytes, " bytes in all; one sample of data.seq_len = ", sample_bytes - 1,
        " needs ", sample_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckDataFiles(const LoadedConfig& loaded) {
  const RunConfig::Data& data = loaded.config.data();
  SDP_RETURN_IF_ERROR(CheckFiles(loaded, "data.train", data.train()));
  return CheckFiles(loaded, "data.validation", data.validation());
}

absl::Status CheckReadable(const std::string& path, const std::string& key) {
  return ReadableBytes(path, key).status();
}

}  // namespace sdp
