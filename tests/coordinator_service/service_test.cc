#include "server/coordinator/service/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_code.h"
#include "proto/coordinator.grpc.pb.h"
#include "tests/coordinator_service/fixture.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const DataSummary kData = {100, 1, 0, 0};

// One raw call, for what a proper member never sends.
template <typename Request, typename Response>
absl::Status Call(const std::string& address,
                  grpc::Status (proto::Coordinator::Stub::*method)(grpc::ClientContext*,
                                                                   const Request&, Response*),
                  const Request& request, Response* response) {
  const auto stub = proto::Coordinator::NewStub(MakeChannel(address, {}).value());
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kTestDeadline));
  return FromGrpc((stub.get()->*method)(&context, request, response));
}

proto::RunStatus GetStatus(const std::string& address) {
  proto::RunStatus status;
  EXPECT_TRUE(
      Call(address, &proto::Coordinator::Stub::GetStatus, proto::GetStatusRequest(), &status).ok());
  return status;
}

class CoordinatorServiceTest : public ::testing::Test {
 protected:
  // Admits the shard; it has its start values.
  void StartShard() {
    const auto admission = shard_.RegisterShard("shard-0", fake_shard_.address());
    ASSERT_TRUE(admission.ok()) << admission.status();
    EXPECT_EQ(admission->shards, 1);
    ReportShard(-1);
  }
  void ReportShard(Step step) {
    EXPECT_TRUE(
        shard_
            .Report([step](CoordinatorClient& client) {
              if (step >= 0)
                client.ReportReduced(
                    {ShardId(0), step, std::vector<double>(TestCoordinator::kFragments, 0.5), {}});
              client.ReportStepDone({.shard = ShardId(0),
                                     .step = step,
                                     .peak_memory_bytes = 2000 + step,
                                     .allocated_peak_bytes = 1000 + step});
            })
            .ok());
  }
  void StartWorkers() {
    for (size_t i = 0; i < 2; ++i) {
      const auto admission = workers_[i]->RegisterWorker("worker-" + std::to_string(i));
      ASSERT_TRUE(admission.ok()) << admission.status();
      EXPECT_THAT(admission->shards, ElementsAre(fake_shard_.address()));
      incarnations_.push_back(admission->incarnation);
      ASSERT_TRUE(workers_[i]->Ready(incarnations_[i], kData).ok());
    }
  }
  void ReportWorker(size_t i, Step step) {
    StepReport report;
    report.worker = incarnations_[i];
    report.step = step;
    report.loss_sum = 8;
    report.terms = 4;
    report.peak_memory_bytes = int64_t{5} << 20;
    report.allocated_peak_bytes = int64_t{3} << 20;
    report.ledger.peak = {1, 2, int64_t{3} << 20, 4, 5};
    EXPECT_TRUE(workers_[i]
                    ->Report([report](CoordinatorClient& client) { client.ReportStep(report); })
                    .ok());
  }
  std::unique_ptr<Heartbeats> Beat(Heartbeats::Member member, std::promise<absl::Status>* ended) {
    Heartbeats::Options options;
    options.address = coordinator_.address();
    options.generation = Generation(1);
    options.interval = absl::Milliseconds(20);
    return std::make_unique<Heartbeats>(
        MakeChannel(coordinator_.address(), {}, Sockets::kOwn).value(), member,
        [] { return Heartbeats::State(); },
        [ended](absl::Status status) { ended->set_value(std::move(status)); }, options);
  }

  FakeShard fake_shard_;
  TestCoordinator coordinator_;
  Member shard_{coordinator_.address()};
  std::vector<std::unique_ptr<Member>> workers_ = MakeWorkers();
  std::vector<Incarnation> incarnations_;

 private:
  std::vector<std::unique_ptr<Member>> MakeWorkers() {
    std::vector<std::unique_ptr<Member>> workers;
    // The second one's long polls are short, so that it has to ask again.
    workers.push_back(std::make_unique<Member>(coordinator_.address()));
    workers.push_back(std::make_unique<Member>(coordinator_.address(), absl::Milliseconds(100)));
    return workers;
  }
};

