#include "common/rpc/retrying_calls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "proto/shard.pb.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;
using Reply = absl::StatusOr<proto::ShardStatus>;

constexpr absl::Duration kDeadline = absl::Seconds(30);

// A method that answers with the given codes in turn, at once and on the calling thread; the last
// one for ever.
struct FakeMethod {
  std::vector<grpc::StatusCode> codes;
  int calls = 0;

  void operator()(grpc::ClientContext*, const proto::FinishRequest* request,
                  proto::ShardStatus* response, std::function<void(grpc::Status)> done) {
    const size_t index = std::min(static_cast<size_t>(calls++), codes.size() - 1);
    response->set_generation(request->generation());
    done(grpc::Status(codes[index], "fake"));
  }
};

class RetryingCallsTest : public ::testing::Test {
 protected:
  Reply Run(FakeMethod& method, RetryOptions options) {
    options.what = "fake call";
    std::promise<Reply> result;
    proto::FinishRequest request;
    request.set_generation(5);
    calls_->Start<proto::FinishRequest, proto::ShardStatus>(
        request, options, std::ref(method),
        [&](Reply reply) { result.set_value(std::move(reply)); });
    auto future = result.get_future();
    if (future.wait_for(absl::ToChronoMilliseconds(kDeadline)) != std::future_status::ready) {
      ADD_FAILURE() << "no outcome";
      loop_.Stop();
      return absl::DeadlineExceededError("test");
    }
    return future.get();
  }
  RetryOptions Quick() {
    RetryOptions options;
    options.first_pause = absl::Milliseconds(1);
    options.max_pause = absl::Milliseconds(4);
    return options;
  }

  EventLoop loop_{"test"};
  std::unique_ptr<RetryingCalls> calls_ = std::make_unique<RetryingCalls>(&loop_);

  void TearDown() override { loop_.Stop(); }
};

TEST_F(RetryingCallsTest, PermanentError_IsReportedAtOnceWithWhatWasDone) {
  FakeMethod method{{grpc::StatusCode::FAILED_PRECONDITION}};
  const Reply reply = Run(method, Quick());
  EXPECT_TRUE(absl::IsFailedPrecondition(reply.status()));
  EXPECT_EQ(reply.status().message(), "fake call: fake");
  EXPECT_EQ(method.calls, 1);
}

TEST_F(RetryingCallsTest, GivenUp_SaysWhatWasTried) {
  FakeMethod method{{grpc::StatusCode::UNAVAILABLE}};
  RetryOptions options = Quick();
  options.give_up_after = absl::Milliseconds(50);
  const Reply reply = Run(method, options);
  EXPECT_TRUE(absl::IsUnavailable(reply.status()));
  EXPECT_THAT(reply.status().message(), HasSubstr("fake call: given up after"));
  EXPECT_THAT(reply.status().message(), HasSubstr("attempts"));
  EXPECT_GT(method.calls, 3);
}

TEST_F(RetryingCallsTest, TransientErrors_AreRepeatedUntilSuccess) {
  FakeMethod method{{grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::DEADLINE_EXCEEDED,
                     grpc::StatusCode::RESOURCE_EXHAUSTED, grpc::StatusCode::OK}};
  const Reply reply = Run(method, Quick());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->generation(), 5);
  EXPECT_EQ(method.calls, 4);
}

TEST_F(RetryingCallsTest, Cancelled_ReportsNothing) {
  FakeMethod method{{grpc::StatusCode::UNAVAILABLE}};
  RetryOptions options;
  options.first_pause = absl::Milliseconds(20);
  calls_->Start<proto::FinishRequest, proto::ShardStatus>({}, options, std::ref(method),
                                                          [](const Reply&) { FAIL(); });
  std::promise<void> done;
  loop_.Post([&] {
    calls_ = nullptr;
    // Behind the time of the next attempt, which must not happen.
    loop_.PostAt(absl::Now() + absl::Milliseconds(60), [&] { done.set_value(); });
  });
  ASSERT_EQ(done.get_future().wait_for(std::chrono::seconds(30)), std::future_status::ready);
  EXPECT_EQ(method.calls, 1);
}

}  // namespace
}  // namespace sdp
