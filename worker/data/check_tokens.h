#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"

// Checks that all kinds of data sets share.
namespace sdp {

// The largest of one file's tokens, all of which must be below `vocab`. Precondition: at least one.
template <typename Token>
absl::StatusOr<int64_t> LargestToken(const std::string& path, absl::Span<const Token> tokens,
                                     int64_t vocab) {
  Token largest = 0;
  for (const Token token : tokens) largest = std::max(largest, token);
  if (largest < vocab) return largest;
  const auto first =
      std::find_if(tokens.begin(), tokens.end(), [vocab](Token token) { return token >= vocab; });
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": token ", *first, " at position ", first - tokens.begin(),
      " is not below the model's vocab = ", vocab, " (the file's largest is ", largest, ")"));
}

// One sample needs seq_len + 1 tokens.
inline absl::Status CheckLength(absl::Span<const std::string> paths, int64_t tokens,
                                int64_t seq_len) {
  if (tokens > seq_len) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(absl::StrJoin(paths, ", "), ": ", tokens,
                                                 " tokens in all; seq_len = ", seq_len,
                                                 " needs at least ", seq_len + 1));
}

}  // namespace sdp
