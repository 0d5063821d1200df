// A process takes up what another one has stored. That it goes on with the same bits is shown in
// tests/cluster/churn_test.cc; here: what does not fit is named, and nothing is done with it.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/coordinator/logic/coordinator.h"
#include "tests/coordinator/fixture.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class RestoreTest : public CoordinatorTest {
 protected:
  // Of a run in which steps 0 and 1 were bound.
  RestoreTest() {
    Coordinator c(options_);
    CoordinatorActions all = c.Start(now_);
    all.Append(c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
    Settle(c, std::move(all));
    Settle(c, c.OnStepDone({ShardId(0), -1, 0}, now_));
    absl::Status error;
    for (const int64_t worker : {1, 2}) {
      const uint64_t instance = 10 + static_cast<uint64_t>(worker);
      Settle(c, c.RegisterWorker({absl::StrCat("worker-", worker), "cafe", instance}, now_));
    }
    for (const int64_t worker : {1, 2})
      Settle(c, c.Ready(Incarnation(worker), {100, 7, 20, 8}, now_, &error));
    for (const Step step : {0, 1}) Settle(c, c.BeginStep(Incarnation(1), step, -1, now_, &error));
  }

  // The outcome for the run.
  absl::Status Restored(const std::vector<Record>& records) {
    Coordinator c(options_);
    const CoordinatorActions actions = c.Restore(records, {}, now_);
    return actions.stop.value_or(absl::OkStatus());
  }
  absl::Status RestoredWith(Record record) {
    std::vector<Record> records = records_;
    records.push_back(std::move(record));
    return Restored(records);
  }

  std::vector<std::string> Workers(const Coordinator& c) const {
    std::vector<std::string> names;
    for (const RunStatus::Member& member : c.status(now_).members) {
      if (member.role == "worker") names.push_back(member.name);
    }
    return names;
  }
};

testing::Matcher<std::string> Names(const std::string& what) {
  return AllOf(HasSubstr("the records of the process before this one"), HasSubstr(what));
}

TEST_F(RestoreTest, WhatWasStored_IsTakenUp) {
  EXPECT_EQ(Restored(records_), absl::OkStatus());
  EXPECT_EQ(RestoredWith(ExclusionRecord{options_.start.generation, 1, Incarnation(1), "", 0, {1}}),
            absl::OkStatus());
}

// A worker has reported step 0, was excluded before the step was committed, and cannot repeat it.
TEST_F(RestoreTest, WhoseReportIsGone_IsLostOnlyIfItsSamplesCameBack) {
  const Generation generation = options_.start.generation;
  const std::vector<Record> stored = records_;
  for (const std::vector<Step>& returned : {std::vector<Step>{1}, {0, 1}}) {
    std::vector<Record> records = stored;
    records.push_back(ExclusionRecord{generation, 1, Incarnation(1), "", -1, returned});
    Coordinator c(options_);
    Settle(c, c.Restore(records, {}, now_));
    StepReport report;
    report.worker = Incarnation(2);
    report.terms = 4;
    CoordinatorActions all = Settle(c, c.OnStepReport(report, now_));
    const std::vector<double> squares(static_cast<size_t>(layout_.fragments()), 1.0);
    all.Append(Settle(c, c.OnReduced({ShardId(0), 0, squares, {}}, now_)));
    all.Append(Settle(c, c.OnStepDone({ShardId(0), 0, 0}, now_)));
    ASSERT_EQ(all.metrics.size(), 1u);
    EXPECT_EQ(all.metrics[0].lost.size(), returned.size() - 1);
  }
}

