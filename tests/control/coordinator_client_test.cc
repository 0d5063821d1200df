#include "common/control/coordinator_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "common/rpc/status_code.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kDeadline = absl::Seconds(30);

// Answers from a script. It runs gRPC's synchronous service, unlike the real one: the wire is the
// contract.
class FakeCoordinator final : public proto::Coordinator::Service {
 public:
  grpc::Status RegisterWorker(grpc::ServerContext*, const proto::RegisterWorkerRequest*,
                              proto::RegisterWorkerResponse* response) override {
    MutexLock lock(&mutex_);
    calls_.push_back("register");
    if (static_cast<int>(calls_.size()) <= not_yet) {
      response->set_waiting_for("1 of 2 shards");
    } else {
      response->mutable_admission()->set_incarnation(7);
      response->mutable_admission()->set_generation(3);
    }
    return register_status;
  }
  grpc::Status BeginStep(grpc::ServerContext*, const proto::BeginStepRequest* request,
                         proto::BeginStepResponse* response) override {
    MutexLock lock(&mutex_);
    calls_.push_back(absl::StrCat("begin ", request->generation(), " ", request->worker(), " ",
                                  request->step(), " ", request->known_plan()));
    if (static_cast<int>(calls_.size()) > not_yet)
      response->mutable_binding()->set_step(request->step());
    return grpc::Status::OK;
  }
  grpc::Status ReportReduced(grpc::ServerContext*, const proto::ReducedReport* report,
                             proto::Ack*) override {
    return Take(absl::StrCat("reduced ", report->step()));
  }
  grpc::Status ReportStepDone(grpc::ServerContext*, const proto::StepDoneReport* report,
                              proto::Ack*) override {
    return Take(absl::StrCat("done ", report->step()));
  }

  std::vector<std::string> calls() {
    MutexLock lock(&mutex_);
    return calls_;
  }

  // Set before the server starts.
  int not_yet = 0;  // so many calls are answered without an answer
  grpc::Status register_status;
  int failing_reports = 0;
  grpc::Status report_status;

 private:
  grpc::Status Take(std::string call) {
    MutexLock lock(&mutex_);
    calls_.push_back(std::move(call));
    return failing_reports-- > 0 ? report_status : grpc::Status::OK;
  }

  Mutex mutex_;
  std::vector<std::string> calls_ ABSL_GUARDED_BY(mutex_);
};

class CoordinatorClientTest : public ::testing::Test {
 protected:
  ~CoordinatorClientTest() override { loop_.Stop(); }

  void Serve() {
    auto server = RpcServer::Start("127.0.0.1:0", {}, {&fake_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    options_.address = server_->address();
    Connect();
  }
  // A port on which nobody listens: one that was free a moment ago.
  void ServeNobody() {
    {
      auto server = RpcServer::Start("127.0.0.1:0", {}, {&fake_});
      ASSERT_TRUE(server.ok()) << server.status();
      options_.address = (*server)->address();
    }
    Connect();
  }
  void Connect() {
    client_ = std::make_unique<CoordinatorClient>(
        MakeChannel(options_.address, {}, Sockets::kOwn).value(), &loop_, options_);
  }

  // Runs `start`(done) on the loop and returns what `done` gets.
  template <typename Result, typename Start>
  Result Await(Start start) {
    auto result = std::make_shared<std::promise<Result>>();
    loop_.Post(
        [start, result] { start([result](Result got) { result->set_value(std::move(got)); }); });
    auto future = result->get_future();
    if (future.wait_for(absl::ToChronoMilliseconds(kDeadline)) != std::future_status::ready) {
      return Result(absl::DeadlineExceededError("the test waited too long"));
    }
    return future.get();
  }
  absl::StatusOr<WorkerAdmission> Register() {
    return Await<absl::StatusOr<WorkerAdmission>>([this](auto done) {
      client_->RegisterWorker({"worker-0", "hash", 1}, done);
    });
  }
  absl::Status Reported() {
    return Await<absl::Status>([this](auto done) { client_->WhenReported(done); });
  }

  FakeCoordinator fake_;
  std::unique_ptr<RpcServer> server_;
  EventLoop loop_{"test"};
  CoordinatorClient::Options options_;
  std::unique_ptr<CoordinatorClient> client_;  // before the loop is gone
};

TEST_F(CoordinatorClientTest, Register_NobodyThere_UnavailableAfterItsTimeWithAddressAndAttempts) {
  options_.unreachable_after = absl::Milliseconds(700);
  ServeNobody();
  const absl::Time begin = absl::Now();
  const absl::Status status = Register().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(
      std::string(status.message()),
      AllOf(HasSubstr("register worker-0"), HasSubstr(options_.address), HasSubstr("attempts")));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));  // one attempt can be slow on a busy machine
}

