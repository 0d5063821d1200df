// Rotation and phases where memories are tight: what one draw gives the workers may not fit.
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/plan/memory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/coordinator/logic/coordinator.h"
#include "tests/coordinator/fixture.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Two workers with memory for the subnetworks of rotation 0, and of few others: a unit takes 1 MiB
// and some pages, of which the two of rotation 0 have as many.
class RotationTest : public CoordinatorTest {
 protected:
  RotationTest() {
    options_.rotate_every = 1;
    options_.steps = 300;
    options_.global_batch = 6;
    options_.validation = false;
    options_.eval_every = 0;
    PlanInput input;
    input.catalog = &catalog_;
    input.coverage = options_.coverage;
    input.ranks = {{.name = "worker-0"}, {.name = "worker-1"}};
    input.seed = options_.seed;
    const Plan first = *MakePlan(input);
    // Attention takes more, so that it is not worth a larger unit in exchange.
    std::map<std::string, std::vector<std::vector<int64_t>>> bytes = {
        {"attention", {{100, 101}, {102, 103}}}, {"mlp", {{0, 34}, {10, 20}}}};
    for (size_t worker = 0; worker < 2; ++worker) {
      for (const UnitId id : first.units[worker]) {
        const UnitSpec& unit = catalog_.unit(id);
        if (unit.shared) continue;
        std::vector<int64_t>& some = bytes.at(unit.kind)[worker];
        bytes_[unit.slices[0].tensor] = (1 << 20) + 4096 * some.back();
        some.pop_back();
      }
    }
    memory_.global_batch = options_.global_batch;
    memory_.stages = [this](int64_t, const HeldTensors& held) {
      std::vector<StageMemory> stages(catalog_.stages.size());
      for (const auto& [tensor, bytes] : bytes_) {
        if (held.computed[static_cast<size_t>(tensor)] > 0) stages[0].stored += bytes;
      }
      return stages;
    };
    enough_ = TrainingMemory(catalog_, first.units[0], memory_, 3).bytes;
    options_.memory = &memory_;
  }
  void SetUp() override { ASSERT_EQ(bytes_.size(), 8u); }

  CoordinatorActions Begin(Coordinator& c) {
    records_.clear();
    Settle(c, c.Start(now_));
    Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
    Settle(c, c.OnStepDone({ShardId(0), -1, 0}, now_));
    CoordinatorActions all;
    absl::Status error;
    for (const int64_t worker : {1, 2}) {
      const uint64_t instance = 10 + static_cast<uint64_t>(worker);
      Settle(c, c.RegisterWorker({absl::StrCat("worker-", worker), "cafe", instance, 0, enough_},
                                 now_));
    }
    for (const int64_t worker : {1, 2})
      all.Append(Settle(c, c.Ready(Incarnation(worker), {100, 7, 20, 8}, now_, &error)));
    return all;
  }
  CoordinatorActions Bind(Coordinator& c, Step step) {
    absl::Status error;
    CoordinatorActions all = Settle(c, c.BeginStep(Incarnation(1), step, -1, now_, &error));
    EXPECT_EQ(error, absl::OkStatus());
    return all;
  }
  bool Fits(const Coordinator& c, Step step) const { return MakePlan(c.PlanInputAt(step)).ok(); }

  MemoryModel memory_;
  std::map<int, int64_t> bytes_;  // of a unit, by its first tensor
  int64_t enough_ = 0;
};

TEST_F(RotationTest, OneThatHasNoPlan_IsLeftOut_AndARestoredCoordinatorHasTheSame) {
  Coordinator c(options_);
  Begin(c);
  Step fitting = 0;
  int left_out = 0;
  for (Step t = 0; t < options_.steps; ++t) {
    const CoordinatorActions bound = Bind(c, t);
    ASSERT_FALSE(bound.stop.has_value()) << t << ": " << *bound.stop;
    ASSERT_EQ(bound.bind_shards.size(), 1u) << t;
    if (Fits(c, t)) fitting = t;
    if (t > fitting) ++left_out;
    ASSERT_EQ(c.plan()->holders, MakePlan(c.PlanInputAt(fitting))->holders) << t;
    CommitStep(c, t);
    if (t == fitting && t % 10 != 9) continue;
    Coordinator next(options_);
    const std::vector<Record> records = records_;
    const CoordinatorActions restored = Settle(next, next.Restore(records, {}, now_));
    records_ = records;
    ASSERT_FALSE(restored.stop.has_value()) << t << ": " << *restored.stop;
    ASSERT_EQ(next.plan()->holders, c.plan()->holders) << t;
  }
  EXPECT_GT(left_out, 0);
  EXPECT_LT(left_out, options_.steps / 2);  // of one draw it would be nearly all
}

