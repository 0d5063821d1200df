#include "common/rpc/server.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
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

TEST(RpcServerTest, EachAddressOfAName_Serves) {
  FakeShard service;
  const auto by_name = RpcServer::Start("localhost:0", {}, {&service}).value();
  EXPECT_TRUE(absl::IsAborted(Ask(by_name->address()))) << by_name->address();
  const auto any = RpcServer::Start("[::]:0", {.insecure = true}, {&service}).value();
  for (const char* host : {"127.0.0.1", "[::1]"}) {
    const std::string port = any->address().substr(any->address().rfind(':'));
    EXPECT_TRUE(absl::IsAborted(Ask(host + port))) << host;
  }
  const auto nowhere = RpcServer::Start("192.0.2.1:0", {.insecure = true}, {&service});
  EXPECT_TRUE(absl::IsUnavailable(nowhere.status())) << nowhere.status();
}

// gRPC's own listener would never serve again.
TEST(RpcServerTest, OutOfDescriptors_LetsConnectionsGo_AndServesOnceThereAreSome) {
  FakeShard service;
  const auto server = RpcServer::Start("127.0.0.1:0", {}, {&service}).value();
  ASSERT_TRUE(absl::IsAborted(Ask(server->address())));
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int port = 0;
  ASSERT_TRUE(absl::SimpleAtoi(server->address().substr(10), &port));
  to.sin_port = htons(static_cast<uint16_t>(port));
  const int few = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int none = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit limit = {.rlim_cur = 400, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);

  std::vector<int> others;
  for (int fd = 0; fd < 380; others.push_back(fd)) ASSERT_GE(fd = dup(few), 0);
  char byte = 0;
  ASSERT_EQ(connect(few, reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 0);
  EXPECT_LE(recv(few, &byte, 1, 0), 0);
  for (int fd = 0; fd >= 0; others.push_back(fd)) fd = dup(none);
  others.pop_back();
  // Waits, as there is no descriptor to take it with.
  EXPECT_EQ(connect(none, reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 0);
  for (const int fd : others) close(fd);
  EXPECT_TRUE(absl::IsAborted(Ask(server->address())));
  // It is among those that are served: gRPC says its settings first.
  EXPECT_EQ(send(none, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24, 0), 24);
  EXPECT_EQ(recv(none, &byte, 1, 0), 1);
  close(few);
  close(none);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
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
