#include "worker/service/shard_streams.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "common/rpc/server.h"
#include "tests/shard_service/fixture.h"

// A worker's streams and a shard over real sockets.
namespace sdp {
namespace {

using ::testing::HasSubstr;
using Seen = TestWorker::Seen;

constexpr int kSmall = 3;  // fragment of 301 elements
constexpr int kFragments = 4;
const std::vector<int> kAll = {0, 1, 2, 3};

int64_t SizeOf(int fragment) { return fragment == kSmall ? 301 : kTestFragment; }

bool AllEqual(const WireBuffer& value, float expected) {
  const FloatBuffer wide = value.Clone().Widened();
  return std::all_of(wide.data(), wide.data() + wide.size(),
                     [&](float x) { return x == expected; });
}

class ShardStreamsTest : public ::testing::TestWithParam<std::string> {
 protected:
  // "tcp" or "unix".
  std::string Listen() {
    if (GetParam() == "tcp") return "127.0.0.1:0";
    const std::string path = ::testing::TempDir() + "/sdp_streams_test.sock";
    std::filesystem::remove(path);
    return "unix:" + path;
  }
  std::unique_ptr<TestShard> MakeShard(const std::string& listen) {
    return std::make_unique<TestShard>(&catalog_, &layout_, listen);
  }