// A process that takes a run up listens before it has read who its members are. To a member
// anything but "come again" would be the end of its part in the run.
TEST(CoordinatorBeginsTest, BeforeItKnowsItsRun_MembersAreAskedToComeAgain) {
  TestCoordinator coordinator(nullptr, TestCoordinator::Begin::kLater);
  using Stub = proto::Coordinator::Stub;
  const auto beat = [&](bool worker) {
    proto::HeartbeatRequest request;
    request.set_generation(1);
    if (worker) {
      request.set_worker(1);
    } else {
      request.set_shard(0);
    }
    proto::HeartbeatResponse response;
    return Call(coordinator.address(), &Stub::Heartbeat, request, &response);
  };
  EXPECT_TRUE(absl::IsUnavailable(beat(true))) << beat(true);
  EXPECT_TRUE(absl::IsUnavailable(beat(false))) << beat(false);
  proto::BeginStepRequest step;
  step.set_generation(1);
  step.set_worker(1);
  proto::BeginStepResponse binding;
  const absl::Status asked = Call(coordinator.address(), &Stub::BeginStep, step, &binding);
  EXPECT_TRUE(absl::IsUnavailable(asked)) << asked;
  proto::RegisterWorkerRequest registration;
  registration.set_name("worker-0");
  registration.set_config_hash(kConfigHash);
  registration.set_instance(1);
  proto::RegisterWorkerResponse admission;
  const absl::Status early =
      Call(coordinator.address(), &Stub::RegisterWorker, registration, &admission);
  EXPECT_TRUE(absl::IsUnavailable(early)) << early;
  coordinator.service().Start();
  EXPECT_TRUE(absl::IsAborted(beat(true))) << beat(true);  // of a generation that is not this one
  FakeShard fake;
  EXPECT_TRUE(Member(coordinator.address()).RegisterShard("shard-0", fake.address()).ok());
  EXPECT_TRUE(Member(coordinator.address()).RegisterWorker("worker-0").ok());
}

