#include "worker/logic/worker.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "common/model/llama.h"

namespace sdp {
namespace {

class WorkerTest : public testing::Test {
 protected:
  WorkerTest()
      : catalog_(LlamaCatalog(
            {.dim = 4, .layers = 1, .heads = 2, .kv_heads = 1, .ffn_dim = 6, .vocab = 8},
            TransformerUnit::kSublayer, 4)),
        layout_(catalog_) {
    options_.name = "worker-0";
    options_.catalog = &catalog_;
    options_.layout = &layout_;
    admission_.incarnation = Incarnation(7);
    admission_.generation = Generation(2);
    admission_.shards = {"here:1"};
    admission_.coverage.assign(catalog_.units.size(), 1.0);
  }

  // Of step 12 on, with the shared units and the MLP, on both of two shards.
  WorkerBinding Binding(Step step, int64_t samples) const {
    WorkerBinding binding;
    binding.generation = Generation(2);
    binding.step = step;
    binding.plan = 0;
    if (samples > 0) binding.portion = {{0, samples}};
    binding.units = std::make_shared<std::vector<UnitFactor>>(
        std::vector<UnitFactor>{{UnitId(0), 1}, {UnitId(2), 1}, {UnitId(3), 1}});
    return binding;
  }
  // Has been told its binding, and what to do about it.
  WorkerActions Bound(Worker& worker, Step step, int64_t samples) const {
    return worker.OnBinding(Binding(step, samples), absl::UnixEpoch());
  }
  std::vector<int> Asked(const WorkerActions& actions) const {
    std::vector<int> asked;
    for (const auto& pull : actions.pulls) {
      for (const FragmentId id : pull.request.fragments) asked.push_back(id.value());
    }
    std::sort(asked.begin(), asked.end());
    return asked;
  }
  WorkerActions Value(Worker& worker, Step step, int fragment) const {
    const FragmentId id(fragment);
    return worker.OnValue(step, id, WireBuffer(WireType::kF32, layout_.fragment(id).size), 100,
                          absl::UnixEpoch());
  }

