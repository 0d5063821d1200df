#include "deploy/audit/logic/positions.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"

namespace sdp::audit {

int64_t Count(const std::vector<Range>& ranges) {
  int64_t count = 0;
  for (const Range& range : ranges) count += range.end - range.begin;
  return count;
}

std::vector<Range> Slice(const std::vector<Range>& ranges, int64_t begin, int64_t count) {
  std::vector<Range> slice;
  for (const Range& range : ranges) {
    const int64_t size = range.end - range.begin;
    const int64_t from = std::clamp<int64_t>(begin, 0, size);
    const int64_t to = std::clamp<int64_t>(begin + count, 0, size);
    if (from < to) slice.push_back({range.begin + from, range.begin + to});
    begin -= size;
  }
  return slice;
}

bool Overlap(const std::vector<Range>& a, const std::vector<Range>& b) {
  return std::any_of(a.begin(), a.end(), [&b](const Range& x) {
    return std::any_of(b.begin(), b.end(),
                       [&x](const Range& y) { return x.begin < y.end && y.begin < x.end; });
  });
}

std::string RangesText(const std::vector<Range>& ranges) {
  constexpr size_t kShown = 8;
  std::string text;
  for (size_t i = 0; i < std::min(ranges.size(), kShown); ++i) {
    absl::StrAppend(&text, i > 0 ? ", " : "", ranges[i].begin);
    if (ranges[i].end - ranges[i].begin > 1) absl::StrAppend(&text, "-", ranges[i].end - 1);
  }
  return absl::StrCat(text, ranges.size() > kShown ? ", ..." : "");
}

FreePositions::FreePositions(int64_t next, const std::vector<Range>& returned)
    : ranges_({{next, kNoEnd}}) {
  Add(returned);
}

std::vector<Range> FreePositions::TakeLowest(int64_t count) {
  std::vector<Range> taken;
  while (count > 0) {
    Range& lowest = ranges_.front();
    const int64_t size = std::min(count, lowest.end - lowest.begin);
    taken.push_back({lowest.begin, lowest.begin + size});
    lowest.begin += size;
    count -= size;
    if (lowest.begin == lowest.end) ranges_.erase(ranges_.begin());
  }
  return taken;
}

void FreePositions::Add(const std::vector<Range>& ranges) {
  ranges_.insert(ranges_.end(), ranges.begin(), ranges.end());
  std::sort(ranges_.begin(), ranges_.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  std::vector<Range> apart;
  for (const Range& range : ranges_) {
    if (range.begin >= range.end) continue;
    if (!apart.empty() && range.begin <= apart.back().end) {
      apart.back().end = std::max(apart.back().end, range.end);
    } else {
      apart.push_back(range);
    }
  }
  ranges_ = std::move(apart);
}

std::vector<Range> FreePositions::Minus(const FreePositions& other) const {
  std::vector<Range> rest;
  for (const Range& range : ranges_) {
    int64_t begin = range.begin;
    for (const Range& hole : other.ranges_) {
      if (hole.end <= begin || hole.begin >= range.end) continue;
      if (hole.begin > begin) rest.push_back({begin, hole.begin});
      begin = hole.end;
    }
    if (begin < range.end) rest.push_back({begin, range.end});
  }
  return rest;
}

int64_t FreePositions::CountBelow(int64_t end) const {
  int64_t count = 0;
  for (const Range& range : ranges_) {
    if (range.begin < end) count += std::min(range.end, end) - range.begin;
  }
  return count;
}

}  // namespace sdp::audit