// Two of three have left in order, which is not stored, and the third is lost with the coordinator:
// its lease is the ordinary one, and the two are neither a sign that this host is cut off nor lost.
TEST_F(RestoreTest, WhoHasLeft_KeepsNobodyWaiting_AndIsNotLost) {
  options_.workers = 3;
  options_.coverage = *ResolveCoverage(catalog_, {.coverage = 1.0}, 3);
  options_.validation = false;
  records_.clear();
  Coordinator c(options_);
  absl::Status error;
  Settle(c, c.Start(now_));
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  Settle(c, c.OnStepDone({ShardId(0), -1, 0}, now_));
  for (const int64_t worker : {1, 2, 3})
    Settle(c, c.RegisterWorker(
                  {absl::StrCat("worker-", worker), "cafe", 10 + static_cast<uint64_t>(worker)},
                  now_));
  for (const int64_t worker : {1, 2, 3})
    Settle(c, c.Ready(Incarnation(worker), {100, 7, 20, 8}, now_, &error));
  const std::vector<double> squares(static_cast<size_t>(layout_.fragments()), 1.0);
  const auto step = [&](Step t, const std::vector<int64_t>& workers) {
    Settle(c, c.BeginStep(Incarnation(3), t, -1, now_, &error));
    for (const int64_t worker : workers) {
      StepReport report;
      report.worker = Incarnation(worker);
      report.step = t;
      report.terms = 4;
      Settle(c, c.OnStepReport(report, now_));
    }
    Settle(c, c.OnReduced({ShardId(0), t, squares, {}}, now_));
    Settle(c, c.OnStepDone({ShardId(0), t, 0}, now_));
  };
  step(0, {1, 2, 3});
  for (const int64_t worker : {1, 2}) Settle(c, c.Leave(Incarnation(worker), now_));
  for (const int64_t worker : {1, 2})  // they are told that they may go, and do
    Settle(c, c.BeginStep(Incarnation(worker), 1, -1, now_, &error));
  step(1, {3});
  ASSERT_EQ(Workers(c), std::vector<std::string>{"worker-3"});
  Settle(c, c.BeginStep(Incarnation(3), 2, -1, now_, &error));

  Coordinator next(options_);
  Settle(next, next.Restore(records_, {.line = 1, .checkpoints = {}}, now_));
  Settle(next, next.OnStepDone({ShardId(0), 1, 0}, now_));
  std::vector<std::string> excluded;
  for (int second = 0; second < 22; ++second) {
    now_ += absl::Seconds(1);
    next.ShardHeartbeat(ShardId(0), "", 0, now_);
    const CoordinatorActions actions = Settle(next, next.Tick(now_));
    for (const RunEvent& event : actions.events) {
      if (event.kind == RunEvent::Kind::kExclude) excluded.push_back(event.worker);
    }
    EXPECT_THAT(actions.log, testing::Not(testing::Contains(HasSubstr("cut off"))));
  }
  EXPECT_THAT(excluded, testing::ElementsAre("worker-3"));
  EXPECT_EQ(Workers(next), std::vector<std::string>{});
}

// One that leaves, but was bound to a step that is not committed, is lost as any other.
TEST_F(RestoreTest, WhoLeaves_WithAStepUndone_IsExcluded) {
  Coordinator c(options_);
  Settle(c, c.Restore(records_, {}, now_));
  Settle(c, c.Leave(Incarnation(1), now_));
  std::vector<std::string> excluded;
  for (int second = 0; second < 22; ++second) {
    now_ += absl::Seconds(1);
    c.ShardHeartbeat(ShardId(0), "", 0, now_);
    Alive(c, {2});
    for (const RunEvent& event : Settle(c, c.Tick(now_)).events) {
      if (event.kind == RunEvent::Kind::kExclude) excluded.push_back(event.worker);
    }
  }
  EXPECT_THAT(excluded, testing::ElementsAre("worker-1"));
}

// The shard could have said that step 0 is committed, but is lost. The next generation begins with
// the checkpoint, behind that step: it has its line now or never.
TEST_F(RestoreTest, AShardIsLost_StepsBeforeTheCheckpointHaveTheirLines) {
  Coordinator c(options_);
  Settle(c, c.Restore(records_, {.line = -1, .checkpoints = {1}}, now_));
  absl::Status error;
  const CoordinatorActions actions = Settle(c, c.ProcessEnded("shard-0", now_, &error));
  EXPECT_TRUE(actions.go_back.has_value());
  ASSERT_EQ(actions.metrics.size(), 1u);
  EXPECT_EQ(actions.metrics[0].step, 0);
}

// Its samples of step 0 are in the checkpoint: they must not be dealt again.
TEST_F(RestoreTest, AWorkerIsLost_StepsBeforeTheCheckpointKeepItsSamples) {
  const std::vector<Record> records = records_;
  for (const bool complete : {false, true}) {
    Coordinator c(options_);
    std::set<Step> checkpoints;
    if (complete) checkpoints = {1};
    Settle(c, c.Restore(records, {.line = -1, .checkpoints = checkpoints}, now_));
    absl::Status error;
    const CoordinatorActions actions = c.ProcessEnded("worker-1", now_, &error);
    ASSERT_FALSE(actions.store.empty());
    const auto* exclusion = std::get_if<ExclusionRecord>(&actions.store[0].record);
    ASSERT_NE(exclusion, nullptr);
    EXPECT_EQ(exclusion->returned, complete ? std::vector<Step>{1} : (std::vector<Step>{0, 1}));
  }
}