  const Catalog catalog_;
  const Layout layout_;
  Worker::Options options_;
  WorkerAdmission admission_;
};

TEST_F(WorkerTest, Start_AsksForItsFirstStep) {
  Worker worker(options_, admission_, {10, 1, 2, 1});
  const WorkerActions actions = worker.Start();
  ASSERT_EQ(actions.ask.size(), 1u);
  EXPECT_EQ(actions.ask[0].step, kFirstOfMine);
}

// The full model's factors follow from the run's coverage, whatever this worker holds.
TEST_F(WorkerTest, Evaluation_HasTheFactorsOfTheRescaling) {
  admission_.coverage[1] = 0.25;
  for (const auto& [rescale, factor] :
       {std::pair{Rescale::kEval, 0.25}, {Rescale::kSqrt, 0.5}, {Rescale::kInverted, 1.0}}) {
    options_.rescale = rescale;
    Worker worker(options_, admission_, {10, 1, 2, 1});
    worker.Start();
    WorkerBinding binding;
    binding.generation = Generation(2);
    binding.step = 12;
    binding.units = std::make_shared<std::vector<UnitFactor>>();
    binding.evaluations = {{12, ViewId(), 0, 2}};
    const WorkerActions actions = worker.OnBinding(binding, absl::UnixEpoch());
    ASSERT_EQ(actions.evaluate.size(), 1u);
    ASSERT_EQ(actions.evaluate[0].units.size(), catalog_.units.size());
    EXPECT_EQ(actions.evaluate[0].units[0].factor, 1);
    EXPECT_EQ(actions.evaluate[0].units[1].factor, factor);
    const WorkerActions done = worker.OnEvaluated(12, LossSum{2.5, 2, 1});
    ASSERT_EQ(done.evaluations.size(), 1u);
    EXPECT_EQ(done.evaluations[0].loss_sum, 2.5);
    EXPECT_EQ(done.evaluations[0].correct, 1);
  }
}

TEST_F(WorkerTest, SkipNotFinite_TheComputationIsTold) {
  for (const bool skip : {false, true}) {
    options_.skip_not_finite = skip;
    Worker worker(options_, admission_, {10, 1, 2, 1});
    worker.Start();
    WorkerBinding binding;
    binding.generation = Generation(2);
    binding.step = 12;
    binding.units = std::make_shared<std::vector<UnitFactor>>();
    binding.portion = {{0, 2}};
    const WorkerActions actions = worker.OnBinding(binding, absl::UnixEpoch());
    ASSERT_EQ(actions.train.size(), 1u);
    EXPECT_EQ(actions.train[0].hand_out_not_finite, skip);
  }
}

// protocol.md 2.9: a loss that is not finite is reported, and the coordinator ends the run with the
// step and the worker named; a worker that just left would look lost.
TEST_F(WorkerTest, ValidationLossNotFinite_IsReported) {
  Worker worker(options_, admission_, {10, 1, 2, 1});
  worker.Start();
  WorkerBinding binding;
  binding.generation = Generation(2);
  binding.step = 12;
  binding.units = std::make_shared<std::vector<UnitFactor>>();
  binding.evaluations = {{12, ViewId(), 0, 2}};
  EXPECT_EQ(worker.OnBinding(binding, absl::UnixEpoch()).evaluate.size(), 1u);
  const WorkerActions actions =
      worker.OnEvaluated(12, absl::OutOfRangeError("evaluation of version 12: the loss is nan"));
  EXPECT_FALSE(actions.exit.has_value());
  ASSERT_EQ(actions.not_finite.size(), 1u);
  EXPECT_EQ(actions.not_finite[0].member, "worker-0");
  EXPECT_EQ(actions.not_finite[0].step, 12);
  EXPECT_EQ(actions.not_finite[0].worker, Incarnation(7));
}

// ---- The dense gradient. One fragment a unit. ----

class DiagnosedWorkerTest : public WorkerTest {
 protected:
  // Step 12 is diagnosed: what to do about it.
  WorkerActions Diagnosed(Worker& worker, int64_t samples) const {
    worker.Start();
    WorkerBinding binding = Binding(12, samples);
    binding.diagnose = true;
    return worker.OnBinding(binding, absl::UnixEpoch());
  }
  WorkerActions Give(Worker& worker, int fragment) const {
    const FragmentId id(fragment);
    return worker.OnGradient(12, id, WireBuffer(WireType::kF32, layout_.fragment(id).size));
  }
  static WorkerActions Acknowledge(Worker& worker, int fragment, Purpose purpose) {
    return worker.OnPushAnswer(
        {Incarnation(7), 12, FragmentId(fragment), Answer::kReceived, "", purpose},
        absl::UnixEpoch());
  }
};

// Its own portion, of the network that is evaluated, before it trains; weights come as gradients
// leave.
TEST_F(DiagnosedWorkerTest, WalksTheFullModel_ThenTrains) {
  admission_.coverage[1] = 0.25;
  Worker worker(options_, admission_, {10, 1, 2, 1});
  const WorkerActions told = Diagnosed(worker, 3);
  EXPECT_TRUE(told.train.empty());
  ASSERT_EQ(told.dense.size(), 1u);
  EXPECT_EQ(told.dense[0].step, 12);
  EXPECT_EQ(told.dense[0].samples.size(), 3u);
  EXPECT_EQ(told.dense[0].epochs, std::vector<int64_t>(3, 0));
  ASSERT_EQ(told.dense[0].units.size(), catalog_.units.size());
  EXPECT_EQ(told.dense[0].units[1].factor, 0.25);

  EXPECT_EQ(Asked(worker.OnWant(12, UnitId(3))), std::vector<int>{3});
  EXPECT_TRUE(worker.waits());
  EXPECT_NE(worker.phase().find("dense gradient, at head"), std::string::npos) << worker.phase();
  EXPECT_EQ(Value(worker, 12, 3).units.size(), 1u);
  EXPECT_FALSE(worker.waits());
  const WorkerActions given = Give(worker, 3);
  ASSERT_EQ(given.pushes.size(), 1u);
  EXPECT_EQ(given.pushes[0].key.purpose, Purpose::kDense);
  EXPECT_EQ(given.pushes[0].key.terms, 3);
  EXPECT_TRUE(Asked(worker.OnWant(12, UnitId(1))).empty());  // unit 1 is not even held
  EXPECT_TRUE(worker.waits());
  EXPECT_EQ(worker.Reconnected(ShardId(0)).pushes.size(), 1u);
  EXPECT_TRUE(Asked(Acknowledge(worker, 3, Purpose::kTrain)).empty());  // of another one
  EXPECT_EQ(Asked(Acknowledge(worker, 3, Purpose::kDense)), std::vector<int>{1});
  Value(worker, 12, 1);
  EXPECT_EQ(Asked(worker.OnWant(12, UnitId(3))), std::vector<int>{3});  // a second time
  Value(worker, 12, 3);
  Give(worker, 1);

  const WorkerActions trains = worker.OnDense(12, absl::OkStatus());
  ASSERT_EQ(trains.train.size(), 1u);
  EXPECT_EQ(Asked(trains), (std::vector<int>{0, 2, 3}));
  for (const int fragment : {0, 2, 3}) {
    const WorkerActions gradient = Give(worker, fragment);
    ASSERT_EQ(gradient.pushes.size(), 1u);
    EXPECT_EQ(gradient.pushes[0].key.purpose, Purpose::kTrain);
    Acknowledge(worker, fragment, Purpose::kTrain);
  }
  // Not before all is acknowledged, as only the worker can send it again.
  EXPECT_TRUE(worker.OnTrained(12, TrainResult(), absl::UnixEpoch()).reports.empty());
  const WorkerActions done = Acknowledge(worker, 1, Purpose::kDense);
  ASSERT_EQ(done.reports.size(), 1u);
  EXPECT_EQ(done.reports[0].pulled_bytes, 0);  // the full model's traffic is not the step's
}

TEST_F(DiagnosedWorkerTest, AfterItsEvaluation) {
  Worker worker(options_, admission_, {10, 1, 2, 1});
  worker.Start();
  WorkerBinding binding = Binding(12, 3);
  binding.diagnose = true;
  binding.evaluations = {{12, ViewId(), 0, 2}};
  const WorkerActions told = worker.OnBinding(binding, absl::UnixEpoch());
  EXPECT_EQ(told.evaluate.size(), 1u);
  EXPECT_TRUE(told.dense.empty());
  EXPECT_EQ(worker.OnEvaluated(12, LossSum{2.5, 2, 1}).dense.size(), 1u);
}

TEST_F(DiagnosedWorkerTest, WithoutSamples_SaysSoOfAllFragments) {
  Worker worker(options_, admission_, {10, 1, 2, 1});
  const WorkerActions told = Diagnosed(worker, 0);
  EXPECT_TRUE(told.dense.empty());
  std::vector<int> dense, train;
  for (const auto& push : told.pushes) {
    EXPECT_EQ(push.key.terms, 0);
    EXPECT_EQ(push.gradient, nullptr);
    (push.key.purpose == Purpose::kDense ? dense : train).push_back(push.key.fragment.value());
  }
  EXPECT_EQ(dense, (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(train, (std::vector<int>{0, 2, 3}));
  EXPECT_EQ(told.ask.size(), 1u);
}

TEST_F(DiagnosedWorkerTest, ThatFails_EndsTheWorker) {
  Worker worker(options_, admission_, {10, 1, 2, 1});
  Diagnosed(worker, 2);
  const WorkerActions actions = worker.OnDense(12, absl::ResourceExhaustedError("memory"));
  ASSERT_TRUE(actions.exit.has_value());
  EXPECT_TRUE(absl::IsResourceExhausted(*actions.exit));
}

// ---- Backward masking. One fragment a unit: 0 embed, 1 attention (not held), 2 mlp, 3 head. ----

TEST_F(WorkerTest, Backward_PullsEverything_HoldsWhatItHolds) {
  options_.masking = Masking::kBackward;
  Worker worker(options_, admission_, {10, 1, 2, 1});
  worker.Start();
  const WorkerActions actions = Bound(worker, 12, 2);
  EXPECT_EQ(Asked(actions), (std::vector<int>{0, 1, 2, 3}));
  ASSERT_EQ(actions.train.size(), 1u);
  EXPECT_EQ(actions.train[0].units.size(), 3u);
  EXPECT_EQ(actions.train[0].read_only, std::vector<UnitId>{UnitId(1)});
  for (const int fragment : {3, 1, 0}) EXPECT_TRUE(Value(worker, 12, fragment).done.empty());
  const WorkerActions last = Value(worker, 12, 2);
  ASSERT_EQ(last.done.size(), 1u);
  EXPECT_EQ(last.done[0].shard, ShardId(0));
  EXPECT_EQ(last.done[0].reads.step, 12);
  EXPECT_EQ(last.done[0].reads.worker, Incarnation(7));
  EXPECT_EQ(last.done[0].reads.generation, Generation(2));
  EXPECT_TRUE(Value(worker, 12, 2).done.empty());  // twice
  // Its connection broke: what it said last may be lost.
  const WorkerActions again = worker.Reconnected(ShardId(0));
  ASSERT_EQ(again.done.size(), 1u);
  EXPECT_EQ(again.done[0].reads.step, 12);
}

TEST_F(WorkerTest, Backward_SaysDoneToEachShardByItself) {
  options_.masking = Masking::kBackward;
  admission_.shards = {"here:1", "here:2"};
  const std::vector<ShardId> place = layout_.Place(2);
  Worker worker(options_, admission_, {10, 1, 2, 1});
  worker.Start();
  Bound(worker, 12, 2);
  for (const int shard : {1, 0}) {
    size_t said = 0;
    for (int fragment = 0; fragment < layout_.fragments(); ++fragment) {
      if (place[static_cast<size_t>(fragment)] != ShardId(shard)) continue;
      for (const auto& done : Value(worker, 12, fragment).done) {
        EXPECT_EQ(done.shard, ShardId(shard));
        ++said;
      }
    }
    EXPECT_EQ(said, 1u);
  }
}

TEST_F(WorkerTest, Backward_WithoutSamples_IsDoneAtOnce) {
  options_.masking = Masking::kBackward;
  Worker worker(options_, admission_, {10, 1, 2, 1});
  worker.Start();
  const WorkerActions actions = Bound(worker, 12, 0);
  EXPECT_TRUE(actions.pulls.empty());
  EXPECT_EQ(actions.pushes.size(), 3u);
  ASSERT_EQ(actions.done.size(), 1u);
  EXPECT_EQ(actions.done[0].reads.step, 12);
}

// A weight has one place: the next version of what is not held is asked for once this one is
// released; of what is held, once its gradient has left.
TEST_F(WorkerTest, Backward_NextVersion_IsAskedForOnceThisOneIsReleased) {
  options_.masking = Masking::kBackward;
  Worker worker(options_, admission_, {10, 1, 2, 1});
  worker.Start();
  Bound(worker, 12, 2);
  for (int fragment = 0; fragment < 4; ++fragment) Value(worker, 12, fragment);
  worker.OnBackwardBegins(12);
  EXPECT_TRUE(Bound(worker, 13, 2).pulls.empty());
  EXPECT_EQ(Asked(worker.OnReleased(12, UnitId(1))), std::vector<int>{1});
  EXPECT_TRUE(worker.OnReleased(12, UnitId(1)).pulls.empty());
  worker.OnGradient(12, FragmentId(2), WireBuffer(WireType::kF32, 1));
  PushAnswer answer;
  answer.step = 12;
  answer.fragment = FragmentId(2);
  EXPECT_EQ(Asked(worker.OnPushAnswer(answer, absl::UnixEpoch())), std::vector<int>{2});
}

// A worker that waits for others is not slow.
TEST_F(WorkerTest, Report_CountsWaitingForWeightsOnce) {
  Worker worker(options_, admission_, {10, 1, 2, 1});
  worker.Start();
  Bound(worker, 12, 2);
  for (const int fragment : {0, 2, 3}) Value(worker, 12, fragment);
  worker.OnBackwardBegins(12);
  TrainResult result;
  result.wait = absl::Seconds(3);
  result.forward = absl::Seconds(5);  // the wait is in it
  result.backward = absl::Seconds(4);
  std::vector<StepReport> reports;
  const auto take = [&](WorkerActions actions) {
    for (const StepReport& report : actions.reports) reports.push_back(report);
  };
  for (const int fragment : {3, 2, 0})
    take(worker.OnGradient(12, FragmentId(fragment), WireBuffer(WireType::kF32, 1)));
  take(worker.OnTrained(12, result, absl::UnixEpoch()));
  for (const int fragment : {3, 2, 0}) {
    PushAnswer answer;
    answer.step = 12;
    answer.fragment = FragmentId(fragment);
    take(worker.OnPushAnswer(answer, absl::UnixEpoch() + absl::Seconds(1)));
  }
  ASSERT_EQ(reports.size(), 1u);
  EXPECT_EQ(reports[0].pull, absl::Seconds(3));
  EXPECT_EQ(reports[0].forward, absl::Seconds(2));
  EXPECT_EQ(reports[0].backward, absl::Seconds(4));
  EXPECT_EQ(reports[0].push, absl::Seconds(1));
}

TEST_F(WorkerTest, Forward_ReadsAndSaysNothingOfWhatItDoesNotHold) {
  Worker worker(options_, admission_, {10, 1, 2, 1});
  worker.Start();
  const WorkerActions actions = Bound(worker, 12, 2);
  EXPECT_EQ(Asked(actions), (std::vector<int>{0, 2, 3}));
  EXPECT_TRUE(actions.train.at(0).read_only.empty());
  for (const int fragment : {0, 2, 3}) EXPECT_TRUE(Value(worker, 12, fragment).done.empty());
  EXPECT_TRUE(worker.Reconnected(ShardId(0)).done.empty());
}

TEST_F(WorkerTest, ToldToGo_BeforeTheRunsEnd_EndsAsItIsAskedTo) {
  options_.steps = 13;
  options_.left = absl::CancelledError("left");
  for (const Step step : {13, 14}) {  // step 13 closes the run: who is told in its place has left
    Worker worker(options_, admission_, {10, 1, 2, 1});
    worker.Start();
    WorkerBinding binding;
    binding.generation = Generation(2);
    binding.step = step;
    binding.finished = true;
    const WorkerActions actions = worker.OnBinding(binding, absl::UnixEpoch());
    EXPECT_EQ(actions.exit, step == 13 ? options_.left : absl::OkStatus()) << step;
  }
}

// Positions 8 to 12 of an endless sequence of 10 samples: the end of epoch 0 and the begin of 1.
TEST_F(WorkerTest, Samples_ComeWithTheirEpochs) {
  options_.shuffle = false;
  Worker worker(options_, admission_, {10, 1, 2, 1});
  worker.Start();
  WorkerBinding binding;
  binding.generation = Generation(2);
  binding.step = 12;
  binding.units = std::make_shared<std::vector<UnitFactor>>();
  binding.portion = {{3, 1}, {8, 4}};
  const WorkerActions actions = worker.OnBinding(binding, absl::UnixEpoch());
  ASSERT_EQ(actions.train.size(), 1u);
  EXPECT_EQ(actions.train[0].samples, (std::vector<int64_t>{3, 8, 9, 0, 1}));
  EXPECT_EQ(actions.train[0].epochs, (std::vector<int64_t>{0, 0, 0, 1, 1}));
}

}  // namespace
}  // namespace sdp
