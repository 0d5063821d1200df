#include "server/coordinator/logic/coordinator.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "common/model/llama.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

// Two workers, one shard; the store answers when a test says so.
class CoordinatorTest : public testing::Test {
 protected:
  CoordinatorTest()
      : catalog_(LlamaCatalog(
            {.dim = 4, .layers = 4, .heads = 2, .kv_heads = 1, .ffn_dim = 6, .vocab = 8},
            TransformerUnit::kSublayer, 4)),
        layout_(catalog_) {
    options_.catalog = &catalog_;
    options_.layout = &layout_;
    options_.config_hash = "cafe";
    options_.workers = 2;
    options_.coverage = *ResolveCoverage(catalog_, 0.5, 0, 2);
    options_.steps = 10;
    options_.global_batch = 5;
    options_.validation = true;
    options_.eval_every = 2;
  }

  // Answers all stores, gathering what follows.
  CoordinatorActions Settle(Coordinator& coordinator, CoordinatorActions actions) {
    CoordinatorActions all;
    while (true) {
      const std::vector<CoordinatorActions::Store> stores = actions.store;
      all.Append(std::move(actions));
      if (stores.empty()) return all;
      actions = CoordinatorActions();
      for (const auto& store : stores) actions.Append(coordinator.Stored(store.id, now_));
    }
  }

  CoordinatorActions Register(Coordinator& c, const std::string& name, uint64_t instance,
                              const std::string& hash = "cafe") {
    return Settle(c, c.RegisterWorker({name, hash, instance}, now_));
  }

  absl::Status Ready(Coordinator& c, int64_t incarnation, DataSummary data = {100, 7, 20, 8}) {
    absl::Status error;
    Settle(c, c.Ready(Incarnation(incarnation), data, now_, &error));
    return error;
  }

  CoordinatorActions Begin(Coordinator& c, int64_t incarnation, Step step, int64_t plan = -1) {
    absl::Status error;
    CoordinatorActions actions =
        Settle(c, c.BeginStep(Incarnation(incarnation), step, plan, now_, &error));
    EXPECT_EQ(error, absl::OkStatus());
    return actions;
  }

  // Up to two ready workers: incarnations 1 (worker-1) and 2 (worker-0).
  void Gather(Coordinator& c) {
    c.Start(now_);
    Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
    Settle(c, c.OnStepDone({ShardId(0), -1, 0}, now_));
    Register(c, "worker-1", 11);
    Register(c, "worker-0", 10);
    EXPECT_EQ(Ready(c, 1), absl::OkStatus());
    EXPECT_EQ(Ready(c, 2), absl::OkStatus());
  }

  CoordinatorActions CommitStep(Coordinator& c, Step step) {
    CoordinatorActions all;
    for (const int64_t worker : {1, 2}) {
      StepReport report;
      report.worker = Incarnation(worker);
      report.step = step;
      report.loss_sum = 4.0 * static_cast<double>(worker);
      report.terms = 4;
      all.Append(Settle(c, c.OnStepReport(report, now_)));
    }
    all.Append(
        Settle(c, c.OnReduced({ShardId(0), step,
                               std::vector<double>(static_cast<size_t>(layout_.fragments()), 1.0)},
                              now_)));
    all.Append(Settle(c, c.OnStepDone({ShardId(0), step, 0}, now_)));
    return all;
  }

  const Catalog catalog_;
  const Layout layout_;
  Coordinator::Options options_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
};

TEST_F(CoordinatorTest, Register_OtherConfig_IsRefusedWithBothHashes) {
  Coordinator c(options_);
  const CoordinatorActions worker = Register(c, "worker-0", 1, "beef");
  ASSERT_EQ(worker.admit_workers.size(), 1u);
  EXPECT_TRUE(absl::IsFailedPrecondition(worker.admit_workers[0].admission.status()));
  EXPECT_THAT(std::string(worker.admit_workers[0].admission.status().message()), HasSubstr("beef"));
  EXPECT_THAT(std::string(worker.admit_workers[0].admission.status().message()), HasSubstr("cafe"));
  const CoordinatorActions shard = c.RegisterShard({"shard-0", "here:1", "beef", 5}, now_);
  EXPECT_TRUE(absl::IsFailedPrecondition(shard.admit_shards.at(0).admission.status()));
}

TEST_F(CoordinatorTest, Register_MoreThanConfigured_IsRefused) {
  Coordinator c(options_);
  Gather(c);
  EXPECT_TRUE(absl::IsFailedPrecondition(
      Register(c, "worker-2", 3).admit_workers.at(0).admission.status()));
  const CoordinatorActions shard = c.RegisterShard({"shard-1", "here:2", "cafe", 6}, now_);
  EXPECT_TRUE(absl::IsFailedPrecondition(shard.admit_shards.at(0).admission.status()));
}