// Who is which shard was not written of all, and nobody else knows: a new generation begins.
TEST_F(RestoreTest, KilledWhileItAdmittedShards_BeginsAgain) {
  options_.shards = 2;
  records_.clear();
  Coordinator c(options_);
  CoordinatorActions all = c.Start(now_);
  for (const int shard : {0, 1}) {
    all.Append(c.RegisterShard({absl::StrCat("shard-", shard), absl::StrCat("here:", shard), "cafe",
                                5 + static_cast<uint64_t>(shard)},
                               now_));
  }
  Settle(c, std::move(all));
  const std::vector<Record> records = records_;
  ASSERT_EQ(records.size(), 3u);
  for (size_t stored = 1; stored <= records.size(); ++stored) {
    Coordinator next(options_);
    const std::vector<Record> first(records.begin(), records.begin() + stored);
    const CoordinatorActions actions = Settle(next, next.Restore(first, {}, now_));
    EXPECT_EQ(actions.go_back.has_value(), stored < records.size());
    EXPECT_EQ(actions.admit_shards.size(), stored < records.size() ? 0u : 2u);
  }
}

// Members may have been told: nobody is let in any more, and the same end is not stored twice.
TEST_F(RestoreTest, AGenerationThatIsOver_IsNotTakenUp) {
  std::vector<Record> records = records_;
  records.push_back(ExclusionRecord{options_.start.generation, 1, Incarnation(1), "", -1, {0, 1}});
  records.push_back(GenerationEndRecord{options_.start.generation, "shard-0 is lost"});
  Coordinator c(options_);
  Coordinator::Written written;
  written.checkpoints = {1};  // of which step 0 has no line yet
  const CoordinatorActions actions = c.Restore(records, written, now_);
  EXPECT_EQ(actions.go_back, "shard-0 is lost");
  ASSERT_EQ(actions.events.size(), 1u);
  EXPECT_EQ(actions.events[0].kind, RunEvent::Kind::kGoBack);
  EXPECT_TRUE(actions.store.empty() && actions.admit_shards.empty() &&
              actions.admit_workers.empty() && actions.bind_shards.empty() &&
              actions.exclude.empty());
  ASSERT_EQ(actions.metrics.size(), 1u);
  EXPECT_EQ(actions.metrics[0].step, 0);
  EXPECT_EQ(actions.metrics[0].lost, std::vector<Incarnation>{Incarnation(1)});
  EXPECT_EQ(c.NextStart().generation.value(), options_.start.generation.value() + 1);
  EXPECT_EQ(c.members(), 2);
}

TEST_F(RestoreTest, TheEndOfAnEarlierGeneration_IsPassedOver) {
  std::vector<Record> records = {GenerationEndRecord{Generation(0), "shard-0 is lost"}};
  records.insert(records.end(), records_.begin(), records_.end());
  EXPECT_FALSE(Coordinator(options_).Restore(records, {}, now_).go_back.has_value());
}

TEST_F(RestoreTest, StepInAViewThatIsNotThere_DataLossNamesBoth) {
  BindingRecord record;
  record.generation = options_.start.generation;
  record.step = 2;
  record.view = ViewId(9);
  const absl::Status status = RestoredWith(record);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), Names("step 2 is bound in view 9"));
}

TEST_F(RestoreTest, StepWithoutData_DataLoss) {
  std::erase_if(records_,
                [](const Record& record) { return std::holds_alternative<DataRecord>(record); });
  const absl::Status status = Restored(records_);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), Names("step 0 is bound without data"));
}

TEST_F(RestoreTest, ShardBeyondTheirNumber_DataLossNamesIt) {
  const absl::Status status = RestoredWith(ShardRecord{ShardId(4), "shard-4", "here:4", 1});
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), Names("shard-4 is number 4 of 1"));
}

TEST_F(RestoreTest, SamplesBackOfAnUnknownStepOrWorker_DataLossNamesBoth) {
  for (const auto& [worker, step] : std::vector<std::pair<int, Step>>{{1, 7}, {3, 1}}) {
    const absl::Status status = RestoredWith(
        ExclusionRecord{options_.start.generation, 1, Incarnation(worker), "", 0, {step}});
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(
        std::string(status.message()),
        Names(absl::StrCat("worker incarnation ", worker, " gives back samples of step ", step)));
  }
}

}  // namespace
}  // namespace sdp
