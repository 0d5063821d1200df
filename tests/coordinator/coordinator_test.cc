#include "server/coordinator/logic/coordinator.h"

#include <cmath>
#include <string>
#include <vector>

#include "common/plan/coverage.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fixture.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

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

TEST_F(CoordinatorTest, Register_MoreThanAllowed_IsRefused) {
  options_.max_workers = 2;
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
  EXPECT_EQ(zero.portion, (std::vector<PositionRange>{{0, 3}}));
  EXPECT_EQ(one.portion, (std::vector<PositionRange>{{3, 2}}));
  ASSERT_NE(one.units, nullptr);
  EXPECT_EQ(Begin(c, 1, 0, one.plan).bind_workers.at(0).binding.units, nullptr);  // as before
}

// Of two workers one holds each unit, as coverage 1/2 wants: a share of 1/2 of its outputs is
// there.
TEST_F(CoordinatorTest, Binding_HasTheFactorsOfTheRescaling) {
  for (const auto& [rescale, factor] :
       {std::pair{Rescale::kEval, 1.0}, {Rescale::kNone, 1.0}, {Rescale::kInverted, 2.0}}) {
    options_.rescale = rescale;
    Coordinator c(options_);
    Gather(c);
    const auto units = Begin(c, 1, 0).bind_workers.at(0).binding.units;
    ASSERT_EQ(units->size(), 2u + 4u);  // embedding, head, half of 8 sub-layers
    for (const UnitFactor& unit : *units) {
      EXPECT_EQ(unit.factor, catalog_.unit(unit.unit).shared ? 1 : factor);
    }
  }
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
  EXPECT_EQ(binding.evaluations, (std::vector<EvaluationPart>{{2, binding.view, 10, 10}}));
  EXPECT_TRUE(CommitStep(c, 2).metrics.empty());
  EXPECT_TRUE(Settle(c, c.OnEvaluation(Evaluated(1, 2, 10, 5), now_)).releases.empty());
  const CoordinatorActions done = Settle(c, c.OnEvaluation(Evaluated(2, 2, 20, 5), now_));
  EXPECT_EQ(done.releases.size(), 1u);
  ASSERT_EQ(done.metrics.size(), 1u);
  EXPECT_DOUBLE_EQ(*done.metrics[0].full_loss, 3);
  EXPECT_FALSE(done.metrics[0].full_accuracy.has_value());
}

// A message that was overtaken: the line would be without its norm.
TEST_F(CoordinatorTest, StepDoneBeforeReduced_LineWaits) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  for (const int64_t worker : {1, 2}) {
    StepReport report;
    report.worker = Incarnation(worker);
    Settle(c, c.OnStepReport(report, now_));
  }
  EXPECT_TRUE(Settle(c, c.OnStepDone({ShardId(0), 0, 0}, now_)).metrics.empty());
  EXPECT_EQ(c.status(now_).committed, 0);
  const std::vector<double> squares(static_cast<size_t>(layout_.fragments()), 4.0);
  const CoordinatorActions late = Settle(c, c.OnReduced({ShardId(0), 0, squares, {}}, now_));
  ASSERT_EQ(late.metrics.size(), 1u);
  EXPECT_NEAR(late.metrics[0].gradient_norm, 2 * std::sqrt(layout_.fragments()), 1e-12);
}