  const Catalog catalog_ = TestCatalog();
  const Layout layout_{catalog_, kTestFragment};
};

TEST_P(ShardStreamsTest, NobodyThere_IsTold_AndConnectsWhenThereIsSomebody) {
  std::string address;
  {
    auto shard = MakeShard(Listen());
    address = shard->address();
  }
  TestWorker worker(&layout_, {address});
  ASSERT_TRUE(worker.Await([](const Seen& seen) { return seen.disconnected.size() >= 2; }));
  EXPECT_TRUE(worker.Await([&](const Seen& seen) {
    return absl::IsUnavailable(seen.disconnected[0]) &&
           absl::StrContains(seen.disconnected[0].message(), address);
  }));
  const auto shard = MakeShard(address);
  shard->Begin();
  EXPECT_TRUE(worker.AwaitConnected());
}

TEST_P(ShardStreamsTest, DestroyedInTheMiddle_DoesNotHang) {
  auto shard = MakeShard(Listen());
  shard->Begin();
  auto worker = std::make_unique<TestWorker>(&layout_, std::vector<std::string>{shard->address()});
  ASSERT_TRUE(worker->AwaitConnected());
  worker->Pull(0, kAll);  // early: the shard keeps it until the binding
  for (int f = 0; f < kFragments; ++f) worker->Push(0, f, 1, SizeOf(f));
  worker = nullptr;
  shard->Bind(0, 1);  // what is delivered now goes nowhere
  shard = nullptr;
}

// Both gradients of every fragment at once, in parts: neither takes the other's place, each is
// answered for itself, and only training's bytes are the step's.
TEST_P(ShardStreamsTest, DenseGradients_BesideTraining) {
  const auto shard = MakeShard(Listen());
  shard->Begin();
  shard->Bind(0, 1, /*evaluate=*/false, /*members=*/0, /*diagnose=*/true);
  TestWorker worker(&layout_, {shard->address()});
  ASSERT_TRUE(worker.AwaitConnected());
  for (int f = 0; f < kFragments; ++f) {
    worker.Push(0, f, 2, SizeOf(f), Purpose::kDense);
    worker.Push(0, f, 0.5, SizeOf(f));
  }
  ASSERT_TRUE(worker.Await([](const Seen& seen) { return seen.answers.size() == 2 * kFragments; }));
  int dense = 0;
  int64_t bytes = 0;
  worker.Await([&](const Seen& seen) {
    for (const PushAnswer& answer : seen.answers) {
      EXPECT_EQ(answer.answer, Answer::kReceived);
      dense += answer.purpose == Purpose::kDense;
    }
    bytes = seen.pushed_bytes.at(0);
    return true;
  });
  EXPECT_EQ(dense, kFragments);
  int64_t elements = 0;
  for (int f = 0; f < kFragments; ++f) elements += SizeOf(f);
  EXPECT_NEAR(static_cast<double>(bytes), static_cast<double>(4 * elements), 2000);  // headers
  ASSERT_TRUE(shard->link().AwaitDone(0));
  const auto diagnosed = shard->link().AwaitDiagnosed();
  ASSERT_TRUE(diagnosed.has_value());
  for (int f = 0; f < kFragments; ++f) {
    const auto size = static_cast<double>(SizeOf(f));
    EXPECT_EQ(diagnosed->fragments[static_cast<size_t>(f)],
              (GradientComparison{8, size, 4 * size}));
  }
}

TEST_P(ShardStreamsTest, Refusals_Arrive) {
  const auto shard = MakeShard(Listen());
  shard->Begin();
  shard->Bind(0, 1);
  TestWorker worker(&layout_, {shard->address()});
  ASSERT_TRUE(worker.AwaitConnected());
  worker.Pull(0, {99});
  ASSERT_TRUE(worker.Await([](const Seen& seen) { return seen.refused.size() == 1; }));
  EXPECT_TRUE(worker.Await(
      [](const Seen& seen) { return seen.refused[0] == std::pair(99, Answer::kStaleTerm); }));
}

TEST_P(ShardStreamsTest, StepsOfSeveralFragments_InParts) {
  const auto shard = MakeShard(Listen());
  shard->Begin();
  TestWorker worker(&layout_, {shard->address()});
  ASSERT_TRUE(worker.AwaitConnected());
  for (Step step = 0; step < 3; ++step) {
    worker.Pull(step, kAll);  // before the version and the binding exist
    shard->Bind(step, 1);
    ASSERT_TRUE(worker.Await(
        [&](const Seen& seen) { return seen.values_seen == kFragments * (step + 1); }));
    for (int f = kFragments - 1; f >= 0; --f) worker.Push(step, f, 0.5, SizeOf(f));
    ASSERT_TRUE(shard->link().AwaitDone(step));
  }
  worker.Await([&](const Seen& seen) {
    for (int f = 0; f < kFragments; ++f) {
      for (Step step = 0; step < 3; ++step) {
        const WireBuffer& value = seen.values.at({step, f});
        EXPECT_EQ(value.size(), SizeOf(f));
        EXPECT_TRUE(AllEqual(value, static_cast<float>(f) - 0.5f * static_cast<float>(step)));
      }
    }
    return true;
  });
  // What was counted is what the frames were: within 2% of the payload.
  const double payload = 4.0 * (3 * kTestFragment + 301);
  ASSERT_TRUE(worker.Await([&](const Seen& seen) {
    return seen.pushed_bytes.contains(2) && seen.pushed_bytes.at(2) >= payload;
  }));
  worker.Await([&](const Seen& seen) {
    EXPECT_EQ(seen.pushed_bytes.at(1), static_cast<int64_t>(payload) + 10 * 96);
    EXPECT_EQ(seen.pulled_bytes, 3 * (static_cast<int64_t>(payload) + 10 * 96));
    EXPECT_LT(static_cast<double>(seen.pushed_bytes.at(1)), 1.02 * payload);
    return true;
  });
}

TEST_P(ShardStreamsTest, Duplicates_AreReceivedAndCountOnce) {
  const auto shard = MakeShard(Listen());
  shard->Begin();
  shard->Bind(0, 2);
  TestWorker one(&layout_, {shard->address()});
  TestWorker two(&layout_, {shard->address()}, WireType::kF32, WireType::kF32, 2);
  ASSERT_TRUE(one.AwaitConnected());
  ASSERT_TRUE(two.AwaitConnected());
  for (int f = 0; f < kFragments; ++f) one.Push(0, f, 1, SizeOf(f));
  ASSERT_TRUE(one.Await([](const Seen& seen) { return seen.answers.size() == kFragments; }));
  for (int f = 0; f < kFragments; ++f) one.Push(0, f, 1, SizeOf(f));
  ASSERT_TRUE(one.Await([](const Seen& seen) { return seen.answers.size() == 2 * kFragments; }));
  for (int f = 0; f < kFragments; ++f) two.Push(0, f, 3, SizeOf(f));
  ASSERT_TRUE(shard->link().AwaitDone(0));
  one.Push(0, 0, 1, SizeOf(0));
  ASSERT_TRUE(
      one.Await([](const Seen& seen) { return seen.answers.size() == 2 * kFragments + 1; }));
  one.Await([](const Seen& seen) {
    EXPECT_EQ(seen.answers.front().answer, Answer::kReceived);
    EXPECT_EQ(seen.answers[kFragments].answer, Answer::kReceived);
    EXPECT_EQ(seen.answers.back().answer, Answer::kStepClosed);
    return true;
  });
  shard->Bind(1, 2);
  one.Pull(1, {kSmall});
  ASSERT_TRUE(one.Await([](const Seen& seen) { return seen.values_seen == 1; }));
  one.Await([](const Seen& seen) {
    EXPECT_TRUE(AllEqual(seen.values.at({1, kSmall}), 3 - 2.0f));  // the mean of 1 and 3, once
    return true;
  });
}

TEST_P(ShardStreamsTest, HeaderOnly_ClosesTheRound) {
  const auto shard = MakeShard(Listen());
  shard->Begin();
  shard->Bind(0, 1);
  TestWorker worker(&layout_, {shard->address()});
  ASSERT_TRUE(worker.AwaitConnected());
  for (int f = 0; f < kFragments; ++f)
    worker.streams().Send(ShardId(0), TestWorker::Key(0, f, 0), nullptr);
  EXPECT_TRUE(shard->link().AwaitDone(0));
}

TEST_P(ShardStreamsTest, Bf16_HalfTheBytes) {
  const auto shard = MakeShard(Listen());
  shard->Begin();
  shard->Bind(0, 1);
  TestWorker worker(&layout_, {shard->address()}, WireType::kBf16, WireType::kBf16);
  ASSERT_TRUE(worker.AwaitConnected());
  for (int f = 0; f < kFragments; ++f) worker.Push(0, f, 0.5, SizeOf(f));
  ASSERT_TRUE(shard->link().AwaitDone(0));
  shard->Bind(1, 1);
  worker.Pull(1, kAll);
  ASSERT_TRUE(worker.Await([](const Seen& seen) { return seen.values_seen == kFragments; }));
  worker.Await([](const Seen& seen) {
    for (int f = 0; f < kFragments; ++f) {
      EXPECT_TRUE(AllEqual(seen.values.at({1, f}), static_cast<float>(f) - 0.5f));  // exact in bf16
    }
    EXPECT_EQ(seen.pulled_bytes, 2 * (3 * kTestFragment + 301) + 7 * 96);
    return true;
  });
}

// A worker that reads what it does not hold finds its version until it says that it is done.
TEST_P(ShardStreamsTest, BackwardMasking_VersionWaitsForItsReaders) {
  const auto shard = MakeShard(Listen());
  shard->Begin(Masking::kBackward);
  TestWorker holder(&layout_, {shard->address()});
  TestWorker reader(&layout_, {shard->address()}, WireType::kF32, WireType::kF32, 2);
  ASSERT_TRUE(holder.AwaitConnected());
  ASSERT_TRUE(reader.AwaitConnected());
  const int64_t all = 4 * (3 * kTestFragment + 301);
  shard->Bind(0, 1, false, 2);
  for (int f = 0; f < kFragments; ++f) holder.Push(0, f, 0.5, SizeOf(f));
  ASSERT_TRUE(shard->link().AwaitDone(0));
  EXPECT_EQ(shard->Status().retained_bytes(), all);
  reader.Pull(0, {kSmall});
  ASSERT_TRUE(reader.Await([](const Seen& seen) { return seen.values_seen == 1; }));
  reader.Await([](const Seen& seen) {
    EXPECT_TRUE(AllEqual(seen.values.at({0, kSmall}), 3));
    return true;
  });
  shard->Bind(1, 1, false, 2);
  // What comes on a stream is looked at in order: with the value's coming, done was heard.
  for (TestWorker* worker : {&reader, &holder}) {
    worker->Done(0);
    worker->Pull(1, {kSmall});
    ASSERT_TRUE(worker->Await([](const Seen& seen) { return seen.values.contains({1, kSmall}); }));
  }
  EXPECT_EQ(shard->Status().retained_bytes(), 0);
  reader.Pull(0, {kSmall});
  EXPECT_TRUE(reader.Await([](const Seen& seen) {
    return seen.refused == std::vector{std::pair(kSmall, Answer::kStepClosed)};
  }));
}

// Said before the first binding, when nobody is known to be a member yet, it is kept.
TEST_P(ShardStreamsTest, BackwardMasking_DoneBeforeTheBinding_Counts) {
  const auto shard = MakeShard(Listen());
  shard->Begin(Masking::kBackward);
  TestWorker holder(&layout_, {shard->address()});
  TestWorker reader(&layout_, {shard->address()}, WireType::kF32, WireType::kF32, 2);
  ASSERT_TRUE(holder.AwaitConnected());
  ASSERT_TRUE(reader.AwaitConnected());
  for (TestWorker* worker : {&reader, &holder}) {
    worker->Done(0);
    worker->Pull(0, {kSmall});
  }
  shard->Bind(0, 1, false, 2);
  for (TestWorker* worker : {&reader, &holder})
    ASSERT_TRUE(worker->Await([](const Seen& seen) { return seen.values_seen == 1; }));
  shard->Bind(1, 1, false, 2);
  for (TestWorker* worker : {&reader, &holder}) worker->Pull(1, {kSmall});
  for (int f = 0; f < kFragments; ++f) holder.Push(0, f, 0.5, SizeOf(f));
  for (TestWorker* worker : {&reader, &holder})
    ASSERT_TRUE(worker->Await([](const Seen& seen) { return seen.values_seen == 2; }));
  ASSERT_TRUE(shard->link().AwaitDone(0));
  EXPECT_EQ(shard->Status().retained_bytes(), 0);
}

TEST_P(ShardStreamsTest, ShardRestarts_StreamsOpenAgain) {
  auto shard = MakeShard(Listen());
  const std::string address = shard->address();
  shard->Begin();
  shard->Bind(0, 1);
  TestWorker worker(&layout_, {address});
  ASSERT_TRUE(worker.AwaitConnected());
  worker.Pull(0, {kSmall});
  ASSERT_TRUE(worker.Await([](const Seen& seen) { return seen.values_seen == 1; }));
  shard = nullptr;
  ASSERT_TRUE(worker.Await([](const Seen& seen) { return !seen.disconnected.empty(); }));
  worker.Pull(0, {kSmall});  // lost: nobody is there

  shard = MakeShard(address);
  shard->Begin();
  shard->Bind(0, 1);
  ASSERT_TRUE(worker.AwaitConnected(2));
  worker.Pull(0, kAll);
  EXPECT_TRUE(worker.Await([](const Seen& seen) { return seen.values_seen == 1 + kFragments; }));
}

// A service that sends what no shard would.
class HostileShard final : public proto::Shard::WithRawCallbackMethod_Push<
                               proto::Shard::WithRawCallbackMethod_Pull<proto::Shard::Service>> {
 public:
  using Bidi = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;
  ~HostileShard() override { frames_.Stop(); }

  Bidi* Push(grpc::CallbackServerContext* context) override {
    return FrameStream::Serve(context, &frames_, Quiet(), {});
  }
  Bidi* Pull(grpc::CallbackServerContext* context) override {
    FrameStream::Events events = Quiet();
    events.received = [this](FrameStream& stream, const ReceivedFrame& frame) {
      Outgoing outgoing;
      outgoing.header = ValueHeader(RequestKeyOf(frame.header()), FragmentId(0), 1, WireType::kF32);
      switch (pulls_++) {
        case 0:
          outgoing.numbers = std::make_shared<FloatBuffer>(FloatBuffer::Zeros(1));
          break;  // a size no fragment has
        case 1:
          outgoing.header.kind = FrameKind::kPullWant, outgoing.text = "1234";
          break;  // of another kind
        default:
          outgoing.header.kind = FrameKind::kRefusal, outgoing.text = "fine";
          break;
      }
      stream.Send(std::move(outgoing));
      return absl::OkStatus();
    };
    return FrameStream::Serve(context, &frames_, std::move(events), {});
  }

 private:
  static FrameStream::Events Quiet() {
    FrameStream::Events events;
    events.received = [](FrameStream&, const ReceivedFrame&) { return absl::OkStatus(); };
    events.closed = [](FrameStream&, const absl::Status&) {};
    return events;
  }
  int pulls_ = 0;
  EventLoop frames_{"hostile"};
};

TEST_P(ShardStreamsTest, FramesThatCannotBe_CostTheConnectionOnly) {
  HostileShard hostile;
  const auto server = RpcServer::Start(Listen(), {}, {&hostile});
  ASSERT_TRUE(server.ok()) << server.status();
  TestWorker worker(&layout_, {(*server)->address()});
  ASSERT_TRUE(worker.AwaitConnected());
  worker.Pull(0, {0});
  ASSERT_TRUE(worker.AwaitConnected(2));
  worker.Pull(0, {0});
  ASSERT_TRUE(worker.AwaitConnected(3));
  worker.Pull(0, {0});
  ASSERT_TRUE(worker.Await([](const Seen& seen) { return seen.refused.size() == 1; }));
  worker.Await([](const Seen& seen) {
    EXPECT_EQ(seen.values_seen, 0);
    EXPECT_EQ(seen.disconnected.size(), 2u);
    EXPECT_THAT(seen.disconnected[0].message(), HasSubstr("has 700001 elements, not 1"));
    EXPECT_THAT(seen.disconnected[1].message(), HasSubstr("neither a value nor a refusal"));
    return true;
  });
  (*server)->Shutdown();
}

TEST(ShardStreamsCreateTest, AddressElsewhere_IsRefused) {
  const Catalog catalog = TestCatalog();
  const Layout layout(catalog);
  EventLoop owner("test");
  ShardStreams::Options options;
  options.layout = &layout;
  options.addresses = {"127.0.0.1:1", "192.0.2.1:1"};
  const auto streams = ShardStreams::Create(options, {}, &owner);
  EXPECT_TRUE(absl::IsFailedPrecondition(streams.status())) << streams.status();
  EXPECT_THAT(streams.status().message(), HasSubstr("shard 1"));
  owner.Stop();
}

INSTANTIATE_TEST_SUITE_P(Transports, ShardStreamsTest, ::testing::Values("tcp", "unix"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace sdp