TEST_F(CoordinatorServiceTest, Register_OtherConfig_FailedPreconditionWithBothHashes) {
  const absl::Status worker =
      workers_[0]->RegisterWorker("worker-0", 1, "00000000000000bb").status();
  EXPECT_EQ(worker.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(
      std::string(worker.message()),
      AllOf(HasSubstr("worker-0 has config hash 00000000000000bb"), HasSubstr(kConfigHash)));
  const absl::Status shard =
      shard_.RegisterShard("shard-0", fake_shard_.address(), 1, "00000000000000bb").status();
  EXPECT_EQ(shard.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(shard.message()), HasSubstr("config hash"));
}

TEST_F(CoordinatorServiceTest, Register_WhileItTrains_IsLetIn_LeavesAndIsNobodyThen) {
  StartShard();
  StartWorkers();
  Member third(coordinator_.address());
  const auto admission = third.RegisterWorker("worker-2");
  ASSERT_TRUE(admission.ok()) << admission.status();
  proto::LeaveRequest leave;
  leave.set_generation(1);
  leave.set_worker(admission->incarnation.value());
  proto::Ack ack;
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(Call(coordinator_.address(), &proto::Coordinator::Stub::Leave, leave, &ack),
              absl::OkStatus());
  }
  leave.set_worker(99);
  EXPECT_EQ(Call(coordinator_.address(), &proto::Coordinator::Stub::Leave, leave, &ack).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(CoordinatorServiceTest, Register_ShardThatCannotBeCalled_EndsTheRun) {
  const auto admission =
      shard_.RegisterShard("shard-0", "10.1.2.3:99");  // plaintext to elsewhere, without --insecure
  EXPECT_EQ(admission.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(coordinator_.Ended().message()),
              AllOf(HasSubstr("shard-0"), HasSubstr("10.1.2.3:99")));
}

TEST_F(CoordinatorServiceTest, Ready_OtherData_FailedPrecondition) {
  StartShard();
  const auto first = workers_[0]->RegisterWorker("worker-0"),
             second = workers_[1]->RegisterWorker("worker-1");
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_TRUE(workers_[0]->Ready(first->incarnation, kData).ok());
  const absl::Status status = workers_[1]->Ready(second->incarnation, {100, 2, 0, 0});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("worker-1 has other data"));
}

TEST_F(CoordinatorServiceTest, Requests_OtherGenerationOrStranger_Refused) {
  StartShard();
  proto::StepDoneReport report;
  report.set_generation(2);
  proto::Ack ack;
  EXPECT_EQ(
      Call(coordinator_.address(), &proto::Coordinator::Stub::ReportStepDone, report, &ack).code(),
      absl::StatusCode::kAborted);
  report.set_generation(1);
  report.set_shard(5);
  EXPECT_EQ(
      Call(coordinator_.address(), &proto::Coordinator::Stub::ReportStepDone, report, &ack).code(),
      absl::StatusCode::kFailedPrecondition);
  proto::BeginStepRequest begin;
  begin.set_generation(1);
  begin.set_worker(99);
  proto::BeginStepResponse binding;
  EXPECT_EQ(
      Call(coordinator_.address(), &proto::Coordinator::Stub::BeginStep, begin, &binding).code(),
      absl::StatusCode::kFailedPrecondition);
  proto::NotFinite lie;
  lie.set_generation(1);
  lie.set_worker(99);
  lie.set_what("everything");
  EXPECT_EQ(
      Call(coordinator_.address(), &proto::Coordinator::Stub::ReportNotFinite, lie, &ack).code(),
      absl::StatusCode::kFailedPrecondition);
  proto::ReadyRequest ready;
  ready.set_generation(1);
  ready.set_worker(99);
  EXPECT_EQ(Call(coordinator_.address(), &proto::Coordinator::Stub::Ready, ready, &ack).code(),
            absl::StatusCode::kFailedPrecondition);
  proto::HeartbeatRequest beat;
  beat.set_generation(1);
  proto::HeartbeatResponse answer;
  EXPECT_EQ(
      Call(coordinator_.address(), &proto::Coordinator::Stub::Heartbeat, beat, &answer).code(),
      absl::StatusCode::kOk);
  beat.set_worker(99);
  EXPECT_EQ(
      Call(coordinator_.address(), &proto::Coordinator::Stub::Heartbeat, beat, &answer).code(),
      absl::StatusCode::kFailedPrecondition);
}

TEST_F(CoordinatorServiceTest, StoreFails_EndsTheRunWithItsErrorAndTellsEveryone) {
  StartShard();
  std::promise<absl::Status> ended;
  const auto heartbeats = Beat(ShardId(0), &ended);
  coordinator_.store().FailFromNowOn(absl::UnavailableError("write state.db: disk full"));
  // The error must not look like a connection that is worth another try.
  EXPECT_EQ(workers_[0]->RegisterWorker("worker-0").status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ended.get_future().get(), absl::UnavailableError("write state.db: disk full"));
  EXPECT_EQ(coordinator_.Ended(), absl::UnavailableError("write state.db: disk full"));
}

TEST_F(CoordinatorServiceTest, ShardRefusesABinding_EndsTheRunNamed) {
  StartShard();
  StartWorkers();
  fake_shard_.Refuse({grpc::StatusCode::INVALID_ARGUMENT, "no such unit"});
  const auto binding = workers_[0]->AskStep(incarnations_[0], 0);
  EXPECT_THAT(std::string(coordinator_.Ended().message()),
              AllOf(HasSubstr("shard-0"), HasSubstr("no such unit")));
}

TEST_F(CoordinatorServiceTest, NotFinite_EndsTheRunWithStepAndWorker) {
  StartShard();
  StartWorkers();
  NotFiniteReport report;
  report.member = "worker-1";
  report.what = "the loss";
  report.worker = incarnations_[1];
  EXPECT_TRUE(workers_[1]
                  ->Report([&report](CoordinatorClient& client) { client.ReportNotFinite(report); })
                  .ok());
  EXPECT_THAT(std::string(coordinator_.Ended().message()),
              HasSubstr("step 0: the loss of worker-1 is not finite"));
}

TEST_F(CoordinatorServiceTest, Stop_ReachesHeartbeatsAndPendingQuestions) {
  StartShard();
  const auto admission = workers_[0]->RegisterWorker("worker-0");
  ASSERT_TRUE(admission.ok()) << admission.status();
  ASSERT_TRUE(workers_[0]->Ready(admission->incarnation, kData).ok());
  auto question = workers_[0]->AskStep(admission->incarnation, 0);
  std::promise<absl::Status> worker_ended, shard_ended;
  const auto worker = Beat(admission->incarnation, &worker_ended);
  const auto shard = Beat(ShardId(0), &shard_ended);
  proto::StopRequest stop;
  stop.set_reason("Ctrl-C");
  proto::Ack ack;
  EXPECT_TRUE(Call(coordinator_.address(), &proto::Coordinator::Stub::Stop, stop, &ack).ok());
  for (const absl::Status& status :
       {worker_ended.get_future().get(), shard_ended.get_future().get(), question.get().status(),
        coordinator_.Ended()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("Ctrl-C"));
  }
}

// The generation is over, and the next one has not begun: it is to know.
TEST_F(CoordinatorServiceTest, Stop_OnceAShardIsLost_EndsTheRunAllTheSame) {
  StartShard();
  StartWorkers();
  coordinator_.store().Hold();
  const auto asked = workers_[0]->AskStep(incarnations_[0], 0);
  ASSERT_TRUE(coordinator_.store().AwaitHeld());  // the generation waits for this record
  proto::DrainRequest gone;
  gone.set_name("shard-0");
  gone.set_gone(true);
  proto::Ack ack;
  EXPECT_EQ(Call(coordinator_.address(), &proto::Coordinator::Stub::Drain, gone, &ack),
            absl::OkStatus());
  coordinator_.service().Stop("interrupted");
  coordinator_.store().LetGo();
  const absl::Status ended = coordinator_.Ended();
  EXPECT_TRUE(absl::IsCancelled(ended)) << ended;
  EXPECT_THAT(std::string(ended.message()), HasSubstr("interrupted"));
}

TEST_F(CoordinatorServiceTest, RegisterWorker_NoShardYet_IsAskedAgainUntilThereIs) {
  auto worker =
      std::async(std::launch::async, [this] { return workers_[1]->RegisterWorker("worker-1"); });
  EXPECT_TRUE(workers_[1]->AwaitWaits(2));  // two answers without admission: it was asked again
  EXPECT_EQ(GetStatus(coordinator_.address()).phase(), "waiting for shards");
  StartShard();
  const auto admission = worker.get();
  ASSERT_TRUE(admission.ok()) << admission.status();
  EXPECT_THAT(admission->coverage, ElementsAre(1, 1));
}

TEST_F(CoordinatorServiceTest, Register_Again_SameInstanceIsTheSameLifeAndAnotherIsANewOne) {
  StartShard();
  Member other(coordinator_.address());
  const auto first = workers_[0]->RegisterWorker("worker-0", 1);
  const auto again = other.RegisterWorker("worker-0", 1);
  const auto second = other.RegisterWorker("worker-0", 2);
  ASSERT_TRUE(first.ok() && again.ok() && second.ok());
  EXPECT_EQ(first->incarnation, again->incarnation);
  EXPECT_GT(second->incarnation, first->incarnation);
  EXPECT_TRUE(shard_.RegisterShard("shard-0", fake_shard_.address(), 1).ok());
  const auto next = shard_.RegisterShard("shard-0", fake_shard_.address(), 2);
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->generation, Generation(2));
}

