#include "deploy/cluster/log_tail.h"

#include <algorithm>
#include <fstream>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace sdp {
namespace {

constexpr std::streamoff kMaxTailBytes = 8 << 10;
constexpr int kTailLines = 20;

}  // namespace

std::string LastLines(const std::string& path, int lines) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return "";
  const std::streamoff size = file.tellg();
  const std::streamoff begin = std::max<std::streamoff>(0, size - kMaxTailBytes);
  std::string text(static_cast<size_t>(size - begin), '\0');
  file.seekg(begin);
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (begin > 0)
    text.erase(0, text.find('\n') + 1);  // A line cut in two says little. (npos + 1 is 0.)

  std::vector<absl::string_view> all =
      absl::StrSplit(absl::StripTrailingAsciiWhitespace(text), '\n');
  if (all.size() > static_cast<size_t>(lines)) all.erase(all.begin(), all.end() - lines);
  return absl::StrJoin(all, "\n");
}

std::string DescribeLog(const std::string& path) {
  const std::string tail = LastLines(path, kTailLines);
  if (tail.empty()) return absl::StrCat("; it logged nothing (", path, ")");
  return absl::StrCat("; its last log lines (", path, "):\n    ",
                      absl::StrJoin(absl::StrSplit(tail, '\n'), "\n    "));
}

}  // namespace sdp
