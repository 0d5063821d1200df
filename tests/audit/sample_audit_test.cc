#include "deploy/audit/logic/sample_audit.h"

#include <string>
#include <utility>
#include <vector>

#include "deploy/audit/logic/audit.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sdp::audit {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr Generation kFirst(1), kSecond(2);
constexpr Incarnation kWorker1(1), kWorker2(2);

Record Start(Generation generation, Step step) { return StartRecord{generation, step}; }
Record View(int64_t view, std::vector<Incarnation> members, std::vector<int64_t> portions = {}) {
  if (portions.empty()) portions.assign(members.size(), 4 / static_cast<int64_t>(members.size()));
  return ViewRecord{ViewId(view), std::move(members), std::move(portions)};
}
// Four samples, as in every step.
Record Bind(Step step, int64_t view, int64_t next, const std::vector<Range>& returned = {},
            Generation generation = kFirst) {
  return BindingRecord{generation, step, ViewId(view), FreePositions(next, returned), 4, false};
}
Record Close(Step step, int64_t view, int64_t next, const std::vector<Range>& returned = {},
             Generation generation = kFirst) {
  return BindingRecord{generation, step, ViewId(view), FreePositions(next, returned), 0, true};
}
Record Exclude(Incarnation worker, Step committed, std::vector<Step> returned) {
  return ExclusionRecord{kFirst, 1, worker, "it rains", committed, std::move(returned)};
}
Record Line(Step step, std::vector<Incarnation> lost = {}, Generation generation = kFirst) {
  return StepRecord{generation, step, std::move(lost)};
}

// Two workers have two samples of each step. worker 2 is lost while steps 1 and 2 are in flight:
// 6, 7, 10 and 11 come back, and are what step 3 gets.
std::vector<Record> ARunWithALoss() {
  return {Start(kFirst, 0),                    // 0
          View(1, {kWorker1, kWorker2}),       // 1
          Bind(0, 1, 0),                       // 2
          Line(0),                             // 3
          Bind(1, 1, 4),                       // 4
          Bind(2, 1, 8),                       // 5
          Exclude(kWorker2, 0, {1, 2}),        // 6
          Line(1, {kWorker2}),                 // 7
          View(2, {kWorker1}),                 // 8
          Bind(3, 2, 12, {{6, 8}, {10, 12}}),  // 9
          Line(2, {kWorker2}),                 // 10
          Bind(4, 2, 12),                      // 11
          Line(3),                             // 12
          Close(5, 2, 16),                     // 13
          Line(4),                             // 14
          Line(5)};                            // 15
}

Report Check(const std::vector<Record>& records,
             const std::vector<CheckpointRecord>& checkpoints = {}) {
  std::vector<StartRecord> starts;
  for (const Record& record : records) {
    if (const auto* start = std::get_if<StartRecord>(&record)) starts.push_back(*start);
  }
  SampleAudit audit(starts, checkpoints);
  for (const Record& record : records) audit.Add(record);
  return audit.Finish();
}

void ExpectFirst(const Report& report, Step step, Incarnation worker, std::vector<Range> positions,
                 const std::string& what) {
  ASSERT_GE(report.violations, 1);
  const Finding& first = report.first_findings.at(0);
  EXPECT_EQ(first.step, step) << first.what;
  EXPECT_EQ(first.worker, worker) << first.what;
  EXPECT_EQ(first.positions, positions) << first.what;
  EXPECT_THAT(first.what, HasSubstr(what));
}

TEST(SampleAuditTest, ARunWithALoss_IsAsPromised_AndCounted) {
  const Report report = Check(ARunWithALoss());
  EXPECT_THAT(report.first_findings, IsEmpty());
  EXPECT_EQ(report.steps, 5);
  EXPECT_EQ(report.dealt, 16);
  EXPECT_EQ(report.used_once, 12);
  EXPECT_EQ(report.used_again, 4);
  EXPECT_EQ(report.waiting + report.lost + report.doubled + report.open + report.undone, 0);
  ASSERT_EQ(report.returns, 2);
  EXPECT_EQ(report.first_returns[1].step, 2);
  EXPECT_EQ(report.first_returns[1].worker, kWorker2);
  EXPECT_EQ(report.first_returns[1].reason, "it rains");
  EXPECT_EQ(report.first_returns[1].positions, (std::vector<Range>{{10, 12}}));
}