TEST_F(CoordinatorTest, Register_TwiceByOneProcess_IsOneIncarnation) {
  Coordinator c(options_);
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  const auto first = Register(c, "worker-0", 10), again = Register(c, "worker-0", 10),
             other = Register(c, "worker-0", 12);
  EXPECT_EQ(first.admit_workers.at(0).admission->incarnation, Incarnation(1));
  EXPECT_EQ(again.admit_workers.at(0).admission->incarnation, Incarnation(1));
  EXPECT_EQ(other.admit_workers.at(0).admission->incarnation, Incarnation(2));
  EXPECT_EQ(other.admit_workers.at(0).admission->shards, std::vector<std::string>{"here:1"});
}

TEST_F(CoordinatorTest, Register_BeforeTheShards_IsAnsweredWhenTheyAreHere) {
  Coordinator c(options_);
  EXPECT_TRUE(Register(c, "worker-0", 10).admit_workers.empty());
  EXPECT_EQ(Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_)).admit_workers.size(),
            1u);
}

TEST_F(CoordinatorTest, Ready_OtherData_IsRefusedAndNamed) {
  Coordinator c(options_);
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  Register(c, "worker-0", 10);
  Register(c, "worker-1", 11);
  EXPECT_EQ(Ready(c, 1), absl::OkStatus());
  const absl::Status error = Ready(c, 2, {99, 7, 20, 8});
  EXPECT_TRUE(absl::IsFailedPrecondition(error));
  EXPECT_THAT(std::string(error.message()), HasSubstr("worker-1"));
  EXPECT_THAT(std::string(error.message()), HasSubstr("99"));
}

TEST_F(CoordinatorTest, BeginStep_OfAStranger_IsAborted_FarAhead_IsInvalid) {
  Coordinator c(options_);
  Gather(c);
  absl::Status error;
  c.BeginStep(Incarnation(9), 0, -1, now_, &error);
  EXPECT_TRUE(absl::IsAborted(error));
  c.BeginStep(Incarnation(1), 5, -1, now_, &error);
  EXPECT_TRUE(absl::IsInvalidArgument(error));
}

TEST_F(CoordinatorTest, Binding_IsTellableOnlyOnceStored) {
  Coordinator c(options_);
  Gather(c);
  absl::Status error;
  CoordinatorActions actions = c.BeginStep(Incarnation(1), 0, -1, now_, &error);
  EXPECT_TRUE(actions.bind_workers.empty());
  EXPECT_TRUE(actions.bind_shards.empty());
  ASSERT_FALSE(actions.store.empty());
  actions = Settle(c, std::move(actions));
  EXPECT_EQ(actions.bind_workers.size(), 1u);
  EXPECT_EQ(actions.bind_shards.size(), 1u);
}

TEST_F(CoordinatorTest, Ranks_AreInNaturalOrderOfNames_PortionsDifferByOne) {
  Coordinator c(options_);
  Gather(c);
  const WorkerBinding one = Begin(c, 1, 0).bind_workers.at(0).binding;   // worker-1: rank 1
  const WorkerBinding zero = Begin(c, 2, 0).bind_workers.at(0).binding;  // worker-0: rank 0
  EXPECT_EQ(zero.first_position, 0);
  EXPECT_EQ(zero.samples, 3);
  EXPECT_EQ(one.first_position, 3);
  EXPECT_EQ(one.samples, 2);
  ASSERT_NE(one.units, nullptr);
  EXPECT_EQ(Begin(c, 1, 0, one.plan).bind_workers.at(0).binding.units, nullptr);  // as before
}

TEST_F(CoordinatorTest, TwoStepsInFlight_NoMore) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  EXPECT_EQ(Begin(c, 1, 1).bind_workers.size(), 1u);
  EXPECT_TRUE(Begin(c, 1, 2).bind_workers.empty());
  EXPECT_EQ(CommitStep(c, 0).bind_workers.size(), 1u);
}

TEST_F(CoordinatorTest, Metrics_ComeWhenCommittedAndReported) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  const CoordinatorActions actions = CommitStep(c, 0);
  ASSERT_EQ(actions.metrics.size(), 1u);
  EXPECT_DOUBLE_EQ(*actions.metrics[0].loss, 1.5);
  EXPECT_DOUBLE_EQ(actions.metrics[0].gradient_norm,
                   std::sqrt(static_cast<double>(layout_.fragments())));
  EXPECT_EQ(actions.metrics[0].min_holders, 1);
  EXPECT_FALSE(actions.metrics[0].full_loss.has_value());
}

TEST_F(CoordinatorTest, Evaluation_IsPartOfItsStep_AndReleasesTheVersion) {
  Coordinator c(options_);
  Gather(c);
  for (Step t = 0; t < 2; ++t) {
    Begin(c, 1, t);
    CommitStep(c, t);
  }
  const WorkerBinding binding = Begin(c, 1, 2).bind_workers.at(0).binding;
  EXPECT_TRUE(binding.evaluate);
  EXPECT_EQ(binding.validation_samples, 10);
  EXPECT_TRUE(CommitStep(c, 2).metrics.empty());
  EXPECT_TRUE(Settle(c, c.OnEvaluation({Incarnation(1), 2, 10, 5}, now_)).releases.empty());
  const CoordinatorActions done = Settle(c, c.OnEvaluation({Incarnation(2), 2, 20, 5}, now_));
  EXPECT_EQ(done.releases.size(), 1u);
  ASSERT_EQ(done.metrics.size(), 1u);
  EXPECT_DOUBLE_EQ(*done.metrics[0].full_loss, 3);
}

