// Requests to a process's HTTP pages: what we make of them beyond the library that reads HTTP.
// Lines of an input: method, host, Authorization, cursor. Nobody gets in without the token.
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "common/http/request.h"
#include "server/coordinator/page/cursor.h"
#include "tests/fuzz/fuzz.h"

namespace {

const char kToken[] = "0123456789abcdef";

// By another way than the product's: whether the token is at the end of what was shown.
bool HasToken(absl::string_view authorization) {
  std::string decoded;
  const std::vector<absl::string_view> words =
      absl::StrSplit(authorization, absl::ByAnyChar(" \t\r\v\f"), absl::SkipEmpty());
  if (words.empty()) return false;
  return words.back() == kToken ||
         (absl::Base64Unescape(authorization.substr(authorization.find(' ') + 1), &decoded) &&
          absl::EndsWith(decoded, std::string(":") + kToken));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<absl::string_view> lines = absl::StrSplit(sdp::Text(data, size), '\n');
  lines.resize(4);
  const sdp::HttpRequest request = {
      .method = lines[0], .path = "/", .host = lines[1], .authorization = lines[2]};
  const auto refusal =
      sdp::Refusal(request, {.token = kToken, .hosts = sdp::HttpAccess::Hosts::kLoopback});
  if (!refusal.has_value()) SDP_FUZZ_CHECK(lines[0] == "GET" && HasToken(lines[2]));
  if (const auto cursor = sdp::CursorFrom(lines[3]); cursor.has_value()) {
    SDP_FUZZ_CHECK(cursor->rewritten >= 0);
    const auto again = sdp::CursorFrom(sdp::CursorText(*cursor));
    SDP_FUZZ_CHECK(again.has_value() && again->points == cursor->points);
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  const std::string shown =
      seed % 2 == 0 ? absl::StrCat("Bearer ", kToken)
                    : absl::StrCat("Basic ", absl::Base64Escape(absl::StrCat("me:", kToken)));
  const std::string good = absl::StrCat("GET\nlocalhost:80\n", shown, "\n12.340");
  return sdp::MutateOr(good, data, size, max_size, seed);
}
