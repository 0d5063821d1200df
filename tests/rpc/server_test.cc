#include "common/rpc/server.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "absl/strings/match.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_code.h"
#include "proto/shard.grpc.pb.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

class FakeShard final : public proto::Shard::CallbackService {
 public:
  grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context,
                                   const proto::FinishRequest*, proto::ControlResponse*) override {
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status(grpc::StatusCode::ABORTED, "generation 1"));
    return reactor;
  }
};

absl::Status Ask(const std::string& address) {
  const auto channel = MakeChannel(address, {});
  if (!channel.ok()) return channel.status();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  proto::ControlResponse response;
  return FromGrpc(proto::Shard::NewStub(*channel)->Finish(&context, {}, &response));
}

TEST(RpcServerTest, PortInUse_UnavailableAndNamed) {
  FakeShard service;
  const auto first = RpcServer::Start("127.0.0.1:0", {}, {&service});
  ASSERT_TRUE(first.ok()) << first.status();
  FakeShard other;
  const auto second = RpcServer::Start((*first)->address(), {}, {&other});
  ASSERT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  EXPECT_THAT(second.status().message(), HasSubstr((*first)->address()));
  EXPECT_THAT(second.status().message(), HasSubstr("in use"));
}

TEST(RpcServerTest, PlaintextElsewhere_IsRefused) {
  FakeShard service;
  EXPECT_TRUE(absl::IsFailedPrecondition(RpcServer::Start("0.0.0.0:0", {}, {&service}).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(MakeChannel("192.0.2.1:80", {}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(RpcServer::Start("nowhere", {}, {&service}).status()));
}

TEST(RpcServerTest, NobodyThere_FailsSoonAndSaysWhere) {
  std::string address;
  {
    FakeShard service;
    address = RpcServer::Start("127.0.0.1:0", {}, {&service}).value()->address();
  }
  const absl::Status status = Ask(address);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr(address));
}

TEST(RpcServerTest, Port0_ServesWhereItSays) {
  FakeShard service;
  const auto server = RpcServer::Start("127.0.0.1:0", {}, {&service});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_FALSE(absl::EndsWith((*server)->address(), ":0"));
  EXPECT_EQ(Ask((*server)->address()), absl::AbortedError("generation 1"));
}

TEST(RpcServerTest, UnixSocket_Serves) {
  const std::string path = ::testing::TempDir() + "/sdp_server_test.sock";
  std::filesystem::remove(path);
  FakeShard service;
  const auto server = RpcServer::Start("unix:" + path, {}, {&service});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ((*server)->address(), "unix:" + path);
  EXPECT_EQ(Ask((*server)->address()), absl::AbortedError("generation 1"));
}

TEST(RpcServerTest, RestartOnTheSamePort_IsReachedAgain) {
  FakeShard service;
  auto server = RpcServer::Start("127.0.0.1:0", {}, {&service}).value();
  const std::string address = server->address();
  EXPECT_TRUE(absl::IsAborted(Ask(address)));
  server->Shutdown();
  server->Shutdown();
  FakeShard again;
  const auto restarted = RpcServer::Start(address, {}, {&again});
  ASSERT_TRUE(restarted.ok()) << restarted.status();
  EXPECT_TRUE(absl::IsAborted(Ask(address)));
}

}  // namespace
}  // namespace sdp