TEST_F(CoordinatorTest, Clipping_ScaleIsSentOnceItIsStored) {
  options_.clip_norm = 0.5;
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  CoordinatorActions actions = c.OnReduced(
      {ShardId(0), 0, std::vector<double>(static_cast<size_t>(layout_.fragments()), 4.0)}, now_);
  EXPECT_TRUE(actions.scales.empty());
  actions = Settle(c, std::move(actions));
  ASSERT_EQ(actions.scales.size(), 1u);
  EXPECT_DOUBLE_EQ(actions.scales[0].scale.scale,
                   0.5 / (2 * std::sqrt(static_cast<double>(layout_.fragments())) + 1e-6));
}

TEST_F(CoordinatorTest, NotFinite_EndsTheRunNamingStepAndWorker) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  const CoordinatorActions actions =
      c.OnNotFinite({"worker-1", 0, "the loss", Incarnation(1)}, now_);
  ASSERT_TRUE(actions.stop.has_value());
  EXPECT_TRUE(absl::IsOutOfRange(*actions.stop));
  EXPECT_THAT(std::string(actions.stop->message()), HasSubstr("step 0: the loss of worker-1"));
}

TEST_F(CoordinatorTest, FullLossNotFinite_EndsTheRun) {
  Coordinator c(options_);
  Gather(c);
  for (Step t = 0; t < 2; ++t) {
    Begin(c, 1, t);
    CommitStep(c, t);
  }
  Begin(c, 1, 2);
  c.OnEvaluation({Incarnation(1), 2, std::numeric_limits<double>::infinity(), 5}, now_);
  EXPECT_TRUE(c.OnEvaluation({Incarnation(2), 2, 1, 5}, now_).stop.has_value());
}

TEST_F(CoordinatorTest, Silence_EndsTheRunNamingTheMember) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  now_ += options_.lease - absl::Seconds(1);
  c.WorkerHeartbeat(Incarnation(1), "step 0: computing", now_);
  c.ShardHeartbeat(ShardId(0), 1, now_);
  EXPECT_FALSE(c.Tick(now_).stop.has_value());
  now_ += absl::Seconds(2);
  const CoordinatorActions actions = c.Tick(now_);
  ASSERT_TRUE(actions.stop.has_value());
  EXPECT_THAT(std::string(actions.stop->message()), HasSubstr("worker-0 is lost"));
}

TEST_F(CoordinatorTest, NoProgress_EndsTheRunSayingWhoIsAwaited) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  const absl::Time begin = now_;
  CoordinatorActions actions;
  while (!actions.stop.has_value() && now_ < begin + absl::Hours(2)) {
    now_ += absl::Seconds(10);
    for (const int64_t worker : {1, 2})
      c.WorkerHeartbeat(Incarnation(worker), "step 0: computing, 3 gradients to go", now_);
    c.ShardHeartbeat(ShardId(0), 1, now_);
    actions = c.Tick(now_);
  }
  ASSERT_TRUE(actions.stop.has_value());
  EXPECT_LE(now_ - begin, options_.first_step_timeout + absl::Seconds(30));
  EXPECT_THAT(std::string(actions.stop->message()), HasSubstr("step 0 waits for worker-"));
}

TEST_F(CoordinatorTest, Stop_BeforeTheFirstStep_IsAtOnce) {
  Coordinator c(options_);
  Gather(c);
  EXPECT_TRUE(absl::IsCancelled(*c.Stop("Ctrl-C", now_).stop));
}

TEST_F(CoordinatorTest, Stop_ThatTakesTooLong_EndsByItsDeadline) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  EXPECT_FALSE(c.Stop("Ctrl-C", now_).stop.has_value());
  now_ += options_.stop_timeout + absl::Seconds(1);
  EXPECT_TRUE(c.Tick(now_).stop.has_value());
}

TEST_F(CoordinatorTest, Status_SaysWhatIsAwaited) {
  Coordinator c(options_);
  c.Start(now_);
  EXPECT_EQ(c.status(now_).phase, "waiting for shards");
  EXPECT_THAT(c.status(now_).waiting_for, HasSubstr("0 of 1 shards"));
  Gather(c);
  Begin(c, 1, 0);
  const RunStatus status = c.status(now_);
  EXPECT_EQ(status.phase, "training");
  EXPECT_EQ(status.members.size(), 3u);
  EXPECT_THAT(status.waiting_for, HasSubstr("step 0 waits for"));
}

}  // namespace
}  // namespace sdp
