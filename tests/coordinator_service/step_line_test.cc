#include "server/coordinator/service/step_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kMiB = int64_t{1} << 20;

StepMetrics Step(int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.steps = 5000;
  metrics.loss = 3.4119;
  metrics.gradient_norm = 0.912;
  metrics.workers = 8;
  metrics.min_holders = metrics.max_holders = 4;
  metrics.tokens = 2048;
  metrics.elapsed = absl::Milliseconds(1024) / 6;
  metrics.pull = absl::Milliseconds(3);
  metrics.push = absl::Milliseconds(1);
  metrics.forward = absl::Milliseconds(40);
  metrics.backward = absl::Milliseconds(90);
  metrics.pulled_bytes = metrics.pushed_bytes = 24 * kMiB;
  metrics.max_worker_memory_bytes = 2100 * kMiB;
  metrics.max_worker_allocated_bytes = 1229 * kMiB;
  metrics.predicted_worker_allocated_bytes = 1946 * kMiB;
  return metrics;
}

TEST(StepLineTest, LikeTheExampleOfTheDesign) {
  RunProgress progress(8);
  progress.Add(Step(119));
  StepMetrics metrics = Step(120);
  metrics.full_loss = 3.3768;
  progress.Add(metrics);
  EXPECT_EQ(progress.StepLine(),
            "step 120/5000  loss 3.412 (full 3.377)  grad 0.91  workers 8/8  cover 4-4  mem "
            "1.2/1.9 GiB  12.0k tok/s  "
            "pull 24 push 24 MiB  wait 3%  eta 13m");
}

TEST(StepLineTest, Skipped_SaysWhy_WithOrWithoutALoss) {
  RunProgress progress(8);
  StepMetrics metrics = Step(0);
  metrics.skipped = "the loss of worker-1 is not finite";
  progress.Add(metrics);
  EXPECT_THAT(progress.StepLine(),
              HasSubstr("  skipped: the loss of worker-1 is not finite  workers "));
  metrics.loss.reset();
  progress.Add(metrics);
  EXPECT_THAT(progress.StepLine(), HasSubstr("step 0/5000  skipped: "));
}

TEST(StepLineTest, Memory_WithoutPrediction_IsThePeakAlone) {
  RunProgress progress(8);
  StepMetrics metrics = Step(0);
  metrics.predicted_worker_allocated_bytes = 0;
  progress.Add(metrics);
  EXPECT_THAT(progress.StepLine(), HasSubstr("  mem 1.2 GiB  "));
}

TEST(StepLineTest, Memory_OfDifferentSize_SharesTheLargerUnit) {
  RunProgress progress(8);
  StepMetrics metrics = Step(0);
  metrics.max_worker_allocated_bytes = 350 * kMiB;
  progress.Add(metrics);
  EXPECT_THAT(progress.StepLine(), HasSubstr("  mem 0.3/1.9 GiB  "));
}

TEST(StepLineTest, FirstStep_KnowsNoEta) {
  RunProgress progress(8);
  progress.Add(Step(0));
  EXPECT_THAT(progress.StepLine(),
              AllOf(HasSubstr("loss 3.412  grad"), Not(HasSubstr("eta")), Not(HasSubstr("full"))));
}

TEST(StepLineTest, ClosingStep_ShowsTheFullModel) {
  RunProgress progress(8);
  StepMetrics closing;
  closing.step = closing.steps = 5000;
  closing.full_loss = 2.5;
  progress.Add(closing);
  EXPECT_EQ(progress.StepLine(), "step 5000/5000  full 2.500");
}

TEST(StepLineTest, NothingMeasured_NoNonsense) {
  RunProgress progress(1);
  StepMetrics metrics;
  metrics.loss = 1;
  progress.Add(metrics);
  EXPECT_THAT(progress.StepLine(),
              AllOf(Not(HasSubstr("nan")), Not(HasSubstr("inf")), EndsWith("wait 0%")));
}

TEST(StepLineTest, TrafficOfDifferentSize_SharesTheLargerUnit) {
  RunProgress progress(8);
  StepMetrics metrics = Step(0);
  metrics.pulled_bytes = 2 * kMiB;
  metrics.pushed_bytes = kMiB / 2;
  progress.Add(metrics);
  EXPECT_THAT(progress.StepLine(), HasSubstr("pull 2.0 push 0.5 MiB"));
}

TEST(EtaTest, FromRecentSteps_WithoutTheFirst) {
  RunProgress progress(8);
  StepMetrics first = Step(0);
  first.elapsed = absl::Hours(1);
  progress.Add(first);
  EXPECT_FALSE(progress.Eta().has_value());
  StepMetrics second = Step(1);
  second.elapsed = absl::Seconds(2);
  progress.Add(second);
  EXPECT_EQ(progress.Eta(), absl::Seconds(2) * 4998);
}

