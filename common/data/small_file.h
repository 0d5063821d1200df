#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Small files as a whole, and what makes them survive a crash of the machine. Errors name the path.
namespace sdp {

// All of a file. NotFound, ... - as the system says; InvalidArgument - more than `largest` bytes.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t largest);

// The file's bytes are on the disk when this returns; its name is when its folder is synced.
absl::Status WriteTextFile(const std::string& path, absl::string_view text);

// Waits until what was created, renamed or removed in a folder is on the disk.
absl::Status SyncFolder(const std::string& path);

}  // namespace sdp
