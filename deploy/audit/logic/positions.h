#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

// Sets of positions of the endless sample sequence, for the audit. Its own arithmetic, not that of
// common/protocol/sample_cursor.h, which is part of what is audited.
namespace sdp::audit {

// Positions begin .. end - 1.
struct Range {
  int64_t begin = 0, end = 0;

  friend bool operator==(const Range&, const Range&) = default;
};

int64_t Count(const std::vector<Range>& ranges);
// Places [begin, begin + count) of the ranges, one range after the other, as far as they reach.
std::vector<Range> Slice(const std::vector<Range>& ranges, int64_t begin, int64_t count);
bool Overlap(const std::vector<Range>& a, const std::vector<Range>& b);
// "5-7, 12"; of many ranges the first ones.
std::string RangesText(const std::vector<Range>& ranges);

// The positions that no step has: what came back, and all that was never dealt. A step takes the
// lowest of them, which is the whole rule of the sample cursor. A value.
class FreePositions {
 public:
  FreePositions() : FreePositions(0, {}) {}
  // All from `next` on, and what came back.
  FreePositions(int64_t next, const std::vector<Range>& returned);

  std::vector<Range> TakeLowest(int64_t count);
  void Add(const std::vector<Range>& ranges);
  // What is free here and not there.
  std::vector<Range> Minus(const FreePositions& other) const;
  int64_t CountBelow(int64_t end) const;
  int64_t tail() const { return ranges_.back().begin; }  // all from here on are free

 private:
  static constexpr int64_t kNoEnd = std::numeric_limits<int64_t>::max();

  std::vector<Range> ranges_;  // ascending, apart; the last one has no end
};

}  // namespace sdp::audit