TEST(EtaTest, FollowsAChange) {
  RunProgress progress(8);
  for (int64_t step = 0; step < 200; ++step) {
    StepMetrics metrics = Step(step);
    metrics.elapsed = absl::Seconds(step < 100 ? 1 : 3);
    progress.Add(metrics);
  }
  EXPECT_EQ(progress.Eta(), absl::Seconds(3) * 4800);
}

TEST(StepLineTest, Images_AreCountedAsSuch) {
  RunProgress progress(8);
  StepMetrics metrics = Step(120);
  metrics.tokens = 0;
  metrics.samples = 256;
  metrics.full_loss = 3.3768;
  metrics.full_accuracy = 0.4561;
  progress.Add(metrics);
  EXPECT_THAT(progress.StepLine(), ::testing::HasSubstr(" (full 3.377 45.6%)  "));
  EXPECT_THAT(progress.StepLine(), ::testing::HasSubstr("  1.5k img/s  "));
  const std::string summary = progress.Summary({});
  EXPECT_THAT(summary, ::testing::HasSubstr("  speed    1.5k img/s\n"));
  EXPECT_THAT(summary, ::testing::HasSubstr("data 3.3768, 45.6% right (version 120)"));
}

TEST(SummaryTest, NoStep_Nothing) {
  EXPECT_EQ(RunProgress(8).Summary({{"coordinator", {1, 0, 0}}}), "");
}

TEST(SummaryTest, HasAllThatAUserAsksFor) {
  RunProgress progress(8);
  for (int64_t step = 0; step < 10; ++step) progress.Add(Step(step));
  StepMetrics closing;
  closing.step = closing.steps = 10;
  closing.full_loss = 3.25;
  closing.state_hash = 0xabc;
  closing.run_time = absl::Seconds(125);
  progress.Add(closing);
  EXPECT_EQ(progress.Summary(
                {{"worker-10",
                  {1946 * kMiB, 900 * kMiB, 0, {300 * kMiB, 0, 500 * kMiB, 99 * kMiB, kMiB}}},
                 {"worker-2", {100 * kMiB, 75 * kMiB, 80 * kMiB}},
                 {"coordinator", {30 * kMiB, 0, 0}}}),
            "trained 10 steps in 2m 5s\n"
            "  loss     last step 3.4119, full model on validation data 3.2500 (version 10)\n"
            "  time     pull-wait 2%, forward 30%, backward 67%, push 1%\n"
            "  bytes    pull 24 push 24 MiB per step, all workers\n"
            "  speed    12.0k tok/s\n"
            "  memory   peak of coordinator 30 MiB, worker-2 100 MiB, worker-10 1.9 GiB\n"
            "  of this  tensors and buffers, peak/predicted: worker-2 75/80 MiB, worker-10 900 "
            "MiB\n"
            "  of that  worker-10 at its peak: parameters 300 MiB, gradients 0 B, activations "
            "500 MiB, communication 99 MiB, other 1.0 MiB\n"
            "  weights  state hash 0000000000000abc\n");
}

// A GPU's memory is no part of the process's.
TEST(SummaryTest, WorkersOnGpus) {
  RunProgress progress(1);
  for (int64_t step = 0; step < 10; ++step) progress.Add(Step(step));
  MemoryUse worker = {900 * kMiB, 1229 * kMiB, 1946 * kMiB, {500 * kMiB, 0, 729 * kMiB, 0, 0}};
  worker.place = MemoryPlace::kGpu;
  EXPECT_THAT(
      progress.Summary({{"worker-0", worker}, {"shard-0", {80 * kMiB, 60 * kMiB, 64 * kMiB}}}),
      HasSubstr("  memory   peak of shard-0 80 MiB, worker-0 900 MiB\n"
                "  of this  tensors and buffers, peak/predicted: shard-0 60/64 MiB\n"
                "  on GPUs  tensors, peak/predicted: worker-0 1.2/1.9 GiB\n"
                "  of that  worker-0 at its peak: parameters 500 MiB, "));
}

TEST(TextTest, Bytes) {
  EXPECT_EQ(BytesText(0), "0 B");
  EXPECT_EQ(BytesText(512), "512 B");
  EXPECT_EQ(BytesText(1023), "1023 B");
  EXPECT_EQ(BytesText(1024), "1.0 KiB");
  EXPECT_EQ(BytesText(kMiB - 1), "1.0 MiB");
  EXPECT_EQ(BytesText(24 * kMiB), "24 MiB");
  EXPECT_EQ(BytesText(10 * kMiB - 1), "10 MiB");
}

TEST(TextTest, Durations) {
  EXPECT_EQ(DurationText(absl::Milliseconds(400)), "0s");
  EXPECT_EQ(DurationText(absl::Seconds(59.6)), "1m 0s");
  EXPECT_EQ(DurationText(absl::Minutes(14)), "14m");
  EXPECT_EQ(DurationText(absl::Minutes(125)), "2h 5m");
  EXPECT_EQ(DurationText(absl::Hours(27)), "1d 3h");
}

}  // namespace
}  // namespace sdp