// A diagnosed step is told to shards and workers. Its version is released, and its metrics are out,
// when the shards have compared the gradients too: here the unit of fragment 1 could not be.
TEST_F(CoordinatorTest, DiagnosedStep_WaitsForTheDenseGradients) {
  options_.diagnostics_every = 1;
  for (const bool validation : {true, false}) {
    options_.validation = validation;
    Coordinator c(options_);
    Gather(c);
    const CoordinatorActions bound = Begin(c, 1, 0);
    EXPECT_TRUE(bound.bind_shards.at(0).binding.diagnose);
    EXPECT_EQ(bound.bind_shards.at(0).binding.evaluate, validation);
    EXPECT_TRUE(bound.bind_workers.at(0).binding.diagnose);
    EXPECT_TRUE(CommitStep(c, 0).metrics.empty());
    CoordinatorActions evaluated;
    for (const int64_t worker : {1, 2}) {
      if (validation)
        evaluated.Append(Settle(c, c.OnEvaluation(Evaluated(worker, 0, 1, 10), now_)));
    }
    EXPECT_TRUE(evaluated.releases.empty());
    EXPECT_TRUE(evaluated.metrics.empty());
    EXPECT_NE(c.status(now_).waiting_for.find("shard-0 (the dense gradient of version 0)"),
              std::string::npos)
        << c.status(now_).waiting_for;

    Diagnosed report{ShardId(0), 0, {}};
    EXPECT_TRUE(Settle(c, c.OnDiagnosed(report, now_)).metrics.empty());  // of another size
    report.fragments.assign(static_cast<size_t>(layout_.fragments()), {8, 1.0, 4.0});
    report.fragments[1] = {};
    const CoordinatorActions done = Settle(c, c.OnDiagnosed(report, now_));
    EXPECT_EQ(done.releases.size(), 1u);
    ASSERT_EQ(done.metrics.size(), 1u);
    const std::vector<BlockDiagnostics>& blocks = done.metrics[0].blocks;
    ASSERT_EQ(blocks.size(), catalog_.units.size());
    EXPECT_NEAR(blocks[0].dense_cosine.value_or(0), 0.5, 1e-15);  // |m|^2 is 1: CommitStep's
    EXPECT_NEAR(blocks[0].dense_ratio.value_or(0), 0.5, 1e-15);
    EXPECT_FALSE(blocks[1].dense_cosine.has_value());
    EXPECT_TRUE(Settle(c, c.OnDiagnosed(report, now_)).releases.empty());  // twice
  }
}

TEST_F(CoordinatorTest, Evaluation_OfClasses_HasTheirAccuracy) {
  Coordinator c(options_);
  Gather(c);
  for (Step t = 0; t < 2; ++t) {
    Begin(c, 1, t);
    CommitStep(c, t);
  }
  Begin(c, 1, 2);
  CommitStep(c, 2);
  Settle(c, c.OnEvaluation(Evaluated(1, 2, 10, 5, 3), now_));
  const CoordinatorActions done = Settle(c, c.OnEvaluation(Evaluated(2, 2, 20, 5, 1), now_));
  ASSERT_EQ(done.metrics.size(), 1u);
  EXPECT_DOUBLE_EQ(*done.metrics[0].full_accuracy, 0.4);
}

TEST_F(CoordinatorTest, GivenValues_AreEvaluatedBeforeTheFirstStep) {
  for (const auto& [path, every, evaluated] :
       {std::tuple{"", 2, false}, {"/model", 2, true}, {"/model", 0, false}}) {
    options_.start.state.init_path = path;
    options_.eval_every = every;
    Coordinator c(options_);
    Gather(c);
    EXPECT_EQ(Begin(c, 1, 0).bind_workers.at(0).binding.evaluations.size(), evaluated ? 1u : 0u);
  }
}

// A dense model is divided by what its full model will be multiplied by.
TEST_F(CoordinatorTest, Admission_HasTheFullModelsFactors) {
  options_.rescale = Rescale::kSqrt;
  options_.coverage = *ResolveCoverage(catalog_, {.coverage = 0.25}, 4);
  Coordinator c(options_);
  const auto actions = Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  const StartState& start = actions.admit_shards.at(0).admission->start;
  ASSERT_EQ(start.factors.size(), catalog_.units.size());
  EXPECT_EQ(start.factors.front(), 1);
  EXPECT_EQ(start.factors[1], 0.5);
  EXPECT_EQ(start.factors.back(), 1);
}

