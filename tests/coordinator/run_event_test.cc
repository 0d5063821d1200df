#include "server/coordinator/logic/run_event.h"

#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fixture.h"

namespace sdp {
namespace {

using Kind = RunEvent::Kind;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Names(const std::vector<RunEvent>& events) {
  std::vector<std::string> names;
  for (const RunEvent& event : events) names.emplace_back(EventName(event.kind));
  return names;
}

TEST(RunEventTest, EveryKind_HasANameOfItsOwnAndAText_WithItsReason) {
  std::set<std::string> names;
  for (int kind = 0; kind <= static_cast<int>(Kind::kEnd); ++kind) {
    const RunEvent event{.kind = static_cast<Kind>(kind),
                         .step = 7,
                         .worker = "worker-2",
                         .code = absl::StatusCode::kCancelled,
                         .reason = "it rains"};
    EXPECT_TRUE(names.insert(EventName(event.kind)).second) << EventName(event.kind);
    EXPECT_NE(EventText(event), "");
    const std::set<Kind> without = {Kind::kJoin,   Kind::kReady,  Kind::kLeave,
                                    Kind::kResume, Kind::kTakeUp, Kind::kCheckpoint};
    if (without.contains(event.kind)) continue;
    EXPECT_THAT(EventText(event), HasSubstr("it rains"));
  }
}

class EventsTest : public CoordinatorTest {};

TEST_F(EventsTest, AGeneration_BeginsWithWhatItGoesOnFrom) {
  options_.start.generation = Generation(2);
  options_.start.state.step = 4;
  options_.start.notes = {"going on from checkpoint 4", "set aside: step-6"};
  Coordinator c(options_);
  const CoordinatorActions actions = c.Start(now_);
  ASSERT_EQ(actions.events.size(), 1u);
  EXPECT_EQ(actions.events[0].kind, Kind::kStart);
  EXPECT_EQ(actions.events[0].generation, Generation(2));
  EXPECT_EQ(actions.events[0].step, 4);
  EXPECT_EQ(actions.events[0].reason, "going on from checkpoint 4; set aside: step-6");
}

TEST_F(EventsTest, Members_FromRegistrationToExclusion_AreInTheLogToo) {
  options_.coverage = *ResolveCoverage(catalog_, {.coverage = 1}, 2);
  Coordinator c(options_);
  c.Start(now_);
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  Settle(c, c.OnStepDone({ShardId(0), -1, 0}, now_));
  CoordinatorActions all = Register(c, "worker-0", 10);
  all.Append(Register(c, "worker-1", 11));
  absl::Status error;
  for (const int64_t worker : {1, 2})
    all.Append(Settle(c, c.Ready(Incarnation(worker), {100, 7, 20, 8}, now_, &error)));
  Begin(c, 1, 0);
  all.Append(Settle(c, c.ProcessEnded("worker-1", now_, &error)));
  Begin(c, 1, 1);
  all.Append(Settle(c, c.Leave(Incarnation(1), now_)));
  EXPECT_THAT(Names(all.events),
              ElementsAre("join", "join", "ready", "ready", "replan", "exclude", "leave", "pause"));
  for (const RunEvent& event : all.events) {
    EXPECT_THAT(all.log, Contains(EventText(event)));
    EXPECT_EQ(event.generation, Generation(1));
  }
  EXPECT_EQ(all.events[4].workers, 2);
  EXPECT_EQ(all.events[4].step, 0);
  EXPECT_NE(all.events[4].plan_hash, 0u);
  EXPECT_EQ(all.events[5].worker, "worker-1");
  EXPECT_EQ(all.events[5].incarnation, Incarnation(2));
  EXPECT_EQ(all.events[5].step, 1);
  EXPECT_EQ(all.events[5].reason, "its process has ended");
}

// A phase is an event; a rotation follows from the step.
TEST_F(EventsTest, APhase_IsReplanned_ARotationIsNoEvent) {
  options_.eval_every = 0;
  options_.rotate_every = 1;
  options_.phases = {{2, *ResolveCoverage(catalog_, {.coverage = 1}, 2)}};
  Coordinator c(options_);
  Gather(c);
  CoordinatorActions all = Train(c, 0, 4);
  ASSERT_THAT(Names(all.events), ElementsAre("replan"));
  EXPECT_EQ(all.events[0].step, 2);
  EXPECT_THAT(EventText(all.events[0]), HasSubstr("sdp.phases: number 1"));
}

}  // namespace
}  // namespace sdp
