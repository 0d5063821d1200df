#pragma once

#include <string>

#include "absl/status/status.h"
#include "common/config/config.h"

// What is cheap to know about a run before its processes start. Each message names the key, its
// value and its origin.
namespace sdp {

// The files of data exist, can be read, and hold at least one sample. What is in them is checked by
// those who read them. NotFound, InvalidArgument, PermissionDenied.
absl::Status CheckDataFiles(const LoadedConfig& loaded);

// `key`: what to call it in the message. NotFound, InvalidArgument (a folder), PermissionDenied.
absl::Status CheckReadable(const std::string& path, const std::string& key);

}  // namespace sdp