TEST_F(CoordinatorServiceTest, BeginStep_TwoStepsAhead_WaitsForTheCommitAndIsAskedAgain) {
  StartShard();
  StartWorkers();
  ASSERT_TRUE(workers_[1]->BeginStep(incarnations_[1], 0).ok());
  ASSERT_TRUE(workers_[1]->BeginStep(incarnations_[1], 1).ok());
  auto question = workers_[1]->AskStep(incarnations_[1], 2);
  EXPECT_EQ(question.wait_for(std::chrono::milliseconds(300)),
            std::future_status::timeout);  // several polls
  ReportShard(0);
  const auto binding = question.get();
  ASSERT_TRUE(binding.ok()) << binding.status();
  EXPECT_EQ(binding->step, 2);
  EXPECT_TRUE(binding->closing);
}

// With the step that they are of, not with a heartbeat some time later.
TEST_F(CoordinatorServiceTest, StepDone_BringsTheShardsPeaks_IntoTheStepsMetrics) {
  StartShard();
  StartWorkers();
  for (size_t i = 0; i < 2; ++i) ASSERT_TRUE(workers_[i]->BeginStep(incarnations_[i], 0).ok());
  EXPECT_TRUE(fake_shard_.AwaitCall("bind 0"));
  for (size_t i = 0; i < 2; ++i) ReportWorker(i, 0);
  ReportShard(0);
  const proto::RunStatus status = GetStatus(coordinator_.address());
  ASSERT_EQ(status.members(0).name(), "shard-0");
  EXPECT_EQ(status.members(0).peak_memory_bytes(), 2000);
  EXPECT_EQ(status.members(0).allocated_peak_bytes(), 1000);
  const auto step = nlohmann::json::parse(ReadAll(coordinator_.file("metrics.jsonl")));
  EXPECT_EQ(step["max_shard_memory_bytes"], 2000);
  EXPECT_EQ(step["max_shard_allocated_bytes"], 1000);
}

