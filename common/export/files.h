#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The file system, as an exported folder needs it. Errors name the path.
namespace sdp {

// All of a file. NotFound, ... - as the system says; InvalidArgument - more than `largest` bytes.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t largest);

// The file is on the disk when this returns.
absl::Status WriteTextFile(const std::string& path, absl::string_view text);

// A folder that is there as a whole or not at all: it is filled under another name beside its own.
class NewFolder {
 public:
  // AlreadyExists - `path` is there and not an empty folder. NotFound - its parent is not there.
  static absl::StatusOr<std::unique_ptr<NewFolder>> Create(const std::string& path);
  // What was not committed is removed.
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  // Where its files go until Commit().
  const std::string& partial() const { return partial_; }
  // Gives it its name, durably. AlreadyExists - meanwhile someone else made one.
  absl::Status Commit();

 private:
  NewFolder(std::string path, std::string partial)
      : path_(std::move(path)), partial_(std::move(partial)) {}

  const std::string path_;
  const std::string partial_;
};

}  // namespace sdp
