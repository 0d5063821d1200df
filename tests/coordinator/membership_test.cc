// Members that come and go while the run trains.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fixture.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class MembershipTest : public CoordinatorTest {
 protected:
  MembershipTest() {
    options_.eval_every = 0;
    options_.coverage = *ResolveCoverage(catalog_, {.coverage = 1}, 2);  // one worker is enough
  }

  // worker-2, incarnation 3, ready.
  void Join(Coordinator& c) {
    EXPECT_EQ(Register(c, "worker-2", 12).admit_workers.at(0).admission->incarnation,
              Incarnation(3));
    EXPECT_EQ(Ready(c, 3), absl::OkStatus());
  }
  // For longer than a lease all are silent but `others`.
  CoordinatorActions Silence(Coordinator& c, const std::vector<int64_t>& others) {
    CoordinatorActions all;
    for (int i = 0; i < 5; ++i) {
      now_ += options_.lease / 4;
      Alive(c, others);
      c.ShardHeartbeat(ShardId(0), "", 1, now_);
      all.Append(Settle(c, c.Tick(now_)));
    }
    return all;
  }
};

TEST_F(MembershipTest, AJoiner_IsInTheNextUnboundStep) {
  Coordinator c(options_);
  Gather(c);
  const WorkerBinding before = Begin(c, 1, 0).bind_workers.at(0).binding;
  Join(c);
  EXPECT_THAT(Begin(c, 3, kFirstOfMine).bind_workers.at(0).binding.step, 1);
  const CoordinatorActions actions = Begin(c, 2, 0);  // of step 0 nothing has changed
  EXPECT_EQ(actions.bind_workers.at(0).binding.view, before.view);
  const WorkerBinding next = Begin(c, 1, 1).bind_workers.at(0).binding;
  EXPECT_GT(next.view, before.view);
  EXPECT_NE(next.plan, before.plan);
  EXPECT_EQ(next.portion, (std::vector<PositionRange>{{7, 2}}));  // of three portions of 5 samples
}

TEST_F(MembershipTest, ALeaver_IsToldWhenItAsksForAStepWithoutIt_AndForgottenWhenItHasReported) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  Begin(c, 2, 0);
  Settle(c, c.Leave(Incarnation(2), now_));
  Settle(c, c.Leave(Incarnation(2), now_));  // twice
  const CoordinatorActions next = Begin(c, 1, 1);
  EXPECT_EQ(next.bind_workers.at(0).binding.samples(), 5);
  const WorkerBinding told = Begin(c, 2, 1).bind_workers.at(0).binding;
  EXPECT_TRUE(told.finished);
  absl::Status error;
  c.WorkerHeartbeat(Incarnation(2), "step 0", false, now_, &error);
  EXPECT_EQ(error, absl::OkStatus());  // It has step 0 to finish.
  CommitStep(c, 0);
  c.WorkerHeartbeat(Incarnation(2), "step 0", false, now_, &error);
  EXPECT_TRUE(absl::IsAborted(error));
}

TEST_F(MembershipTest, ALostWorker_IsExcludedOnShards_AndItsPortionComesBack) {
  options_.checkpoint_every = 2;
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 1);
  Begin(c, 1, 1);
  const CoordinatorActions two = Begin(c, 1, 2);
  const CoordinatorActions lost = Silence(c, {1});
  ASSERT_EQ(lost.exclude.size(), 1u);
  EXPECT_EQ(lost.exclude[0].exclusion.worker, Incarnation(2));
  EXPECT_EQ(lost.exclude[0].exclusion.number, 1);
  EXPECT_FALSE(lost.stop.has_value());
  EXPECT_THAT(lost.log, Contains(AllOf(HasSubstr("worker-0"), HasSubstr("is excluded"))));
  absl::Status error;
  c.BeginStep(Incarnation(2), 2, -1, now_, &error);
  EXPECT_TRUE(absl::IsAborted(error));
  // worker-0 had the first 3 of 5 samples of steps 1 and 2.
  CommitStep(c, 1);
  EXPECT_EQ(Begin(c, 1, 3).bind_workers.at(0).binding.portion,
            (std::vector<PositionRange>{{5, 3}, {10, 2}}));
  EXPECT_TRUE(two.bind_shards.at(0).binding.checkpoint);
}

