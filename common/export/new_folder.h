#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sdp {

// A folder that is there as a whole or not at all: it is filled under another name beside its own.
// Errors name the path.
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