TEST(SampleAuditTest, ALostSample_IsNamedWithTheWorkerWhoHadIt) {
  std::vector<Record> records = ARunWithALoss();
  records[9] = Bind(3, 2, 12, {{6, 8}, {10, 11}});
  records[11] = Bind(4, 2, 13);
  records[13] = Close(5, 2, 17);
  const Report report = Check(records);
  ExpectFirst(report, 3, kWorker2, {{11, 12}}, "its portion of step 2 did not come back");
  EXPECT_EQ(report.violations, 1);
  EXPECT_EQ(report.lost, 1);
}

TEST(SampleAuditTest, ADoubledSample) {
  std::vector<Record> records = ARunWithALoss();
  records[11] = Bind(4, 2, 12, {{7, 8}});
  records[13] = Close(5, 2, 15);
  const Report report = Check(records);
  ExpectFirst(report, 4, Incarnation(), {{7, 8}}, "were dealt before");
  EXPECT_EQ(report.violations, 1);
  EXPECT_EQ(report.doubled, 1);
}

TEST(SampleAuditTest, ACursorThatJumps_ForthAndBack) {
  std::vector<Record> records = ARunWithALoss();
  records[11] = Bind(4, 2, 20);
  records[13] = Close(5, 2, 24);
  Report report = Check(records);
  ExpectFirst(report, 4, Incarnation(), {{12, 20}}, "passed over");
  EXPECT_EQ(report.lost, 8);
  records[11] = Bind(4, 2, 8);
  records[13] = Close(5, 2, 12);
  report = Check(records);
  ExpectFirst(report, 4, Incarnation(), {{8, 12}}, "were dealt before");
}

// New samples before those that came back.
TEST(SampleAuditTest, OtherSamplesThanTheLowest_AreNoticedAtTheNextStep) {
  std::vector<Record> records = ARunWithALoss();
  records[11] = Bind(4, 2, 16, {{6, 8}, {10, 12}});
  records[13] = Close(5, 2, 16);
  ExpectFirst(Check(records), 4, Incarnation(), {{12, 16}}, "passed over");
}

TEST(SampleAuditTest, AnExclusionWhosePortionIsNotReturned) {
  std::vector<Record> records = ARunWithALoss();
  records[6] = Exclude(kWorker2, 0, {1});
  records[9] = Bind(3, 2, 12, {{6, 8}});
  records[11] = Bind(4, 2, 14);
  records[13] = Close(5, 2, 18);
  const Report report = Check(records);
  ExpectFirst(report, 2, kWorker2, {{10, 12}}, "was lost without a report");
  EXPECT_EQ(report.violations, 1);
}

TEST(SampleAuditTest, APortionThatCameBack_ThoughItsWorkerHasReported) {
  std::vector<Record> records = ARunWithALoss();
  records[10] = Line(2);
  ExpectFirst(Check(records), 2, kWorker2, {{10, 12}}, "though it has reported");
}

TEST(SampleAuditTest, APortionThatCameBack_OfACommittedStep) {
  std::vector<Record> records = ARunWithALoss();
  records[6] = Exclude(kWorker2, 1, {1, 2});
  ExpectFirst(Check(records), 1, kWorker2, {}, "though the step was committed");
}

// Its contributions were all there: only the report is missing.
TEST(SampleAuditTest, LostAfterTheCommit_NothingComesBack) {
  std::vector<Record> records = ARunWithALoss();
  records[6] = Exclude(kWorker2, 1, {2});
  records[9] = Bind(3, 2, 12, {{10, 12}});
  records[11] = Bind(4, 2, 14);
  records[13] = Close(5, 2, 18);
  const Report report = Check(records);
  EXPECT_THAT(report.first_findings, IsEmpty());
  EXPECT_EQ(report.used_once, 16);
  EXPECT_EQ(report.used_again, 2);
}

TEST(SampleAuditTest, AMemberThatHasNeitherReportedNorIsExcluded) {
  std::vector<Record> records = ARunWithALoss();
  records[12] = Line(3, {kWorker1});
  ExpectFirst(Check(records), 3, kWorker1, {}, "neither reported nor been excluded");
  records[12] = Line(3, {Incarnation(9)});
  ExpectFirst(Check(records), 3, Incarnation(9), {}, "was no member");
}

TEST(SampleAuditTest, TwoBindingsOfAStep_InOneGeneration) {
  std::vector<Record> records = ARunWithALoss();
  records.insert(records.begin() + 10, Bind(3, 2, 12, {{6, 8}, {10, 12}}));
  const Report report = Check(records);
  ExpectFirst(report, 3, Incarnation(), {}, "bound a second time");
  EXPECT_EQ(report.violations, 1);
}