// Of step 2 the checkpoint's run takes the samples that came back from step 1 before new ones.
TEST_F(MembershipTest, ACheckpointsCursor_HasWhatCameBackFromStepsBefore) {
  options_.checkpoint_every = 2;
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 1);
  Begin(c, 1, 1);
  Begin(c, 1, 2);
  Silence(c, {1});
  CommitStep(c, 1);
  const CoordinatorActions actions = Settle(c, c.OnCheckpointPart({ShardId(0), 2, "", {}}, now_));
  ASSERT_EQ(actions.manifests.size(), 1u);
  EXPECT_EQ(actions.manifests[0].cursor, SampleCursor(10, {{5, 3}}));
}

// All that counts of a committed step has arrived: only its report is missing.
TEST_F(MembershipTest, LostAfterTheCommit_NothingComesBack) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  const CoordinatorActions done = Settle(c, c.OnStepDone({ShardId(0), 0, 0}, now_));
  Silence(c, {1});
  EXPECT_EQ(Begin(c, 1, 1).bind_workers.at(0).binding.portion,
            (std::vector<PositionRange>{{5, 5}}));
}

TEST_F(MembershipTest, MostGoSilentTogether_TheCoordinatorWaits_ThenGivesThemUp) {
  Coordinator c(options_);
  Gather(c);
  Join(c);
  Begin(c, 1, 0);
  EXPECT_THAT(Silence(c, {3}).exclude, IsEmpty());  // two of three
  CoordinatorActions all;
  for (int i = 0; i < 4; ++i) all.Append(Silence(c, {3}));
  EXPECT_EQ(all.exclude.size(), 2u);
}

// Their last heartbeats came at different moments, as in real life.
TEST_F(MembershipTest, TheFirstLeaseOfMost_ExpiresALittleEarlier_TheCoordinatorWaits) {
  Coordinator c(options_);
  Gather(c);
  Join(c);
  Begin(c, 1, 0);
  for (const int64_t last : {1, 2, 3}) {
    now_ += absl::Milliseconds(300);
    Alive(c, {last});
  }
  c.ShardHeartbeat(ShardId(0), "", 1, now_);
  CoordinatorActions all;
  for (const absl::Time cut = now_; now_ < cut + 2 * options_.lease;
       now_ += absl::Milliseconds(100)) {
    all.Append(Settle(c, c.Tick(now_)));
  }
  EXPECT_THAT(all.exclude, IsEmpty());
  EXPECT_FALSE(all.go_back.has_value());
}

TEST_F(MembershipTest, OneThatComesBackBeforeItsLeaseExpires_IsAnotherIncarnationAtOnce) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  const CoordinatorActions back =
      Settle(c, c.RegisterWorker({"worker-0", "cafe", 20, /*before=*/10}, now_));
  ASSERT_EQ(back.exclude.size(), 1u);
  EXPECT_EQ(back.exclude[0].exclusion.worker, Incarnation(2));
  EXPECT_EQ(back.admit_workers.at(0).admission->incarnation, Incarnation(3));
  EXPECT_THAT(back.log, Contains(HasSubstr("it has come back as another incarnation")));
}

TEST_F(MembershipTest, TooFew_PausesAndSaysWhy) {
  options_.min_workers = 2;
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 1);
  Settle(c, c.Leave(Incarnation(2), now_));
  EXPECT_THAT(Begin(c, 1, 1).bind_workers, IsEmpty());
  EXPECT_EQ(c.status(now_).phase, "paused");
  EXPECT_THAT(c.status(now_).waiting_for,
              HasSubstr("1 workers, at least 2 are needed (cluster.min_workers)"));
  Join(c);
  EXPECT_EQ(c.status(now_).phase, "training");
}

TEST_F(MembershipTest, Stuck_WhoComputesWithoutProgressIsExcluded_NotWhoWaits) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  Begin(c, 2, 0);
  CoordinatorActions actions;
  absl::Status error;
  while (actions.exclude.empty() && !actions.stop.has_value()) {
    now_ += absl::Seconds(5);
    Alive(c, {2});
    c.WorkerHeartbeat(Incarnation(1), "step 0: computing", /*waits=*/false, now_, &error);
    c.ShardHeartbeat(ShardId(0), "", 1, now_);
    actions.Append(Settle(c, c.Tick(now_)));
  }
  ASSERT_EQ(actions.exclude.size(), 1u);
  EXPECT_EQ(actions.exclude[0].exclusion.worker, Incarnation(1));
  EXPECT_THAT(actions.log, Contains(HasSubstr("no progress for")));
}

