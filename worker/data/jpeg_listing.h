#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sdp {

// Larger files are not read: no JPEG file is.
inline constexpr size_t kLargestJpegFile = size_t{1} << 28;

// The JPEG files of a folder that has a sub-folder for each class. Classes are the sub-folders in
// the order of their names, byte by byte; samples are the files, class by class, in the same order:
// torchvision's ImageFolder numbers both alike. Names that begin with a dot, and files beside the
// sub-folders, do not count. Costs some 30 bytes a file. Threads: immutable.
class JpegListing {
 public:
  // Errors name the folder or file. NotFound, ... - as the system says. InvalidArgument - no
  // sub-folder; one without files, or with something else than files named .jpg and .jpeg (in any
  // case).
  static absl::StatusOr<JpegListing> Read(const std::string& folder);

  int64_t samples() const { return static_cast<int64_t>(begins_.size()) - 1; }
  const std::vector<std::string>& classes() const { return classes_; }
  int64_t ClassOf(int64_t sample) const;
  std::string PathOf(int64_t sample) const;

  // Of the names of classes and files, the files' sizes, and their content: all of it up to
  // `whole_bytes` in all, above that of 64 files, spread evenly from the first to the last.
  // InvalidArgument - one of those does not begin as JPEG files do; others as the system says.
  absl::StatusOr<uint64_t> Checksum(int64_t whole_bytes = int64_t{1} << 30) const;

 private:
  JpegListing() = default;
  absl::Status AddClass(const std::string& name);

  std::string folder_;
  std::vector<std::string> classes_;
  std::vector<int64_t> first_;         // [classes] sample of each
  std::string names_;                  // of the files, joined
  std::vector<int64_t> begins_ = {0};  // [samples + 1] in names_
};

}  // namespace sdp
