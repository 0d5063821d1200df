#include "common/protocol/sample_cursor.h"

#include <algorithm>
#include <utility>

namespace sdp {

int64_t CountOf(absl::Span<const PositionRange> ranges) {
  int64_t count = 0;
  for (const PositionRange& range : ranges) count += range.count;
  return count;
}

std::vector<PositionRange> PartOf(absl::Span<const PositionRange> ranges, int64_t begin,
                                  int64_t count) {
  std::vector<PositionRange> part;
  for (const PositionRange& range : ranges) {
    const int64_t skipped = std::min(begin, range.count);
    const int64_t taken = std::min(range.count - skipped, count);
    if (taken > 0) part.push_back({range.first + skipped, taken});
    begin -= skipped;
    count -= taken;
  }
  return part;
}

SampleCursor::SampleCursor(int64_t next, std::vector<PositionRange> returned) : next_(next) {
  Return(returned);
}

std::vector<PositionRange> SampleCursor::Take(int64_t count) {
  const int64_t again = std::min(count, CountOf(returned_));
  std::vector<PositionRange> taken = PartOf(returned_, 0, again);
  returned_ = PartOf(returned_, again, CountOf(returned_) - again);
  if (again < count) taken.push_back({next_, count - again});
  next_ += count - again;
  return taken;
}

void SampleCursor::Return(absl::Span<const PositionRange> positions) {
  returned_.insert(returned_.end(), positions.begin(), positions.end());
  std::sort(returned_.begin(), returned_.end(),
            [](const PositionRange& a, const PositionRange& b) { return a.first < b.first; });
  std::vector<PositionRange> joined;
  for (const PositionRange& range : returned_) {
    if (range.count == 0) continue;
    if (!joined.empty() && joined.back().first + joined.back().count == range.first) {
      joined.back().count += range.count;
    } else {
      joined.push_back(range);
    }
  }
  returned_ = std::move(joined);
}

}  // namespace sdp
