#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "common/base/ids.h"
#include "server/coordinator/logic/step_metrics.h"

namespace sdp {

// The curves of a run in bounded memory, however many steps it has: a point is the mean over
// `stride` consecutive steps, and when there would be more than kMostPoints, pairs of points become
// one and the stride doubles. A reader gets each point about once. What this process has not seen
// is in metrics.jsonl.
class CurveHistory {
 public:
  static constexpr size_t kMostPoints = 1024;

  struct Point {
    Step first = 0, last = 0;                        // steps
    int64_t steps = 0, losses = 0;                   // that trained, and that had a loss
    double loss_sum = 0;                             // nats per target, of the subnetworks
    std::optional<double> full_loss = std::nullopt;  // of the full model: the newest in it
    int64_t samples = 0, tokens = 0;
    absl::Duration elapsed = {}, pull = {}, forward = {}, backward = {},
                   push = {};  // sums, as in StepMetrics
  };
  // What a reader has: the first `points` of the points as they were rewritten for the
  // `rewritten`-th time. Default: nothing.
  struct Cursor {
    int64_t rewritten = -1;
    size_t points = 0;
  };
  struct News {
    size_t from = 0;            // the reader's points before this one are right
    std::vector<Point> points;  // from there on; the last one may still grow
    Cursor next;                // to ask with
  };

  // Steps come in order; one that came before is done again, and what was after it forgotten.
  void Add(const StepMetrics& metrics);
  News Since(const Cursor& cursor) const;

 private:
  void JoinPairs();

  int64_t stride_ = 1;     // a point is of steps [k stride, (k + 1) stride)
  int64_t rewritten_ = 0;  // points that a reader has were changed so often
  std::vector<Point> points_;
};

}  // namespace sdp
