#include "common/rpc/status_stream.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "proto/coordinator.grpc.pb.h"

namespace sdp {
namespace {

// A coordinator that has nothing but a status.
class FakeCoordinator final : public proto::Coordinator::CallbackService {
 public:
  explicit FakeCoordinator(EventLoop* loop)
      : streams_(loop, [](proto::RunStatus* status) { status->clear_time_sec(); }) {}

  grpc::ServerWriteReactor<proto::RunStatus>* WatchStatus(
      grpc::CallbackServerContext*, const proto::WatchStatusRequest* request) override {
    return streams_.Watch(request->options(), [this] {
      status_.set_time_sec(status_.time_sec() + 1);  // an age: no change
      return status_;
    });
  }
  proto::RunStatus status_;  // confined to the loop

 private:
  StatusStreams<proto::RunStatus> streams_;
};

class StatusStreamTest : public ::testing::Test {
 protected:
  struct Watcher {
    std::unique_ptr<proto::Coordinator::Stub> stub;
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<proto::RunStatus>> stream;
  };
  StatusStreamTest() {
    server_ = RpcServer::Start("127.0.0.1:0", {}, {&fake_}).value();
    channel_ = MakeChannel(server_->address(), {}).value();
    loop_.Post([this] { fake_.status_.set_step(1); });
  }
  std::unique_ptr<Watcher> Watch() {
    auto watcher = std::make_unique<Watcher>();
    proto::WatchStatusRequest request;
    request.mutable_options()->set_interval_sec(0.001);  // raised to the least
    watcher->stub = proto::Coordinator::NewStub(channel_);
    watcher->context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(60)));
    watcher->stream = watcher->stub->WatchStatus(&watcher->context, request);
    return watcher;
  }

  EventLoop loop_{"role"};
  FakeCoordinator fake_{&loop_};
  std::unique_ptr<RpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(StatusStreamTest, WholeAtOnce_ThenEachChange_AndAgesAreNone) {
  const auto watcher = Watch();
  proto::RunStatus status;
  ASSERT_TRUE(watcher->stream->Read(&status));
  EXPECT_EQ(status.step(), 1);
  const double first = status.time_sec();
  loop_.PostAt(absl::Now() + absl::Milliseconds(700), [this] { fake_.status_.set_step(2); });
  ASSERT_TRUE(watcher->stream->Read(&status));
  EXPECT_EQ(status.step(), 2);
  EXPECT_GT(status.time_sec(), first + 1) << "it looked meanwhile, and had nothing to tell";
  watcher->context.TryCancel();
}

TEST_F(StatusStreamTest, MoreThanSixteen_AreRefused_UntilOneGoes) {
  std::vector<std::unique_ptr<Watcher>> watchers;
  proto::RunStatus status;
  for (int i = 0; i < StatusStreams<proto::RunStatus>::kMostWatchers; ++i) {
    watchers.push_back(Watch());
    ASSERT_TRUE(watchers.back()->stream->Read(&status));
  }
  const auto refused = Watch();
  EXPECT_FALSE(refused->stream->Read(&status));
  EXPECT_EQ(refused->stream->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  watchers.front()->context.TryCancel();
  watchers.front()->stream->Finish();
  // The server hears of it a little later.
  bool again = false;
  for (const absl::Time end = absl::Now() + absl::Seconds(20); !again && absl::Now() < end;) {
    const auto next = Watch();
    again = next->stream->Read(&status);
    next->context.TryCancel();
  }
  EXPECT_TRUE(again);
}

TEST_F(StatusStreamTest, ServerEnds_TheStreamEnds_AlsoWhenTheLoopHasStopped) {
  const auto watcher = Watch();
  proto::RunStatus status;
  ASSERT_TRUE(watcher->stream->Read(&status));
  loop_.Stop();
  server_->Shutdown();
  EXPECT_FALSE(watcher->stream->Read(&status));
  EXPECT_FALSE(watcher->stream->Finish().ok());
}

}  // namespace
}  // namespace sdp
