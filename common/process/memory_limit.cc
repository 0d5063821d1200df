#include "common/process/memory_limit.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

// What version 1 says where there is no limit is near the largest number; so much is none.
constexpr int64_t kNoLimit = int64_t{1} << 56;

// The number in a file; none: there is no file, or no number in it ("max").
std::optional<int64_t> ReadNumber(const fs::path& path) {
  std::ifstream file(path);
  std::string text;
  int64_t number = 0;
  if (!(file >> text) || !absl::SimpleAtoi(text, &number) || number >= kNoLimit)
    return std::nullopt;
  return number;
}

std::optional<int64_t> Lesser(std::optional<int64_t> a, std::optional<int64_t> b) {
  if (!a.has_value() || !b.has_value()) return a.has_value() ? a : b;
  return std::min(*a, *b);
}

// Of the group and all above it. In a container the group's own path may not be there; then the
// root is the group.
std::optional<int64_t> LeastLimit(const fs::path& root, const std::string& group,
                                  const char* name) {
  std::optional<int64_t> least;
  for (fs::path path = fs::path(group).relative_path();; path = path.parent_path()) {
    least = Lesser(least, ReadNumber(root / path / name));
    if (path.empty()) return least;
  }
}

}  // namespace

std::optional<int64_t> CgroupMemoryLimit(const std::string& proc, const std::string& cgroups) {
  std::ifstream file(fs::path(proc) / "cgroup");
  std::optional<int64_t> least;
  for (std::string line; std::getline(file, line);) {
    // hierarchy:controllers:path; version 2 has no controllers there
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[1].empty()) {
      least = Lesser(least, LeastLimit(cgroups, parts[2], "memory.max"));
    } else if (absl::StrContains(absl::StrCat(",", parts[1], ","), ",memory,")) {
      least = Lesser(least,
                     LeastLimit(fs::path(cgroups) / "memory", parts[2], "memory.limit_in_bytes"));
    }
  }
  return least;
}

}  // namespace sdp
