#include "common/control/heartbeats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "proto/coordinator.grpc.pb.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kDeadline = absl::Seconds(30);

class FakeCoordinator final : public proto::Coordinator::Service {
 public:
  grpc::Status Heartbeat(grpc::ServerContext*, const proto::HeartbeatRequest* request,
                         proto::HeartbeatResponse* response) override {
    MutexLock lock(&mutex_);
    last_ = *request;
    ++count_;
    *response = answer_;
    return status_;
  }
  bool AwaitCount(int count) {
    MutexLock lock(&mutex_);
    auto reached = [this, count]()
                       ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return count_ >= count; };
    return mutex_.AwaitWithDeadline(absl::Condition(&reached), absl::Now() + kDeadline);
  }
  void Answer(const grpc::Status& status, const proto::HeartbeatResponse& answer = {}) {
    MutexLock lock(&mutex_);
    status_ = status;
    answer_ = answer;
  }
  proto::HeartbeatRequest last() {
    MutexLock lock(&mutex_);
    return last_;
  }

 private:
  Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
  proto::HeartbeatResponse answer_ ABSL_GUARDED_BY(mutex_);
  proto::HeartbeatRequest last_ ABSL_GUARDED_BY(mutex_);
};

class HeartbeatsTest : public ::testing::Test {
 protected:
  HeartbeatsTest() {
    auto server = RpcServer::Start("127.0.0.1:0", {}, {&fake_});
    if (!server.ok()) ADD_FAILURE() << server.status();
    server_ = *std::move(server);
    options_.address = server_->address();
    options_.generation = Generation(3);
    options_.interval = absl::Milliseconds(10);
  }

  std::unique_ptr<Heartbeats> Begin(Heartbeats::Member member) {
    return std::make_unique<Heartbeats>(
        MakeChannel(options_.address, {}, Sockets::kOwn).value(), member,
        [] {
          return Heartbeats::State{"step 12: pulling", 123, 45};
        },
        [this](absl::Status status) { ended_.set_value(std::move(status)); }, options_);
  }
  absl::Status Ended() {
    auto future = ended_.get_future();
    if (future.wait_for(absl::ToChronoMilliseconds(kDeadline)) != std::future_status::ready) {
      return absl::UnknownError("the test waited too long");
    }
    return future.get();
  }

  FakeCoordinator fake_;
  std::unique_ptr<RpcServer> server_;
  Heartbeats::Options options_;
  std::promise<absl::Status> ended_;
};

TEST_F(HeartbeatsTest, CoordinatorGone_UnavailableWithAddressAfterItsTime) {
  options_.unreachable_after = absl::Milliseconds(300);
  const auto heartbeats = Begin(ShardId(1));
  ASSERT_TRUE(fake_.AwaitCount(2));
  server_.reset();
  const absl::Status status = Ended();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(options_.address), HasSubstr("has not answered")));
}

TEST_F(HeartbeatsTest, OtherGeneration_EndsAborted) {
  fake_.Answer({grpc::StatusCode::ABORTED, "generation 4"});
  const auto heartbeats = Begin(ShardId(1));
  EXPECT_EQ(Ended().code(), absl::StatusCode::kAborted);
}

TEST_F(HeartbeatsTest, RunOver_EndsWithItsCodeAndReason) {
  const auto heartbeats = Begin(Incarnation(5));
  ASSERT_TRUE(fake_.AwaitCount(1));
  proto::HeartbeatResponse over;
  over.set_over(true);
  over.set_code(static_cast<int>(absl::StatusCode::kCancelled));
  over.set_reason("stopped at step 3: SIGINT");
  fake_.Answer(grpc::Status::OK, over);
  EXPECT_EQ(Ended(), absl::CancelledError("stopped at step 3: SIGINT"));
}

TEST_F(HeartbeatsTest, ShortAbsence_IsSurvived) {
  fake_.Answer({grpc::StatusCode::UNAVAILABLE, "restarting"});
  const auto heartbeats = Begin(Incarnation(5));
  ASSERT_TRUE(fake_.AwaitCount(3));
  proto::HeartbeatResponse over;
  over.set_over(true);
  fake_.Answer(grpc::Status::OK, over);
  EXPECT_TRUE(Ended().ok());
}

// What gRPC says of a call that was open when its server ended: nobody has asked this member to
// stop.
TEST_F(HeartbeatsTest, CutOffByTheEndOfAServer_IsSurvived) {
  fake_.Answer({grpc::StatusCode::CANCELLED, ""});
  const auto heartbeats = Begin(Incarnation(5));
  ASSERT_TRUE(fake_.AwaitCount(3));
  proto::HeartbeatResponse over;
  over.set_over(true);
  fake_.Answer(grpc::Status::OK, over);
  EXPECT_TRUE(Ended().ok());
}

TEST_F(HeartbeatsTest, Request_SaysWhoAndWhat) {
  const auto heartbeats = Begin(Incarnation(5));
  ASSERT_TRUE(fake_.AwaitCount(3));
  EXPECT_EQ(fake_.last().worker(), 5);
  EXPECT_EQ(fake_.last().generation(), 3);
  EXPECT_EQ(fake_.last().phase(), "step 12: pulling");
  EXPECT_EQ(fake_.last().peak_memory_bytes(), 123);
  EXPECT_EQ(fake_.last().allocated_peak_bytes(), 45);
}

TEST_F(HeartbeatsTest, Destroyed_DoesNotWaitForTheInterval) {
  options_.interval = absl::Hours(1);
  const auto begin = absl::Now();
  {
    const auto heartbeats = Begin(Incarnation(5));
    ASSERT_TRUE(fake_.AwaitCount(1));
  }
  EXPECT_LT(absl::Now() - begin, kDeadline);
}

TEST(PeakMemoryTest, OfThisProcess_IsPlausible) {
  EXPECT_GT(PeakMemoryBytes(), int64_t{1} << 20);
  EXPECT_LT(PeakMemoryBytes(), int64_t{1} << 40);
}

}  // namespace
}  // namespace sdp