TEST_F(MembershipTest, ALostEvaluatorsPart_IsDoneByAnother) {
  options_.eval_every = 1;
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 1);
  EXPECT_EQ(Begin(c, 1, 1).bind_workers.at(0).binding.evaluations.size(), 1u);
  Settle(c, c.OnEvaluation(Evaluated(1, 1, 10, 5), now_));
  Silence(c, {1});
  const std::vector<EvaluationPart> more = Begin(c, 1, 2).bind_workers.at(0).binding.evaluations;
  ASSERT_EQ(more.size(), 2u);
  EXPECT_EQ(more[0].version, 1);  // worker-0's first half of version 1
  EXPECT_EQ(more[0].first, 0);
  EXPECT_EQ(more[0].samples, 10);
  EXPECT_EQ(more[1].version, 2);
  Settle(c, c.OnEvaluation({Incarnation(1), 1, 20, 5, std::nullopt, 0}, now_));
  const CoordinatorActions done = CommitStep(c, 1);
  ASSERT_EQ(done.metrics.size(), 1u);
  EXPECT_DOUBLE_EQ(*done.metrics[0].full_loss, 3);  // (10 + 20) / (5 + 5)
  EXPECT_EQ(done.releases.size(), 1u);
}

// A copy of the question must not take what is meant for the next one.
TEST_F(MembershipTest, ALostEvaluatorsPart_AtTheEnd_IsToldAgainWhenItIsAskedForAgain) {
  options_.eval_every = 1;
  options_.steps = 1;
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 1);
  Begin(c, 1, 1);
  Begin(c, 2, 1);
  Settle(c, c.OnEvaluation(Evaluated(1, 1, 10, 5), now_));
  EXPECT_THAT(Begin(c, 1, 2).bind_workers, IsEmpty());
  const CoordinatorActions lost = Silence(c, {1});
  ASSERT_EQ(lost.bind_workers.size(), 1u);
  const std::vector<EvaluationPart> part = lost.bind_workers[0].binding.evaluations;
  ASSERT_EQ(part.size(), 1u);
  const CoordinatorActions again = Begin(c, 1, 2);
  ASSERT_EQ(again.bind_workers.size(), 1u);
  EXPECT_EQ(again.bind_workers[0].binding.evaluations, part);
  EXPECT_THAT(Begin(c, 1, 3).bind_workers, IsEmpty());
}

TEST_F(MembershipTest, ANewProcessUnderALiveName_FencesIt_OneThatComesAgainDoesNot) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  const CoordinatorActions fenced = Register(c, "worker-0", 77);
  ASSERT_EQ(fenced.exclude.size(), 1u);
  EXPECT_EQ(fenced.exclude[0].exclusion.worker, Incarnation(2));
  const CoordinatorActions again =
      Settle(c, c.RegisterWorker({"worker-0", "cafe", 78, /*before=*/10}, now_));
  EXPECT_TRUE(absl::IsFailedPrecondition(again.admit_workers.at(0).admission.status()));
}

TEST_F(MembershipTest, Drain_NamesWhoIsNotThere) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  absl::Status error;
  c.Drain("worker-9", now_, &error);
  EXPECT_TRUE(absl::IsNotFound(error));
  EXPECT_THAT(std::string(error.message()), HasSubstr("worker-9"));
  const CoordinatorActions gone = Settle(c, c.ProcessEnded("worker-0", now_, &error));
  EXPECT_EQ(error, absl::OkStatus());
  EXPECT_EQ(gone.exclude.size(), 1u);
}

