#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/rpc/channel.h"
#include "common/rpc/outgoing.h"
#include "common/rpc/shard_client.h"
#include "common/rpc/status_code.h"
#include "tests/shard_service/fixture.h"
#include "tests/shard_service/raw_stream.h"

// What a shard makes of a peer that does not keep to the protocol: raw frames against the real
// service.
namespace sdp {
namespace {

using ::testing::HasSubstr;

class ShardServiceTest : public ::testing::Test {
 protected:
  const Catalog catalog_ = TestCatalog();
  const Layout layout_{catalog_, kTestFragment};
  TestShard shard_{&catalog_, &layout_, "127.0.0.1:0"};
  static constexpr int kSmall = 3;  // fragment of 301 elements
};

TEST_F(ShardServiceTest, NotReady_StreamsWait_AndControlIsUnavailable) {
  RawStream push(shard_.address(), "Push");
  push.SendFragment(TestWorker::Key(0, kSmall, 0), {});
  EXPECT_TRUE(absl::IsUnavailable(shard_.Finish(1)));
  shard_.Begin();
  shard_.Bind(0, 1);
  EXPECT_EQ(push.AwaitFrame().first.answer, Answer::kReceived);
}

TEST_F(ShardServiceTest, FrameOfAnotherKind_EndsTheStream) {
  shard_.Begin();
  RawStream push(shard_.address(), "Push");
  push.Send(AnswerHeader({Incarnation(1), 0, FragmentId(0), Answer::kReceived, ""}), "");
  const absl::Status why = push.AwaitClosed();
  EXPECT_TRUE(absl::IsInvalidArgument(why)) << why;
  EXPECT_THAT(why.message(), HasSubstr("not a push part"));

  RawStream pull(shard_.address(), "Pull");
  pull.SendFragment(TestWorker::Key(0, kSmall, 0), {});
  EXPECT_TRUE(absl::IsInvalidArgument(pull.AwaitClosed()));
}

TEST_F(ShardServiceTest, StreamOfTwoWorkers_Ends) {
  shard_.Begin();
  shard_.Bind(0, 2);
  RawStream push(shard_.address(), "Push");
  push.SendFragment(TestWorker::Key(0, kSmall, 0, 1), {});
  EXPECT_EQ(push.AwaitFrame().first.answer, Answer::kReceived);
  push.SendFragment(TestWorker::Key(0, kSmall, 0, 2), {});
  EXPECT_TRUE(absl::IsInvalidArgument(push.AwaitClosed()));

  // Nobody ends another one's reads.
  RawStream pull(shard_.address(), "Pull");
  pull.Send(ReadsDoneHeader({TestWorker::Key(0, kSmall, 0, 2)}), "");
  EXPECT_TRUE(absl::IsInvalidArgument(pull.AwaitClosed()));
}

TEST_F(ShardServiceTest, NewerStream_TakesTheOlderOnesPlace) {
  shard_.Begin();
  shard_.Bind(0, 2);
  RawStream older(shard_.address(), "Push");
  older.SendFragment(TestWorker::Key(0, kSmall, 0), {});
  EXPECT_EQ(older.AwaitFrame().first.answer, Answer::kReceived);
  RawStream newer(shard_.address(), "Push");
  newer.SendFragment(TestWorker::Key(0, kSmall, 0), {});
  EXPECT_TRUE(absl::IsAborted(older.AwaitClosed()));
  EXPECT_EQ(newer.AwaitFrame().first.answer, Answer::kReceived);
  EXPECT_EQ(shard_.Status().push_streams(), 1);
}

TEST_F(ShardServiceTest, ContributionsThatCannotBe_AreAnsweredOneByOne) {
  shard_.Begin();
  shard_.Bind(0, 1);
  RawStream push(shard_.address(), "Push");
  const auto answer = [&](PushKey key, const std::vector<float>& numbers) {
    push.SendFragment(key, numbers);
    return push.AwaitFrame().first.answer;
  };
  EXPECT_EQ(answer(TestWorker::Key(0, 99, 8), Filled(301, 1)),
            Answer::kInvalid);  // no such fragment
  EXPECT_EQ(answer(TestWorker::Key(0, kSmall, 8), Filled(300, 1)),
            Answer::kInvalid);  // its size is another
  PushKey key = TestWorker::Key(0, kSmall, 8);
  key.generation = Generation(9);
  EXPECT_EQ(answer(key, Filled(301, 1)), Answer::kStaleGeneration);
  key = TestWorker::Key(0, kSmall, 8);
  key.view = ViewId(9);
  EXPECT_EQ(answer(key, Filled(301, 1)), Answer::kInvalid);
  EXPECT_EQ(answer(TestWorker::Key(1, kSmall, 8), Filled(301, 1)), Answer::kUnknownBinding);
  EXPECT_EQ(answer(TestWorker::Key(0, kSmall, 8), Filled(301, 1)),
            Answer::kReceived);  // the stream still works
}

TEST_F(ShardServiceTest, DamagedHeader_EndsTheStream) {
  shard_.Begin();
  for (const std::string& bytes :
       {std::string(), std::string("SDPF"), std::string(96, '\0'), std::string(5000, 'x')}) {
    RawStream push(shard_.address(), "Push");
    push.SendBytes(bytes);
    EXPECT_TRUE(absl::IsInvalidArgument(push.AwaitClosed()));
  }
  FrameHeaderBytes header =
      EncodeHeader(PushHeader(TestWorker::Key(0, kSmall, 0), 0, WireType::kF32));
  header[33] ^= 1;
  RawStream pull(shard_.address(), "Pull");
  pull.SendBytes(std::string(header.data(), header.size()));
  EXPECT_TRUE(absl::IsDataLoss(pull.AwaitClosed()));
}

TEST_F(ShardServiceTest, MessageOverTheLimit_EndsTheStream) {
  shard_.Begin();
  RawStream push(shard_.address(), "Push");
  push.SendBytes(std::string(kMaxMessageBytes + 1, 'x'));
  EXPECT_TRUE(absl::IsResourceExhausted(push.AwaitClosed()));
}

TEST_F(ShardServiceTest, DamagedPayload_BadChecksum_AndItCanBeSentAgain) {
  shard_.Begin();
  shard_.Bind(0, 1);
  RawStream push(shard_.address(), "Push");
  const std::vector<float> numbers = Filled(301, 1);
  FrameHeader header = PushHeader(TestWorker::Key(0, kSmall, 8), 301, WireType::kF32);
  header.payload_bytes = header.total;
  header.checksum = 1;
  push.SendAsIs(header, std::string(reinterpret_cast<const char*>(numbers.data()), 4 * 301));
  EXPECT_EQ(push.AwaitFrame().first.answer, Answer::kBadChecksum);
  push.SendFragment(TestWorker::Key(0, kSmall, 8), numbers);
  EXPECT_EQ(push.AwaitFrame().first.answer, Answer::kReceived);
}

// Parts that do not fit together spoil their own fragment; another one, begun before, is completed.
TEST_F(ShardServiceTest, PartsThatOverlap_Invalid_WithoutHarmToOthers) {
  shard_.Begin();
  shard_.Bind(0, 1);
  RawStream push(shard_.address(), "Push");
  FrameHeader small = PushHeader(TestWorker::Key(0, kSmall, 8), 301, WireType::kF32);
  push.Send(small, std::string(804, '\0'));
  FrameHeader large = PushHeader(TestWorker::Key(0, 0, 8), kTestFragment, WireType::kF32);
  push.Send(large, std::string(1000, '\0'));
  large.offset = 996;
  push.Send(large, std::string(1000, '\0'));
  const auto [header, detail] = push.AwaitFrame();
  EXPECT_EQ(header.answer, Answer::kInvalid);
  EXPECT_EQ(header.fragment, FragmentId(0));
  EXPECT_THAT(detail, HasSubstr("byte 996"));
  small.offset = 804;
  push.Send(small, std::string(400, '\0'));
  EXPECT_EQ(push.AwaitFrame().first.answer, Answer::kReceived);
}

// Its first part is enough for the answer; the rest is not kept, and there is no second answer.
TEST_F(ShardServiceTest, RefusedLargeContribution_IsAnsweredOnce) {
  shard_.Begin();
  shard_.Bind(0, 1, false, 2);
  RawStream push(shard_.address(), "Push", TestName(2));
  PushKey stranger = TestWorker::Key(0, 0, 8, 2);
  push.SendFragment(stranger, Filled(kTestFragment, 1));
  const auto [header, detail] = push.AwaitFrame();
  EXPECT_EQ(header.answer, Answer::kInvalid);
  EXPECT_THAT(detail, HasSubstr("does not hold"));
  stranger.fragment = FragmentId(kSmall);
  push.SendFragment(stranger, Filled(301, 1));
  EXPECT_EQ(push.AwaitFrame().first.fragment, FragmentId(kSmall));
}

TEST_F(ShardServiceTest, NotFinite_IsAnsweredAndReported) {
  shard_.Begin();
  shard_.Bind(0, 1);
  RawStream push(shard_.address(), "Push");
  push.SendFragment(TestWorker::Key(0, kSmall, 8),
                    Filled(301, std::numeric_limits<float>::quiet_NaN()));
  EXPECT_EQ(push.AwaitFrame().first.answer, Answer::kNotFinite);
  ASSERT_EQ(shard_.link().not_finite().size(), 1u);
  EXPECT_THAT(shard_.link().not_finite()[0].what, HasSubstr("small"));
}

TEST_F(ShardServiceTest, ControlOfAnotherGeneration_Aborted) {
  shard_.Begin();
  const absl::Status status = shard_.Finish(7);
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_FALSE(shard_.finished());
  EXPECT_TRUE(shard_.Finish(1).ok());
  EXPECT_TRUE(shard_.finished());
}

TEST_F(ShardServiceTest, Status_Counts) {
  shard_.Begin();
  const proto::ShardStatus status = shard_.Status();
  EXPECT_EQ(status.name(), "shard-0");
  EXPECT_EQ(status.fragments(), 4);
  EXPECT_EQ(status.parameters(), 3 * kTestFragment + 301);
  EXPECT_EQ(status.value_bytes(), 4 * (3 * kTestFragment + 301));
  EXPECT_EQ(status.oldest_version(), 0);
  EXPECT_GT(status.peak_memory_bytes(), 0);
}

TEST_F(ShardServiceTest, ShardControlClient_CallsInOrder_AcrossTheShardsStart) {
  EventLoop loop("coordinator");
  std::promise<ShardId> finished;
  std::unique_ptr<ShardControlClient> client;
  loop.Post([&] {
    client = std::make_unique<ShardControlClient>(
        &loop, Generation(1), /*coordinator=*/1, SecurityOptions(),
        ShardControlClient::Events{
            [&](ShardId shard) { finished.set_value(shard); },
            [](ShardId, const absl::Status& status) { ADD_FAILURE() << status; }});
    EXPECT_TRUE(client->Connect(ShardId(0), shard_.address()).ok());
    ShardBinding binding;
    binding.generation = Generation(1);
    auto holders = std::make_shared<HolderSets>();
    holders->members = {Incarnation(1)};
    holders->instances = {1001};
    holders->sets = {{Incarnation(1)}};
    holders->set_of_unit = {0, 0};
    binding.holders = holders;
    client->Bind(ShardId(0), binding);  // the shard is not ready: repeated
    client->SetScale(ShardId(0), {Generation(1), 0, 1});
    client->ReleaseEvaluation(ShardId(0), 0);
    client->Finish(ShardId(0));
    EXPECT_EQ(client->waiting(), 4);
  });
  shard_.Begin();
  EXPECT_EQ(finished.get_future().wait_for(absl::ToChronoSeconds(kTestDeadline)),
            std::future_status::ready);
  EXPECT_TRUE(shard_.finished());
  loop.Stop();
}

}  // namespace
}  // namespace sdp