TEST_F(CoordinatorTest, Clipping_ScaleIsSentOnceItIsStored) {
  options_.clip_norm = 0.5;
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  CoordinatorActions actions = c.OnReduced(
      {ShardId(0), 0, std::vector<double>(static_cast<size_t>(layout_.fragments()), 4.0), {}},
      now_);
  EXPECT_TRUE(actions.scales.empty());
  actions = Settle(c, std::move(actions));
  ASSERT_EQ(actions.scales.size(), 1u);
  EXPECT_DOUBLE_EQ(actions.scales[0].scale.scale,
                   0.5 / (2 * std::sqrt(static_cast<double>(layout_.fragments())) + 1e-6));
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

TEST_F(CoordinatorTest, Checkpoint_OnRequest_IsOfTheNextUnboundStep_Once) {
  Coordinator c(options_);
  Step step = -1;
  absl::Status error;
  c.TakeCheckpoint(&step, &error);
  EXPECT_TRUE(absl::IsFailedPrecondition(error));
  Gather(c);
  c.TakeCheckpoint(&step, &error);
  EXPECT_EQ(error, absl::OkStatus());
  EXPECT_EQ(step, 1);  // version 0 needs none
  std::vector<bool> bound;
  for (Step t = 0; t < 3; ++t) {
    bound.push_back(Begin(c, 1, t).bind_shards.at(0).binding.checkpoint);
    CommitStep(c, t);
  }
  EXPECT_THAT(bound, ElementsAre(false, true, false));
}

TEST_F(CoordinatorTest, Checkpoint_ByTime_CountsFromTheLastOne) {
  options_.checkpoint_after = absl::Minutes(10);
  options_.eval_every = 0;
  Coordinator c(options_);
  Gather(c);
  std::vector<Step> bound;
  for (Step t = 0; t < 8; ++t) {
    if (Begin(c, 1, t).bind_shards.at(0).binding.checkpoint) bound.push_back(t);
    CommitStep(c, t);
    now_ += absl::Minutes(4);
  }
  EXPECT_THAT(bound, ElementsAre(3, 6));  // after 12 minutes, and 12 more
}

// Steps 0 .. count-1, each asked for by both workers, evaluated where due, and committed.
TEST_F(CoordinatorTest, Checkpoint_IsBoundEveryKSteps_AndItsManifestFollowsTheParts) {
  options_.checkpoint_every = 2;
  options_.config = "the config";
  Coordinator c(options_);
  Gather(c);
  std::vector<bool> bound;
  for (Step t = 0; t < 4; ++t) {
    const CoordinatorActions begun = Begin(c, 1, t);
    ASSERT_EQ(begun.bind_shards.size(), 1u);
    bound.push_back(begun.bind_shards[0].binding.checkpoint);
    for (const int64_t worker : {1, 2}) c.OnEvaluation({Incarnation(worker), t, 1, 10}, now_);
    if (t < 3) CommitStep(c, t);
  }
  EXPECT_EQ(bound, (std::vector<bool>{false, false, true, false}));  // not of version 0
  const CheckpointFile file{"shard-0.safetensors", 7, {{FragmentId(0), 3, 2, 1, {}}}};
  const CoordinatorActions part = c.OnCheckpointPart({ShardId(0), 2, "", file}, now_);
  ASSERT_EQ(part.manifests.size(), 1u);
  const CheckpointManifest& manifest = part.manifests[0];
  EXPECT_EQ(manifest.step, 2);
  EXPECT_EQ(manifest.cursor, SampleCursor(2 * options_.global_batch));
  EXPECT_EQ(manifest.config, "the config");
  EXPECT_EQ(manifest.coverage, options_.coverage);
  EXPECT_EQ(manifest.data, (DataSummary{100, 7, 20, 8}));
  EXPECT_EQ(manifest.files, std::vector<CheckpointFile>{file});
  EXPECT_TRUE(c.OnCheckpointPart({ShardId(0), 2, "", file}, now_).manifests.empty());  // twice
  EXPECT_FALSE(c.status(now_).checkpoint.has_value());
  c.CheckpointStored(2, absl::OkStatus(), now_);
  EXPECT_EQ(c.status(now_).checkpoint, 2);
}

// A full disk costs the checkpoint, not the run; but the run does not end as if nothing had been.
TEST_F(CoordinatorTest, Checkpoint_ThatFails_TrainingGoesOn_ErrorStaysAndIsTheEnd) {
  options_.checkpoint_every = 1;
  options_.steps = 2;
  options_.validation = false;
  Coordinator c(options_);
  Gather(c);
  Train(c, 0, 1);
  Begin(c, 1, 1);
  const CoordinatorActions failed =
      c.OnCheckpointPart({ShardId(0), 1, "write x: No space left", {}}, now_);
  EXPECT_EQ(failed.abandoned, std::vector<Step>{1});
  EXPECT_TRUE(failed.manifests.empty());
  EXPECT_FALSE(failed.stop.has_value());
  CommitStep(c, 1);
  Begin(c, 1, 2);
  Begin(c, 2, 2);
  c.OnCheckpointPart({ShardId(0), 2, "", {}}, now_);
  c.CheckpointStored(2, absl::OkStatus(), now_);
  EXPECT_THAT(c.status(now_).checkpoint_error, HasSubstr("No space left"));
  c.OnStateHashes({ShardId(0), 2, std::vector<uint64_t>(static_cast<size_t>(layout_.fragments()))},
                  now_);
  Begin(c, 1, 3);
  Begin(c, 2, 3);
  const CoordinatorActions end = c.ShardFinished(ShardId(0), now_);
  ASSERT_TRUE(end.stop.has_value());
  EXPECT_FALSE(end.stop->ok());
  EXPECT_THAT(std::string(end.stop->message()),
              AllOf(HasSubstr("trained to step 2"), HasSubstr("checkpoint 1: shard-0: write x")));
}

TEST_F(CoordinatorTest, Resumed_NumbersGoOn_AndTheStartIsNotWrittenAgain) {
  options_.checkpoint_every = 2;
  options_.start.generation = Generation(3);
  options_.start.state.step = 4;
  options_.start.state.checkpoint = "/run/checkpoints/step-4";
  options_.start.cursor = SampleCursor(20, {{3, 1}});
  options_.start.last_incarnation = Incarnation(20);
  options_.start.last_view = ViewId(5);
  Coordinator c(options_);
  c.Start(now_);
  const CoordinatorActions shard =
      Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  EXPECT_EQ(shard.admit_shards.at(0).admission->start.checkpoint, "/run/checkpoints/step-4");
  Settle(c, c.OnStepDone({ShardId(0), 3, 0}, now_));  // the checkpoint is loaded
  const CoordinatorActions worker = Register(c, "worker-0", 10);
  EXPECT_EQ(worker.admit_workers.at(0).admission->incarnation, Incarnation(21));
  Register(c, "worker-1", 11);
  EXPECT_EQ(Ready(c, 21), absl::OkStatus());
  EXPECT_EQ(Ready(c, 22), absl::OkStatus());
  const CoordinatorActions begun = Begin(c, 21, kFirstOfMine);
  ASSERT_EQ(begun.bind_workers.size(), 1u);
  const WorkerBinding& binding = begun.bind_workers[0].binding;
  EXPECT_EQ(binding.generation, Generation(3));
  EXPECT_EQ(binding.view, ViewId(6));
  EXPECT_EQ(binding.step, 4);
  // Three of five samples: what came back from a lost worker comes first.
  EXPECT_EQ(binding.portion, (std::vector<PositionRange>{{3, 1}, {20, 2}}));
  EXPECT_EQ(binding.evaluations.size(), 1u);  // as the undisturbed run at step 4
  EXPECT_FALSE(begun.bind_shards.at(0).binding.checkpoint);
}

TEST_F(CoordinatorTest, Resumed_OtherData_IsRefused) {
  options_.start.data = DataSummary{100, 7, 20, 8};
  Coordinator c(options_);
  c.Start(now_);
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  Register(c, "worker-0", 10);
  EXPECT_TRUE(absl::IsFailedPrecondition(Ready(c, 1, {100, 6, 20, 8})));
}

// A second process under the name of one that is ready and has asked: it takes the place, and the
// question is forgotten with the one who asked.
TEST_F(CoordinatorTest, Register_ReplacesAWorkerThatHasAsked) {
  Coordinator c(options_);
  c.Start(now_);
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  Settle(c, c.OnStepDone({ShardId(0), -1, 0}, now_));
  Register(c, "worker-0", 10);
  EXPECT_EQ(Ready(c, 1), absl::OkStatus());
  EXPECT_TRUE(Begin(c, 1, 0).bind_workers.empty());
  Register(c, "worker-0", 12);  // incarnation 2
  Register(c, "worker-1", 11);  // incarnation 3
  EXPECT_EQ(Ready(c, 2), absl::OkStatus());
  EXPECT_EQ(Ready(c, 3), absl::OkStatus());
  const CoordinatorActions begun = Begin(c, 3, 0);
  ASSERT_EQ(begun.bind_workers.size(), 1u);
  EXPECT_EQ(begun.bind_workers[0].worker, Incarnation(3));
}

// The data of a worker that was replaced before anyone else was ready counts for nobody.
TEST_F(CoordinatorTest, Ready_WrongDataOfAReplacedWorker_IsForgotten) {
  Coordinator c(options_);
  c.Start(now_);
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  Register(c, "worker-0", 10);
  EXPECT_EQ(Ready(c, 1, {1, 1, 1, 1}), absl::OkStatus());
  Register(c, "worker-0", 12);
  EXPECT_EQ(Ready(c, 2), absl::OkStatus());
}

// The address in an admission is that of the process that is admitted, whoever else used its name.
TEST_F(CoordinatorTest, Register_RefusedShard_DoesNotChangeTheAddress) {
  Coordinator c(options_);
  const CoordinatorActions refused = c.RegisterShard({"shard-0", "elsewhere:1", "beef", 6}, now_);
  EXPECT_EQ(refused.admit_shards.at(0).address, "elsewhere:1");
  const CoordinatorActions admitted =
      Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  EXPECT_EQ(admitted.admit_shards.at(0).address, "here:1");
}

}  // namespace
}  // namespace sdp
