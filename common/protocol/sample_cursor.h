#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace sdp {

// Consecutive positions of the endless sample sequence (common/data/sample_order.h).
struct PositionRange {
  int64_t first = 0;
  int64_t count = 0;

  friend bool operator==(const PositionRange&, const PositionRange&) = default;
};

int64_t CountOf(absl::Span<const PositionRange> ranges);
// Positions [begin, begin + count) of the ranges, one after the other. Precondition: they have
// them.
std::vector<PositionRange> PartOf(absl::Span<const PositionRange> ranges, int64_t begin,
                                  int64_t count);

// Where a run is in its sample sequence: each position goes to one step, and once more if the
// worker that had it was lost (protocol.md section 4). A value.
class SampleCursor {
 public:
  SampleCursor() = default;
  explicit SampleCursor(int64_t next, std::vector<PositionRange> returned = {});

  // The positions of the next step: `count` of them, of what came back the lowest first, then new
  // ones.
  std::vector<PositionRange> Take(int64_t count);
  // They were taken, and are to be taken again.
  void Return(absl::Span<const PositionRange> positions);

  int64_t next() const { return next_; }  // the first position that was never taken
  const std::vector<PositionRange>& returned() const { return returned_; }  // ascending, apart

  friend bool operator==(const SampleCursor&, const SampleCursor&) = default;

 private:
  int64_t next_ = 0;
  std::vector<PositionRange> returned_;
};

}  // namespace sdp