TEST(SampleAuditTest, StepsThatAreMissing_OrComeAfterTheEnd) {
  std::vector<Record> records = ARunWithALoss();
  records.erase(records.begin() + 12);  // line 3
  ExpectFirst(Check(records), 3, Incarnation(), {}, "metrics.jsonl passes over it");
  records = ARunWithALoss();
  records.push_back(Line(5));
  ExpectFirst(Check(records), 5, Incarnation(), {}, "twice");
  records = ARunWithALoss();
  records.push_back(Bind(6, 2, 16));
  ExpectFirst(Check(records), 6, Incarnation(), {}, "after the closing step");
  records = ARunWithALoss();
  records[11] = Bind(5, 2, 12);
  ExpectFirst(Check(records), 5, Incarnation(), {}, "the step before it, 4, was never bound");
}

TEST(SampleAuditTest, AStepOfAnotherSize) {
  std::vector<Record> records = ARunWithALoss();
  std::get<BindingRecord>(records[11]).samples = 3;
  ExpectFirst(Check(records), 4, Incarnation(), {},
              "it has 3 samples, its members' portions are 4");
}

TEST(SampleAuditTest, ViewsThatCannotBe) {
  std::vector<Record> records = ARunWithALoss();
  records[8] = View(2, {kWorker1, kWorker2});
  ExpectFirst(Check(records), 3, kWorker2, {}, "though it is excluded");
  records[8] = View(1, {kWorker1});
  ExpectFirst(Check(records), 3, Incarnation(), {}, "not a new number");
  records[8] = View(3, {kWorker1});
  ExpectFirst(Check(records), 3, Incarnation(), {}, "view 2 is not the newest one");
}

// The coordinator was lost in between, and the next one has changed its mind.
TEST(SampleAuditTest, AViewThatNoStepIsBoundTo_DoesNotCount) {
  std::vector<Record> records = {Start(kFirst, 0),
                                 View(1, {kWorker1, kWorker2}),
                                 Bind(0, 1, 0),
                                 Line(0),
                                 View(2, {kWorker1}),
                                 Bind(1, 1, 4),
                                 Line(1),
                                 View(3, {kWorker1}),
                                 Bind(2, 3, 8),
                                 Close(3, 3, 12),
                                 Line(2),
                                 Line(3)};
  EXPECT_THAT(Check(records).first_findings, IsEmpty());
  records[8] = Bind(2, 2, 8);
  ExpectFirst(Check(records), 2, Incarnation(), {}, "view 2 is not the newest one");
}

TEST(SampleAuditTest, ExclusionsThatCannotBe) {
  std::vector<Record> records = ARunWithALoss();
  std::get<ExclusionRecord>(records[6]).number = 2;
  ExpectFirst(Check(records), 3, kWorker2, {}, "has number 2");
  records[6] = Exclude(kWorker2, 3, {1, 2});
  ExpectFirst(Check(records), 3, kWorker2, {}, "step 3 was the newest committed one");
  records[6] = Exclude(Incarnation(9), 0, {1});
  ExpectFirst(Check(records), 1, Incarnation(9), {}, "it had none");
}

// Version 2 has what came back from step 1, and not what came back from step 2 itself.
TEST(SampleAuditTest, ACheckpointsCursor_HasWhatCameBackFromStepsBefore) {
  Report report = Check(ARunWithALoss(), {{"step-2", kFirst, 2, FreePositions(8, {{6, 8}})}});
  EXPECT_THAT(report.first_findings, IsEmpty());
  EXPECT_EQ(report.checkpoints, 1);
  report = Check(ARunWithALoss(), {{"step-2", kFirst, 2, FreePositions(8, {})}});
  ExpectFirst(report, 2, Incarnation(), {{6, 8}}, "the cursor of step-2 is another one");
  report = Check(ARunWithALoss(), {{"step-9", kFirst, 9, FreePositions(8, {})}});
  ExpectFirst(report, 9, Incarnation(), {}, "step-9 is of a step that was not bound");
}

// Everything dies after step 3 was bound; the run goes on from checkpoint 2.
std::vector<Record> AResumedRun() {
  std::vector<Record> records = ARunWithALoss();
  records.resize(11);
  const std::vector<Record> more = {Start(kSecond, 2),
                                    View(3, {Incarnation(3), Incarnation(4)}),
                                    Bind(2, 3, 8, {{6, 8}}, kSecond),
                                    Line(2, {}, kSecond),
                                    Bind(3, 3, 10, {}, kSecond),
                                    Close(4, 3, 14, {}, kSecond),
                                    Line(3, {}, kSecond),
                                    Line(4, {}, kSecond)};
  records.insert(records.end(), more.begin(), more.end());
  return records;
}

