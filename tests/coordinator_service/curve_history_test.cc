#include "server/coordinator/service/curve_history.h"

#include <gtest/gtest.h>

#include <vector>

namespace sdp {
namespace {

StepMetrics StepOf(Step step, double loss) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = loss;
  metrics.samples = 8;
  metrics.tokens = 80;
  metrics.elapsed = absl::Seconds(2);
  metrics.pull = absl::Milliseconds(500);
  return metrics;
}

// A reader that asks now and then, as the page does.
struct Reader {
  CurveHistory::Cursor next;
  std::vector<CurveHistory::Point> points;
  size_t received = 0;

  void Ask(const CurveHistory& history) {
    const CurveHistory::News news = history.Since(next);
    ASSERT_LE(news.from, points.size());
    points.resize(news.from);
    points.insert(points.end(), news.points.begin(), news.points.end());
    received += news.points.size();
    next = news.next;
  }
};

void ExpectSame(const std::vector<CurveHistory::Point>& a,
                const std::vector<CurveHistory::Point>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].first, b[i].first);
    EXPECT_EQ(a[i].last, b[i].last);
    EXPECT_EQ(a[i].loss_sum, b[i].loss_sum);
    EXPECT_EQ(a[i].full_loss, b[i].full_loss);
  }
}

TEST(CurveHistoryTest, ShortRun_HasAPointPerStep) {
  CurveHistory history;
  for (Step step = 0; step < 100; ++step)
    history.Add(StepOf(step, 1.0 / static_cast<double>(step + 1)));
  const CurveHistory::News all = history.Since({});
  ASSERT_EQ(all.points.size(), 100u);
  EXPECT_EQ(all.points[9].first, 9);
  EXPECT_EQ(all.points[9].last, 9);
  EXPECT_EQ(all.points[9].loss_sum, 0.1);
  EXPECT_EQ(all.points[9].elapsed, absl::Seconds(2));
}

// The reference: all losses, meant over the steps that a point says it is of.
TEST(CurveHistoryTest, MillionSteps_StayBounded_AndEachPointIsTheMeanOfItsSteps) {
  constexpr Step kSteps = 1'000'000;
  CurveHistory history;
  Reader reader;
  std::vector<double> sums = {0};  // exact: whole numbers
  for (Step step = 0; step < kSteps; ++step) {
    const double loss = static_cast<double>(step % 1000);
    sums.push_back(sums.back() + loss);
    StepMetrics metrics = StepOf(step, loss);
    if (step % 10'000 == 0) metrics.full_loss = static_cast<double>(step);
    history.Add(metrics);
    if (step % 997 == 0) reader.Ask(history);
  }
  reader.Ask(history);
  const std::vector<CurveHistory::Point> points = history.Since({}).points;
  EXPECT_LE(points.size(), CurveHistory::kMostPoints);
  EXPECT_GT(points.size(), CurveHistory::kMostPoints / 3);
  Step next = 0;
  int64_t samples = 0;
  for (const CurveHistory::Point& point : points) {
    EXPECT_EQ(point.first, next);
    next = point.last + 1;
    EXPECT_EQ(point.steps, next - point.first);
    EXPECT_EQ(point.loss_sum,
              sums[static_cast<size_t>(next)] - sums[static_cast<size_t>(point.first)]);
    EXPECT_EQ(point.elapsed, absl::Seconds(2) * static_cast<double>(point.steps));
    samples += point.samples;
  }
  EXPECT_EQ(next, kSteps);
  EXPECT_EQ(samples, 8 * kSteps);
  // Who looks on from the beginning to the end has the same, without getting it again and again.
  ExpectSame(reader.points, points);
  EXPECT_LT(reader.received, 20 * CurveHistory::kMostPoints);
}

TEST(CurveHistoryTest, Reader_GetsOnlyWhatIsNew) {
  CurveHistory history;
  Reader reader;
  for (Step step = 0; step < 50; ++step) history.Add(StepOf(step, 1));
  reader.Ask(history);
  EXPECT_EQ(reader.received, 50u);
  history.Add(StepOf(50, 1));
  reader.Ask(history);
  EXPECT_EQ(reader.received, 52u);  // the last one may have grown
  EXPECT_EQ(reader.points.size(), 51u);
}

// The run goes back to a checkpoint: those steps come again.
TEST(CurveHistoryTest, StepsDoneAgain_TakeThePlaceOfTheOldOnes) {
  CurveHistory history;
  Reader reader;
  for (Step step = 0; step < 30; ++step) history.Add(StepOf(step, 1));
  reader.Ask(history);
  for (Step step = 20; step < 25; ++step) history.Add(StepOf(step, 2));
  reader.Ask(history);
  ASSERT_EQ(reader.points.size(), 25u);
  EXPECT_EQ(reader.points[19].loss_sum, 1);
  EXPECT_EQ(reader.points[20].loss_sum, 2);
  ExpectSame(reader.points, history.Since({}).points);
}

TEST(CurveHistoryTest, CursorOfAnotherProcess_GetsEverything) {
  CurveHistory history;
  for (Step step = 0; step < 5; ++step) history.Add(StepOf(step, 1));
  EXPECT_EQ(history.Since({.rewritten = 77, .points = 3}).points.size(), 5u);
  EXPECT_EQ(history.Since({.rewritten = 0, .points = 1000}).from, 5u);
}

TEST(CurveHistoryTest, ClosingStep_HasItsFullLossAndNothingElse) {
  CurveHistory history;
  StepMetrics closing;
  closing.step = 6;
  closing.full_loss = 2.5;
  history.Add(closing);
  const auto points = history.Since({}).points;
  ASSERT_EQ(points.size(), 1u);
  EXPECT_EQ(points[0].full_loss, 2.5);
  EXPECT_EQ(points[0].steps, 0);
  EXPECT_EQ(points[0].losses, 0);
}

}  // namespace
}  // namespace sdp