TEST_F(CoordinatorServiceTest, Status_HasViewTimesTotalsUnitsAndWaits) {
  StartShard();
  StartWorkers();
  for (size_t i = 0; i < 2; ++i) ASSERT_TRUE(workers_[i]->BeginStep(incarnations_[i], 0).ok());
  EXPECT_TRUE(fake_shard_.AwaitCall("bind 0"));
  for (size_t i = 0; i < 2; ++i) ReportWorker(i, 0);
  ReportShard(0);
  proto::GetStatusRequest request;
  request.set_units(true);
  request.set_max_workers(1);
  proto::RunStatus status;
  ASSERT_TRUE(
      Call(coordinator_.address(), &proto::Coordinator::Stub::GetStatus, request, &status).ok());
  EXPECT_EQ(status.members_size(), 2);
  EXPECT_EQ(status.members_left_out(), 1);
  EXPECT_EQ(status.all_workers().states().at("training"), 2);
  EXPECT_GT(status.view(), 0);
  EXPECT_EQ(status.view_step(), 0);
  EXPECT_THAT(status.view_reason(), HasSubstr("worker-1"));
  EXPECT_EQ(status.totals().steps(), 1);
  EXPECT_GT(status.totals().samples(), 0);
  EXPECT_EQ(status.totals().events().at("ready"), 2);
  EXPECT_GT(status.step_times().elapsed_sec(), 0);
  EXPECT_EQ(status.units_size(), status.units_in_all());
  EXPECT_EQ(status.units(0).holders(), 2);
  EXPECT_THAT(status.units(0).shards(), ElementsAre(0));
  ASSERT_GT(status.waits_size(), 0);
  EXPECT_EQ(status.waits(0).who(), "the run");
  EXPECT_THAT(status.waits(0).for_what(), HasSubstr("step 1 waits for"));
}

