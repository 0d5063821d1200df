#include "common/rpc/http2_limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "proto/shard.grpc.pb.h"
#include "tests/rpc/http2_peer.h"

namespace sdp {
namespace {

using Frame = Http2Limits::Frame;
using ::testing::HasSubstr;

const void* Parser(uintptr_t number) { return reinterpret_cast<const void*>(16 * number); }
const void* Transport(uintptr_t number) { return reinterpret_cast<const void*>(16 * number + 8); }
Http2Limits::Connection Connection(uintptr_t number) {
  return {.parser = Parser(number), .transport = Transport(number)};
}
// A call begins, which may be taken back.
void Begin(Http2Limits* limits, uintptr_t connection, bool on_server = true) {
  limits->BeginFrame(Parser(connection), {.on_server = on_server}, absl::FromUnixSeconds(0));
  ASSERT_TRUE(limits->Count(Connection(connection), 10).ok());
}
const absl::Time kNow = absl::FromUnixSeconds(1000);

TEST(Http2LimitsTest, HeadersOfACall_HaveALimit_OverAllTheirFrames) {
  Http2Limits limits;
  absl::Status status;
  size_t bytes = 0;
  for (; status.ok() && bytes < (1 << 20); bytes += 1000) {
    limits.BeginFrame(Parser(1), {.ends_headers = false}, kNow);
    status = limits.Count(Connection(1), 1000);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("bytes of headers"));
  EXPECT_LE(bytes, Http2Limits::kMostHeaderBytes + 1000);
  // Another connection may be at the same place of memory.
  limits.BeginFrame(Parser(1), {}, kNow);
  EXPECT_TRUE(limits.Count(Connection(1), 1000).ok());
}

TEST(Http2LimitsTest, CallsOneAfterTheOther_DoNotAddUp) {
  Http2Limits limits;
  for (int call = 0; call < 10 * Http2Limits::kMostCalls; ++call) {
    limits.BeginFrame(Parser(1), {}, kNow + absl::Milliseconds(call));
    ASSERT_TRUE(limits.Count(Connection(1), 1000).ok()) << call;
  }
}

TEST(Http2LimitsTest, OfCallsThatAreOver_ThousandsMayCome_NotWithoutEnd) {
  Http2Limits limits;
  absl::Status status;
  size_t bytes = 0;
  for (; status.ok() && bytes < (10 << 20); bytes += 100) {
    // gRPC takes such frames for unfinished ones, and unfinished ones for such.
    limits.BeginFrame(Parser(1), {.ends_headers = bytes % 200 == 0, .of_known_call = false}, kNow);
    status = limits.Count(Connection(1), 100);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_GE(bytes, size_t{500'000});
}

TEST(Http2LimitsTest, TooManyCallsInASecond_OfServersOnly) {
  Http2Limits limits;
  const auto calls = [&limits](int number, bool on_server) {
    absl::Status status;
    for (int i = 0; i < number && status.ok(); ++i) {
      limits.BeginFrame(Parser(1), {.on_server = on_server}, kNow);
      status = limits.Count(Connection(1), 10);
    }
    return status;
  };
  EXPECT_TRUE(calls(10 * Http2Limits::kMostCalls, false).ok());
  EXPECT_TRUE(calls(Http2Limits::kMostCalls, true).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(calls(1, true)));
}

TEST(Http2LimitsTest, TooManyResetsInASecond_OfOneConnection) {
  Http2Limits limits;
  Begin(&limits, 1);
  Begin(&limits, 2);
  for (int i = 0; i < Http2Limits::kMostResets; ++i)
    ASSERT_TRUE(limits.Reset(Transport(1), kNow).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(limits.Reset(Transport(1), kNow)));
  EXPECT_TRUE(limits.Reset(Transport(2), kNow).ok());
  Begin(&limits, 1);
  EXPECT_TRUE(limits.Reset(Transport(1), kNow + absl::Seconds(1)).ok());
}

// A thousand members may leave at once: each gives up what it has under way.
TEST(Http2LimitsTest, TooManyResetsInASecond_OfAll_EndWhoGaveUpMoreThanAMemberHas) {
  Http2Limits limits;
  for (uintptr_t i = 1; i <= Http2Limits::kMostResetsOfAll; ++i) {
    Begin(&limits, i);
    for (int reset = 0; reset < Http2Limits::kFewResets; ++reset)
      ASSERT_TRUE(limits.Reset(Transport(i), kNow).ok()) << i;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(limits.Reset(Transport(1), kNow)));
  for (int reset = 0; reset <= Http2Limits::kFewResets; ++reset)
    EXPECT_TRUE(limits.Reset(Transport(2), kNow + absl::Seconds(1)).ok());
}

TEST(Http2LimitsTest, ResetsOfServers_HaveNoLimit) {
  Http2Limits limits;
  Begin(&limits, 1, /*on_server=*/true);  // an earlier connection at the same place of memory
  Begin(&limits, 1, /*on_server=*/false);
  for (int i = 0; i < 10 * Http2Limits::kMostResetsOfAll; ++i)
    ASSERT_TRUE(limits.Reset(Transport(1), kNow).ok());
}

// That the limits are in gRPC's way.
class Http2ServerTest : public testing::Test {
 protected:
  // Without an answer.
  class Silent final : public proto::Shard::CallbackService {
   public:
    grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                        const proto::GetShardStatusRequest*,
                                        proto::ShardStatus*) override {
      return context->DefaultReactor();
    }
  };
  static constexpr char kMethod[] = "/sdp.proto.Shard/GetStatus";

  Silent service_;
  const std::unique_ptr<RpcServer> server_ =
      RpcServer::Start("127.0.0.1:0", {}, {&service_}).value();
  Http2Peer peer_{server_->address()};
};

TEST_F(Http2ServerTest, HeadersWithoutEnd_EndTheConnection) {
  ASSERT_TRUE(peer_.Send(HeadersBegin(1, CallHeaders(kMethod)) + Continuation(1, EndlessHeader())));
  for (int i = 0; i < 1000 && peer_.Send(Continuation(1, std::string(16384, 'v'))); ++i) continue;
  EXPECT_TRUE(peer_.AwaitEnd());
  EXPECT_LT(peer_.sent_bytes(), 8 << 20);  // what the sockets may hold meanwhile
}

TEST_F(Http2ServerTest, CallsBegunAndTakenBack_EndTheConnection) {
  bool open = true;
  int calls = 0;
  for (; open && calls < Http2Limits::kMostCalls; ++calls) {
    const uint32_t stream = 2 * static_cast<uint32_t>(calls) + 1;
    open = peer_.Send(Headers(stream, CallHeaders(kMethod)) + Reset(stream));
  }
  EXPECT_TRUE(peer_.AwaitEnd());
}

TEST_F(Http2ServerTest, CallsOneAfterTheOther_MayBeAsManyAsThereIsTimeFor) {
  const auto stub = proto::Shard::NewStub(MakeChannel(server_->address(), {}).value());
  for (const absl::Time end = absl::Now() + absl::Milliseconds(1500); absl::Now() < end;) {
    grpc::ClientContext context;
    proto::ControlResponse response;
    const grpc::Status status = stub->Finish(&context, {}, &response);
    ASSERT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << status.error_message();
  }
}

// A server that refuses calls resets those whose client has not finished sending: it may.
TEST_F(Http2ServerTest, CallsThatTheServerEnds_MayBeAsManyAsThereIsTimeFor) {
  const auto stub = proto::Shard::NewStub(MakeChannel(server_->address(), {}).value());
  for (const absl::Time end = absl::Now() + absl::Milliseconds(1500); absl::Now() < end;) {
    grpc::ClientContext context;
    const auto stream = stub->Pull(&context);
    proto::Frame frame;
    EXPECT_FALSE(stream->Read(&frame));
    const grpc::Status status = stream->Finish();
    ASSERT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << status.error_message();
  }
}

// Who does not acknowledge the server's settings, as this peer, has no limit of gRPC's.
TEST_F(Http2ServerTest, MoreCallsThanMayBeUnderWay_EndTheConnection) {
  for (uint32_t i = 0; i < kMaxCallsPerConnection; ++i)
    ASSERT_TRUE(peer_.Send(Headers(2 * i + 1, CallHeaders(kMethod))));
  EXPECT_FALSE(peer_.AwaitEnd(absl::Milliseconds(300)));
  ASSERT_TRUE(peer_.Send(Headers(2 * kMaxCallsPerConnection + 1, CallHeaders(kMethod))));
  EXPECT_TRUE(peer_.AwaitEnd());
}

}  // namespace
}  // namespace sdp
