#include "server/coordinator/service/curve_history.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace sdp {
namespace {

void AddTo(const CurveHistory::Point& more, CurveHistory::Point* point) {
  point->last = more.last;
  point->steps += more.steps;
  point->losses += more.losses;
  point->loss_sum += more.loss_sum;
  if (more.full_loss.has_value()) point->full_loss = more.full_loss;
  point->samples += more.samples;
  point->tokens += more.tokens;
  point->elapsed += more.elapsed;
  point->pull += more.pull;
  point->forward += more.forward;
  point->backward += more.backward;
  point->push += more.push;
}

CurveHistory::Point PointOf(const StepMetrics& metrics) {
  CurveHistory::Point point = {.first = metrics.step, .last = metrics.step};
  point.full_loss = metrics.full_loss;
  if (!metrics.trains()) return point;
  point.steps = 1;
  point.losses = metrics.loss.has_value() ? 1 : 0;
  point.loss_sum = metrics.loss.value_or(0);
  point.samples = metrics.samples;
  point.tokens = metrics.tokens;
  point.elapsed = metrics.elapsed;
  point.pull = metrics.pull;
  point.forward = metrics.forward;
  point.backward = metrics.backward;
  point.push = metrics.push;
  return point;
}

}  // namespace

void CurveHistory::Add(const StepMetrics& metrics) {
  while (!points_.empty() && points_.back().last >= metrics.step) {
    points_.pop_back();
    ++rewritten_;
  }
  const Point point = PointOf(metrics);
  const auto joins = [&] {
    return !points_.empty() && points_.back().first / stride_ == point.first / stride_;
  };
  while (points_.size() == kMostPoints && !joins()) JoinPairs();
  if (joins()) return AddTo(point, &points_.back());
  points_.push_back(point);
}

void CurveHistory::JoinPairs() {
  stride_ *= 2;
  ++rewritten_;
  std::vector<Point> joined;
  joined.reserve(kMostPoints);
  for (const Point& point : points_) {
    if (!joined.empty() && joined.back().first / stride_ == point.first / stride_) {
      AddTo(point, &joined.back());
    } else {
      joined.push_back(point);
    }
  }
  points_ = std::move(joined);
}

CurveHistory::News CurveHistory::Since(const Cursor& cursor) const {
  News news;
  if (cursor.rewritten == rewritten_) news.from = std::min(cursor.points, points_.size());
  news.points.assign(points_.begin() + static_cast<std::ptrdiff_t>(news.from), points_.end());
  news.next = {rewritten_, points_.empty() ? 0 : points_.size() - 1};
  return news;
}

}  // namespace sdp