// Whoever begins a run is there to hear of it.
TEST_F(RotationTest, NoPlanAtTheBegin_EndsTheRun) {
  --enough_;
  Coordinator c(options_);
  const CoordinatorActions all = Begin(c);
  ASSERT_TRUE(all.stop.has_value());
  EXPECT_THAT(std::string(all.stop->message()), HasSubstr("of memory and would need"));
}

TEST_F(RotationTest, NoPlanAsAGenerationBegins_WaitsForOthers) {
  --enough_;
  options_.start.goes_on = true;
  Coordinator c(options_);
  CoordinatorActions all = Begin(c);
  EXPECT_FALSE(all.stop.has_value());
  EXPECT_THAT(all.events, Contains(testing::Field(&RunEvent::kind, RunEvent::Kind::kNoPlan)));
  EXPECT_THAT(c.WaitingFor(), AllOf(HasSubstr("2 of 2 workers are ready"),
                                    HasSubstr("no plan for them: worker-1 has")));
  all = Settle(c, c.Tick(now_));
  EXPECT_THAT(all.events, IsEmpty());  // it is said once
  for (const uint64_t worker : {1, 2}) Register(c, absl::StrCat("worker-", worker), 20 + worker);
  for (const int64_t worker : {3, 4}) EXPECT_EQ(Ready(c, worker), absl::OkStatus());
  EXPECT_EQ(c.status(now_).phase, "training");
  EXPECT_EQ(CoordinatorTest::Begin(c, 3, 0).bind_shards.size(), 1u);
}

// Who had no room waited to join before, and does again.
TEST_F(RotationTest, NoPlanForAll_AGenerationBeginsWithoutTheSmallest) {
  options_.workers = 3;
  options_.start.goes_on = true;
  Coordinator c(options_);
  Settle(c, c.Start(now_));
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  Settle(c, c.OnStepDone({ShardId(0), -1, 0}, now_));
  Settle(c, c.RegisterWorker({"worker-0", "cafe", 10, 0, 1 << 20}, now_));  // no unit at all
  for (const uint64_t worker : {1, 2}) Register(c, absl::StrCat("worker-", worker), 10 + worker);
  for (const int64_t worker : {1, 2, 3}) EXPECT_EQ(Ready(c, worker), absl::OkStatus());
  EXPECT_EQ(c.status(now_).phase, "training");
  const CoordinatorActions all = CoordinatorTest::Begin(c, 2, 0);
  ASSERT_EQ(all.bind_shards.size(), 1u) << c.WaitingFor();
  EXPECT_THAT(all.bind_shards[0].binding.holders->members,
              ElementsAre(Incarnation(2), Incarnation(3)));
}

// Everybody holds everything, for which these two have not the memory.
TEST_F(RotationTest, NoPlanForAPhase_PausesUntilOthersCome) {
  options_.phases = {{.from = 3, .coverage = std::vector<double>(catalog_.units.size(), 1.0)}};
  Coordinator refused(options_);
  EXPECT_TRUE(Begin(refused).stop.has_value());  // before hours are spent
  options_.start.goes_on = true;
  Coordinator c(options_);
  Begin(c);
  for (Step t = 0; t < 3; ++t) {
    EXPECT_EQ(Bind(c, t).bind_shards.size(), 1u) << t;
    CommitStep(c, t);
  }
  CoordinatorActions all = Bind(c, 3);
  EXPECT_FALSE(all.stop.has_value());
  EXPECT_THAT(all.bind_shards, IsEmpty());
  EXPECT_THAT(all.events, ElementsAre(testing::Field(&RunEvent::kind, RunEvent::Kind::kNoPlan),
                                      testing::Field(&RunEvent::kind, RunEvent::Kind::kPause)));
  EXPECT_EQ(c.status(now_).phase, "paused");
  EXPECT_THAT(Bind(c, 3).events, IsEmpty());
  Register(c, "worker-3", 13);
  EXPECT_EQ(Ready(c, 3), absl::OkStatus());
  absl::Status error;
  for (const std::string worker : {"worker-1", "worker-2"})
    Settle(c, c.ProcessEnded(worker, now_, &error));
  EXPECT_EQ(CoordinatorTest::Begin(c, 3, 3).bind_shards.size(), 1u);
}

}  // namespace
}  // namespace sdp