TEST_F(CoordinatorServiceTest, Heartbeat_TellsWhatAMemberWaitsFor_AndWhereItIsAsked) {
  StartShard();
  StartWorkers();
  proto::HeartbeatRequest request;
  request.set_generation(1);
  request.set_worker(incarnations_[0].value());
  request.set_phase("step 0: waiting for 3 fragments");
  request.set_waits(true);
  request.set_memory_bytes(300);
  request.set_allocated_bytes(200);
  request.set_address("127.0.0.1:7");
  request.set_metrics_address("127.0.0.1:8");
  proto::HeartbeatResponse response;
  ASSERT_TRUE(
      Call(coordinator_.address(), &proto::Coordinator::Stub::Heartbeat, request, &response).ok());
  const proto::RunStatus status = GetStatus(coordinator_.address());
  const proto::RunStatus::Member& member = status.members(1);
  ASSERT_EQ(member.name(), "worker-0");
  EXPECT_TRUE(member.waits());
  EXPECT_EQ(member.memory_bytes(), 300);
  EXPECT_EQ(member.allocated_bytes(), 200);
  EXPECT_EQ(member.address(), "127.0.0.1:7");
  EXPECT_EQ(member.metrics_address(), "127.0.0.1:8");
  const proto::Wait& wait = *status.waits().rbegin();
  EXPECT_EQ(wait.who(), "worker-0");
  EXPECT_EQ(wait.for_what(), "step 0: waiting for 3 fragments");

  proto::DrainRequest gone;
  gone.set_name("worker-0");
  gone.set_gone(true);
  proto::Ack ack;
  ASSERT_TRUE(Call(coordinator_.address(), &proto::Coordinator::Stub::Drain, gone, &ack).ok());
  const proto::RunStatus without = GetStatus(coordinator_.address());
  for (const proto::Wait& other : without.waits()) EXPECT_NE(other.who(), "worker-0");
}

TEST_F(CoordinatorServiceTest, Ledger_IsInStatusAndMetrics) {
  StartShard();
  StartWorkers();
  for (size_t i = 0; i < 2; ++i) ASSERT_TRUE(workers_[i]->BeginStep(incarnations_[i], 0).ok());
  EXPECT_TRUE(fake_shard_.AwaitCall("bind 0"));
  for (size_t i = 0; i < 2; ++i) ReportWorker(i, 0);
  ReportShard(0);
  const proto::RunStatus status = GetStatus(coordinator_.address());
  ASSERT_EQ(status.members(1).name(), "worker-0");
  EXPECT_EQ(status.members(1).ledger().peak().activations(), int64_t{3} << 20);
  EXPECT_EQ(status.members(1).ledger().peak().communication(), 4);
  const auto step = nlohmann::json::parse(ReadAll(coordinator_.file("metrics.jsonl")));
  EXPECT_EQ(step["largest_worker"]["worker"], "worker-0");
  EXPECT_EQ(step["largest_worker"]["peak_bytes"]["gradients"], 2);
}

