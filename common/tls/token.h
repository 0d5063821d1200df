#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The secret that the processes of one cluster share, beside their authority. Never in a message.
namespace sdp {

// 64 random hexadecimal digits.
absl::StatusOr<std::string> NewToken();

// Of a file's text: the token without white space around it. FailedPrecondition - not 16 to 1,024
// visible ASCII characters.
absl::StatusOr<std::string> ParseToken(absl::string_view text);

// Takes as long wherever they differ.
bool SameToken(absl::string_view a, absl::string_view b);

}  // namespace sdp