// A worker's computing takes as long as the test says.
class PortionsTest : public MembershipTest {
 protected:
  PortionsTest() {
    options_.portions = Coordinator::Options::Portions::kMeasured;
    options_.micro_batch = 1;
    options_.steps = 1000;
    options_.global_batch = 12;
  }
  // Both workers report `step`; a sample takes the first `one` and the second `two`.
  CoordinatorActions Step(Coordinator& c, sdp::Step step, absl::Duration one, absl::Duration two) {
    CoordinatorActions all = Begin(c, 1, step);
    all.Append(Begin(c, 2, step));
    std::map<Incarnation, int64_t> samples;
    for (const auto& bind : all.bind_workers) samples[bind.worker] = bind.binding.samples();
    for (const int64_t worker : {1, 2}) {
      StepReport report;
      report.worker = Incarnation(worker);
      report.step = step;
      report.terms = samples[report.worker];
      report.forward = static_cast<double>(report.terms) * (worker == 1 ? one : two) / 4;
      report.backward = 3 * report.forward;
      portions_[report.worker] = report.terms;
      all.Append(Settle(c, c.OnStepReport(report, now_)));
    }
    const std::vector<double> squares(static_cast<size_t>(layout_.fragments()), 1.0);
    all.Append(Settle(c, c.OnReduced({ShardId(0), step, squares, {}}, now_)));
    all.Append(Settle(c, c.OnStepDone({ShardId(0), step, 0}, now_)));
    return all;
  }
  // Of the last step.
  std::map<Incarnation, int64_t> portions_;
};

TEST_F(PortionsTest, Measured_ASlowWorkerGetsLess_OnceItWasSoForSomeSteps_WithTheReason) {
  Coordinator c(options_);
  Gather(c);
  CoordinatorActions all;
  sdp::Step t = 0;
  for (; t < static_cast<sdp::Step>(Pace::kSteps); ++t) {
    all.Append(Step(c, t, absl::Seconds(1), absl::Seconds(3)));
    EXPECT_EQ(portions_[Incarnation(1)], 6);
  }
  all.Append(Step(c, t++, absl::Seconds(1), absl::Seconds(3)));
  EXPECT_EQ(portions_[Incarnation(1)], 9);
  EXPECT_EQ(portions_[Incarnation(2)], 3);
  EXPECT_THAT(all.events,
              Contains(testing::Field(&RunEvent::reason,
                                      HasSubstr("worker-0 computes 3 s for a sample and gets 3"))));
  const auto views = [](const CoordinatorActions& actions) {
    int count = 0;
    for (const auto& store : actions.store)
      count += std::holds_alternative<ViewRecord>(store.record);
    return count;
  };
  EXPECT_EQ(views(all), 1);
  // It stays so while it stays so.
  CoordinatorActions later;
  for (int i = 0; i < 40; ++i) later.Append(Step(c, t++, absl::Seconds(1), absl::Seconds(3)));
  EXPECT_EQ(views(later), 0);
  // And is equal again when both are.
  for (int i = 0; i < 40; ++i) later.Append(Step(c, t++, absl::Seconds(2), absl::Seconds(2)));
  EXPECT_EQ(views(later), 1);
  EXPECT_EQ(portions_[Incarnation(1)], 6);
}

TEST_F(PortionsTest, WorkerBatch_EveryoneHasIt_AndAStepIsAsLargeAsThereAreWorkers) {
  options_.portions = Coordinator::Options::Portions::kEqual;
  options_.worker_batch = 4;
  Coordinator c(options_);
  Gather(c);
  Step(c, 0, absl::Seconds(1), absl::Seconds(1));
  Join(c);
  Begin(c, 3, kFirstOfMine);
  const std::vector<WorkerBinding> bindings = {Begin(c, 2, 1).bind_workers.at(0).binding,
                                               Begin(c, 1, 1).bind_workers.at(0).binding};
  EXPECT_EQ(bindings[0].portion, (std::vector<PositionRange>{{8, 4}}));  // behind step 0's eight
  EXPECT_EQ(bindings[1].portion, (std::vector<PositionRange>{{12, 4}}));
}

TEST_F(PortionsTest, Equal_StaysEqual) {
  options_.portions = Coordinator::Options::Portions::kEqual;
  Coordinator c(options_);
  Gather(c);
  for (sdp::Step t = 0; t < 40; ++t) Step(c, t, absl::Seconds(1), absl::Seconds(3));
  EXPECT_EQ(portions_[Incarnation(1)], 6);
}