TEST_F(CoordinatorClientTest, Register_Refused_NotRepeated) {
  fake_.register_status = {grpc::StatusCode::FAILED_PRECONDITION,
                           "worker-0 has config hash 1, this run has 2"};
  Serve();
  const absl::Status status = Register().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("config hash 1, this run has 2"));
  EXPECT_EQ(fake_.calls().size(), 1u);
}

TEST_F(CoordinatorClientTest, Report_Refused_EndsReportingOnce) {
  fake_.failing_reports = 1;
  fake_.report_status = {grpc::StatusCode::ABORTED, "generation 2"};
  std::promise<absl::Status> error;
  options_.on_report_error = [&error](absl::Status status) { error.set_value(std::move(status)); };
  Serve();
  loop_.Post([this] {
    client_->ReportReduced({ShardId(0), 1, {}, {}});
    client_->ReportStepDone({ShardId(0), 1, 0});
  });
  EXPECT_EQ(Reported().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(error.get_future().get().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Reported().code(), absl::StatusCode::kAborted);  // final
  EXPECT_THAT(fake_.calls(), ElementsAre("reduced 1"));
}

TEST_F(CoordinatorClientTest, Register_NotKnownYet_AsksAgainAndTellsWhatIsWaitedFor) {
  fake_.not_yet = 2;
  std::vector<std::string> waits;
  options_.on_waiting = [&waits](const std::string& what) { waits.push_back(what); };
  Serve();
  const auto admission = Register();
  ASSERT_TRUE(admission.ok()) << admission.status();
  EXPECT_EQ(admission->incarnation, Incarnation(7));
  EXPECT_EQ(fake_.calls().size(), 3u);
  EXPECT_THAT(waits, ElementsAre("1 of 2 shards", "1 of 2 shards"));
}

TEST_F(CoordinatorClientTest, BeginStep_AfterAdmission_CarriesItsGeneration) {
  Serve();
  ASSERT_TRUE(Register().ok());
  const auto binding = Await<absl::StatusOr<WorkerBinding>>(
      [this](auto done) { client_->BeginStep(Incarnation(7), 12, -1, done); });
  ASSERT_TRUE(binding.ok()) << binding.status();
  EXPECT_EQ(binding->step, 12);
  EXPECT_THAT(fake_.calls(), ElementsAre("register", "begin 3 7 12 -1"));
}

TEST_F(CoordinatorClientTest, Reports_ServerBusyForAWhile_RepeatedInOrder) {
  fake_.failing_reports = 2;
  fake_.report_status = {grpc::StatusCode::UNAVAILABLE, "busy"};
  Serve();
  loop_.Post([this] {
    client_->ReportReduced({ShardId(0), 1, {}, {}});
    client_->ReportStepDone({ShardId(0), 1, 0});
    client_->ReportReduced({ShardId(0), 2, {}, {}});
  });
  EXPECT_TRUE(Reported().ok());
  EXPECT_THAT(fake_.calls(),
              ElementsAre("reduced 1", "reduced 1", "reduced 1", "done 1", "reduced 2"));
}

TEST_F(CoordinatorClientTest, WhenReported_NothingToReport_OkAtOnce) {
  Serve();
  EXPECT_TRUE(Reported().ok());
}

TEST_F(CoordinatorClientTest, Destroyed_WhileOutOfReach_NoCallbackComes) {
  ServeNobody();
  bool called = false;
  std::promise<void> destroyed;
  loop_.Post([&] {
    client_->RegisterWorker({"worker-0", "hash", 1}, [&called](const auto&) { called = true; });
    client_.reset();
    destroyed.set_value();
  });
  destroyed.get_future().get();
  loop_.Stop();
  EXPECT_FALSE(called);
}

}  // namespace
}  // namespace sdp