TEST_F(CoordinatorServiceTest, WholeRun_LeavesMetricsPlanLinesCheckpointAndSummary) {
  std::filesystem::create_directories(coordinator_.file("checkpoints/step-2"));  // as shards do
  StartShard();
  StartWorkers();
  proto::HeartbeatRequest beat;
  beat.set_generation(1);
  beat.set_shard(0);
  beat.set_phase("waiting for rain");
  beat.set_peak_memory_bytes(int64_t{9} << 20);
  beat.set_allocated_peak_bytes(int64_t{7} << 20);
  proto::HeartbeatResponse answer;
  EXPECT_TRUE(
      Call(coordinator_.address(), &proto::Coordinator::Stub::Heartbeat, beat, &answer).ok());
  EXPECT_FALSE(answer.over());
  for (Step step = 0; step < 2; ++step) {
    for (size_t i = 0; i < 2; ++i) {
      const auto binding = workers_[i]->BeginStep(incarnations_[i], step);
      ASSERT_TRUE(binding.ok()) << binding.status();
      EXPECT_EQ(binding->portion,
                (std::vector<PositionRange>{{4 * step + 2 * static_cast<int64_t>(i), 2}}));
      ASSERT_NE(binding->units, nullptr);
      EXPECT_EQ(binding->units->size(), 2u);
    }
    EXPECT_TRUE(fake_shard_.AwaitCall("bind " + std::to_string(step)));
    ReportWorker(0, step);
    ReportWorker(1, step);
    ReportShard(step);
  }
  const proto::RunStatus status = GetStatus(coordinator_.address());
  EXPECT_EQ(status.phase(), "training");
  EXPECT_EQ(status.committed(), 1);
  EXPECT_EQ(status.loss(), 2);
  EXPECT_EQ(status.samples_dealt(), 8);
  EXPECT_EQ(status.train_samples(), 100);
  ASSERT_EQ(status.members_size(), 3);
  EXPECT_THAT(status.events(), Contains(HasSubstr("\"event\":\"replan\"")));
  EXPECT_EQ(status.members(0).name(), "shard-0");
  EXPECT_EQ(status.members(0).phase(), "waiting for rain");
  EXPECT_EQ(status.members(0).peak_memory_bytes(), int64_t{9} << 20);
  EXPECT_EQ(status.members(1).peak_memory_bytes(), int64_t{5} << 20);
  EXPECT_EQ(status.members(0).allocated_peak_bytes(), int64_t{7} << 20);
  EXPECT_EQ(status.members(1).allocated_peak_bytes(), int64_t{3} << 20);

  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(workers_[i]->BeginStep(incarnations_[i], 2)->closing);
  EXPECT_TRUE(fake_shard_.AwaitCall("closing 2"));
  EXPECT_TRUE(shard_
                  .Report([](CoordinatorClient& client) {
                    client.ReportStateHashes({ShardId(0), 2, {1, 2}});
                    client.ReportCheckpoint({ShardId(0), 2, "", {"a.safetensors", 3, {}}});
                  })
                  .ok());
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(workers_[i]->BeginStep(incarnations_[i], 3)->finished);
  EXPECT_TRUE(fake_shard_.AwaitCall("finish"));
  EXPECT_TRUE(coordinator_.Ended().ok()) << coordinator_.Ended();

  const std::vector<std::string> metrics =
      absl::StrSplit(ReadAll(coordinator_.file("metrics.jsonl")), '\n', absl::SkipEmpty());
  ASSERT_EQ(metrics.size(), 3u);
  EXPECT_EQ(nlohmann::json::parse(metrics[0])["loss"], 2);
  const std::vector<std::string> events =
      absl::StrSplit(ReadAll(coordinator_.file("events.jsonl")), '\n', absl::SkipEmpty());
  std::vector<std::string> kinds;
  for (const std::string& event : events) kinds.push_back(nlohmann::json::parse(event)["event"]);
  EXPECT_THAT(
      kinds, ElementsAre("start", "join", "ready", "join", "ready", "replan", "checkpoint", "end"));
  EXPECT_EQ(nlohmann::json::parse(metrics[1])["gradient_norm"], 1);
  EXPECT_TRUE(nlohmann::json::parse(metrics[2]).contains("state_hash"));
  const auto manifest =
      nlohmann::json::parse(ReadAll(coordinator_.file("checkpoints/step-2/manifest.json")));
  EXPECT_EQ(manifest["cursor"], 8);
  EXPECT_EQ(manifest["files"][0]["name"], "a.safetensors");
  EXPECT_EQ(nlohmann::json::parse(ReadAll(coordinator_.file("plan.json")))["workers"].size(), 2u);
  EXPECT_THAT(coordinator_.lines(),
              ElementsAre(StartsWith("step 0/2  loss 2.000"), StartsWith("step 1/2  loss 2.000"),
                          StartsWith("step 2/2")));
  EXPECT_THAT(coordinator_.summary(),
              AllOf(HasSubstr("trained 2 steps"), HasSubstr("shard-0 9.0 MiB"),
                    HasSubstr("worker-1 5.0 MiB")));
}

}  // namespace
}  // namespace sdp
