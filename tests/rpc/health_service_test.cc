#include "common/rpc/health_service.h"

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "common/rpc/status_code.h"
#include "proto/health.grpc.pb.h"

namespace sdp {
namespace {

using grpc::health::v1::HealthCheckResponse;
using ::testing::HasSubstr;

class HealthServiceTest : public ::testing::Test {
 protected:
  HealthServiceTest() {
    health_ = std::make_unique<HealthService>(
        HealthService::Checks{.alive = CheckedOn(&loop_, [] { return absl::OkStatus(); }),
                              .ready = CheckedOn(&loop_, [this] { return ready_; })});
    server_ = RpcServer::Start("127.0.0.1:0", {}, {health_.get()}).value();
    channel_ = MakeChannel(server_->address(), {}).value();
  }

  absl::Status Check(const std::string& service, absl::Duration patience = absl::Seconds(20)) {
    const auto stub = grpc::health::v1::Health::NewStub(channel_);
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + patience));
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    const absl::Status status = FromGrpc(stub->Check(&context, request, &response_));
    const auto reason = context.GetServerTrailingMetadata().find(HealthService::kReasonKey);
    reason_ = reason == context.GetServerTrailingMetadata().end()
                  ? ""
                  : std::string(reason->second.data(), reason->second.size());
    return status;
  }

  EventLoop loop_{"role"};
  absl::Status ready_ = absl::UnavailableError("waits for\nshard-1");
  std::unique_ptr<HealthService> health_;
  std::unique_ptr<RpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  HealthCheckResponse response_;
  std::string reason_;
};

TEST_F(HealthServiceTest, UnknownService_IsNotFound_WithThoseThatAreKnown) {
  const absl::Status status = Check("fitness");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("liveness, readiness"));
}

TEST_F(HealthServiceTest, NotReady_SaysWhyInOneLine) {
  ASSERT_EQ(Check("readiness"), absl::OkStatus());
  EXPECT_EQ(response_.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(reason_, "waits for shard-1");
  for (const char* const alive : {"", "liveness"}) {
    ASSERT_EQ(Check(alive), absl::OkStatus());
    EXPECT_EQ(response_.status(), HealthCheckResponse::SERVING);
  }
}

TEST_F(HealthServiceTest, Ready_Serves) {
  loop_.Post([this] { ready_ = absl::OkStatus(); });
  ASSERT_EQ(Check("readiness"), absl::OkStatus());
  EXPECT_EQ(response_.status(), HealthCheckResponse::SERVING);
  EXPECT_EQ(reason_, "");
}

TEST_F(HealthServiceTest, LoopThatHangs_LetsTheDeadlinePass) {
  Mutex mutex;
  bool go_on = false;
  loop_.Post([&] {
    MutexLock lock(&mutex);
    mutex.AwaitWithDeadline(absl::Condition(&go_on), absl::Now() + absl::Seconds(60));
  });
  EXPECT_EQ(Check("liveness", absl::Milliseconds(200)).code(), absl::StatusCode::kDeadlineExceeded);
  {
    MutexLock lock(&mutex);
    go_on = true;
  }
  EXPECT_EQ(Check("liveness"), absl::OkStatus());
}

TEST_F(HealthServiceTest, Watch_IsNotImplemented_AsTheProtocolAllows) {
  const auto stub = grpc::health::v1::Health::NewStub(channel_);
  grpc::ClientContext context;
  const auto stream = stub->Watch(&context, grpc::health::v1::HealthCheckRequest());
  EXPECT_FALSE(stream->Read(&response_));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace sdp