TEST(SampleAuditTest, AResumedRun_UndoesWhatIsLater) {
  const Report report = Check(AResumedRun());
  EXPECT_THAT(report.first_findings, IsEmpty());
  EXPECT_EQ(report.generations, 2);
  EXPECT_EQ(report.steps, 4);
  EXPECT_EQ(report.undone, 2);  // steps 2 and 3 of the first generation
  EXPECT_EQ(report.dealt, 14);
  EXPECT_EQ(report.used_once, 12);
  EXPECT_EQ(report.used_again, 2);
  EXPECT_EQ(report.returns, 1);  // of step 1; that of step 2 is undone
}

// The last line before the end was not written: the checkpoint shows that its step was committed.
TEST(SampleAuditTest, AResumedRun_WithoutTheLastLineBefore) {
  std::vector<Record> records = AResumedRun();
  records.erase(records.begin() + 10);  // line 2
  records.erase(records.begin() + 7);   // line 1
  const Report report = Check(records);
  EXPECT_THAT(report.first_findings, IsEmpty());
  EXPECT_EQ(report.steps, 4);
}

TEST(SampleAuditTest, AResumedRun_WithAnotherCursor) {
  std::vector<Record> records = AResumedRun();
  records[13] = Bind(2, 3, 8, {}, kSecond);
  records[15] = Bind(3, 3, 12, {}, kSecond);
  records[16] = Close(4, 3, 16, {}, kSecond);
  const Report report = Check(records);
  ExpectFirst(report, 2, Incarnation(), {{6, 8}}, "passed over");
  EXPECT_EQ(report.first_findings[0].generation, kSecond);
}

TEST(SampleAuditTest, AGeneration_ThatBeginsWhereNoneHasBeen) {
  std::vector<Record> records = AResumedRun();
  records[11] = Start(kSecond, 7);
  ExpectFirst(Check(records), 7, Incarnation(), {}, "have not reached");
}

// A third generation may begin with the second one's first version, or with an earlier one, but not
// with one that the second has undone.
TEST(SampleAuditTest, AThirdGeneration) {
  constexpr Generation kThird(3);
  std::vector<Record> records = AResumedRun();
  const std::vector<Record> more = {Start(kThird, 2), View(4, {Incarnation(5)}),
                                    Bind(2, 4, 8, {{6, 8}}, kThird)};
  records.insert(records.end(), more.begin(), more.end());
  Report report = Check(records);
  EXPECT_THAT(report.first_findings, IsEmpty());
  EXPECT_EQ(report.open, 1);
  EXPECT_EQ(report.in_open_steps, 4);
  records = AResumedRun();
  records[11] = Start(kSecond, 1);
  records[13] = Bind(1, 3, 4, {}, kSecond);
  records.resize(14);
  records.push_back(Start(kThird, 2));
  ExpectFirst(Check(records), 2, Incarnation(), {}, "have not reached");
}

TEST(SampleAuditTest, ARunThatGoesOn_HasOpenSteps) {
  std::vector<Record> records = ARunWithALoss();
  records.resize(9);  // steps 1 and 2 are in flight, worker 2 is out
  const Report report = Check(records);
  EXPECT_THAT(report.first_findings, IsEmpty());
  EXPECT_EQ(report.steps, 2);  // line 1 is there
  EXPECT_EQ(report.open, 1);
  EXPECT_EQ(report.in_open_steps, 2);
  EXPECT_EQ(report.waiting, 4);
}

TEST(SampleAuditTest, Audit_BringsEachLineBehindItsBinding) {
  std::vector<Record> stored;
  std::vector<StepRecord> lines;
  for (const Record& record : AResumedRun()) {
    if (const auto* line = std::get_if<StepRecord>(&record)) {
      lines.push_back(*line);
    } else {
      stored.push_back(record);
    }
  }
  size_t next_record = 0, next_line = 0;
  SampleAudit audit({{kFirst, 0}, {kSecond, 2}}, {});
  const absl::Status status = Audit(
      [&]() -> absl::StatusOr<std::optional<Record>> {
        if (next_record == stored.size()) return std::nullopt;
        return stored[next_record++];
      },
      [&]() -> absl::StatusOr<std::optional<StepRecord>> {
        if (next_line == lines.size()) return std::nullopt;
        return lines[next_line++];
      },
      &audit);
  EXPECT_EQ(status, absl::OkStatus());
  const Report report = audit.Finish();
  EXPECT_THAT(report.first_findings, IsEmpty());
  EXPECT_EQ(report.steps, 4);
}

}  // namespace
}  // namespace sdp::audit
