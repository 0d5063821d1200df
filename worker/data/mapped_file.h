#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sdp {

// A file mapped read-only, so that a data set of any size costs page cache and not memory.
// Move-only. Assumption: nobody shortens the file while it is mapped (reading what is gone would
// end the process).
class MappedFile {
 public:
  // NotFound, PermissionDenied, ... - as the system says. InvalidArgument - a folder, or a file
  // without bytes.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) = delete;
  ~MappedFile();

  const std::string& path() const { return path_; }
  absl::string_view bytes() const { return {data_, size_}; }

 private:
  MappedFile(std::string path, const char* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  std::string path_;
  const char* data_;  // Null once moved from.
  size_t size_;
};

}  // namespace sdp