TEST_F(PortionsTest, AJoiner_CountsAsAverage_AndTheOthersKeepTheirPaces) {
  Coordinator c(options_);
  Gather(c);
  sdp::Step t = 0;
  for (; t < 20; ++t) Step(c, t, absl::Seconds(1), absl::Seconds(3));
  Join(c);
  Begin(c, 1, t);
  const WorkerBinding slow = Begin(c, 2, t).bind_workers.at(0).binding;
  const WorkerBinding joiner = Begin(c, 3, t).bind_workers.at(0).binding;
  EXPECT_EQ(joiner.samples(), 5);  // 5, 2, 5: as fast as the faster, the lower median
  EXPECT_EQ(slow.samples(), 2);
}

// What the units that everyone holds take decides who is let in.
TEST_F(MembershipTest, TooLittleMemoryForTheSharedUnits_IsRefusedWithTheNumbers) {
  MemoryModel memory;
  memory.stages = [this](int64_t, const HeldTensors&) {
    std::vector<StageMemory> stages(catalog_.stages.size());
    for (StageMemory& stage : stages) stage.stored = 1000;
    return stages;
  };
  options_.memory = &memory;
  Coordinator c(options_);
  c.Start(now_);
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  const auto small =
      Settle(c, c.RegisterWorker({"worker-0", "cafe", 10, 0, /*memory_bytes=*/900}, now_));
  ASSERT_EQ(small.admit_workers.size(), 1u);
  const absl::Status status = small.admit_workers[0].admission.status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("worker-0 has 900 bytes of memory"),
                                                   HasSubstr("every worker holds")));
  const auto enough = Settle(c, c.RegisterWorker({"worker-0", "cafe", 11, 0, 1 << 20}, now_));
  EXPECT_TRUE(enough.admit_workers.at(0).admission.ok());
}

// Memory of which two workers have enough for all units, and one has not.
TEST_F(MembershipTest, WhoIsLeftHasTooLittleMemory_TheRunPauses_UntilSomebodyComes) {
  MemoryModel memory;
  memory.stages = [this](int64_t, const HeldTensors&) {
    return std::vector<StageMemory>(catalog_.stages.size());
  };
  memory.input_bytes = 100;                     // of a sample
  memory.global_batch = options_.global_batch;  // 5
  options_.memory = &memory;
  std::vector<UnitId> all;
  for (size_t unit = 0; unit < catalog_.units.size(); ++unit)
    all.push_back(UnitId(static_cast<int32_t>(unit)));
  const int64_t enough =
      TrainingMemory(catalog_, all, memory, 3).bytes;  // of two workers' portions
  Coordinator c(options_);
  c.Start(now_);
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  Settle(c, c.OnStepDone({ShardId(0), -1, 0}, now_));
  for (const int64_t worker : {1, 2}) {
    const uint64_t instance = 10 + static_cast<uint64_t>(worker);
    Settle(c,
           c.RegisterWorker({absl::StrCat("worker-", worker), "cafe", instance, 0, enough}, now_));
  }
  for (const int64_t worker : {1, 2}) EXPECT_EQ(Ready(c, worker), absl::OkStatus());
  Begin(c, 1, 0);
  Begin(c, 2, 0);
  absl::Status error;
  CoordinatorActions actions = Settle(c, c.ProcessEnded("worker-2", now_, &error));
  actions.Append(Begin(c, 1, 1));  // five samples take more
  EXPECT_FALSE(actions.stop.has_value());
  EXPECT_TRUE(actions.bind_workers.empty());
  EXPECT_THAT(c.status(now_).phase, "paused");
  EXPECT_THAT(actions.events, Contains(testing::Field(&RunEvent::kind, RunEvent::Kind::kPause)));
  EXPECT_THAT(actions.events, Contains(testing::Field(
                                  &RunEvent::reason, HasSubstr("worker-1 has 0.0 MiB of memory"))));
  EXPECT_TRUE(Begin(c, 1, 1).events.empty());  // it is said once
  actions = Settle(c, c.RegisterWorker({"worker-3", "cafe", 13, 0, enough}, now_));
  absl::Status status;
  actions.Append(Settle(c, c.Ready(Incarnation(3), {100, 7, 20, 8}, now_, &status)));
  EXPECT_THAT(actions.events, Contains(testing::Field(&RunEvent::kind, RunEvent::Kind::kResume)));
  EXPECT_EQ(c.status(now_).phase, "training");
  EXPECT_EQ(Begin(c, 1, 1).bind_workers.size(), 1u);
}

}  // namespace
}  // namespace sdp
