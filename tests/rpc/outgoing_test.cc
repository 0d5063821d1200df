#include "common/rpc/outgoing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

namespace sdp {
namespace {

SharedValue Numbers(int64_t size, float first = 0) {
  auto numbers = std::make_shared<FloatBuffer>(size);
  for (int64_t i = 0; i < size; ++i) numbers->data()[i] = first + static_cast<float>(i % 1000);
  return numbers;
}

Outgoing Push(Step step, int fragment, SharedValue numbers, WireType type = WireType::kF32) {
  PushKey key;
  key.step = step;
  key.worker = Incarnation(1);
  key.fragment = FragmentId(fragment);
  key.terms = numbers == nullptr ? 0 : 1;
  Outgoing outgoing;
  outgoing.header = PushHeader(key, numbers == nullptr ? 0 : numbers->size(), type);
  outgoing.numbers = std::move(numbers);
  return outgoing;
}

std::string Payload(const ReceivedFrame& frame) { return frame.Text(); }

TEST(ReceivedFrameTest, NotAFrame_Fails) {
  EXPECT_FALSE(ReceivedFrame::Read(grpc::ByteBuffer()).ok());
  const grpc::Slice slices[] = {grpc::Slice("SDPF"), grpc::Slice(std::string(50, 'x'))};
  EXPECT_TRUE(absl::IsInvalidArgument(ReceivedFrame::Read(grpc::ByteBuffer(slices, 2)).status()));
  const grpc::Slice large(std::string(3000, 'x'));
  EXPECT_FALSE(ReceivedFrame::Read(grpc::ByteBuffer(&large, 1)).ok());
}

TEST(ReceivedFrameTest, HeaderCutAnywhere_IsRead) {
  OutgoingQueue queue;
  queue.Add(Push(1, 2, Numbers(100)));
  const EncodedFrame sent = queue.Next();
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(sent.message.Dump(&slices).ok());
  std::string all;
  for (const grpc::Slice& slice : slices)
    all.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  for (const size_t cut : {1u, 50u, 95u, 96u, 97u, 300u}) {
    const grpc::Slice parts[] = {grpc::Slice(all.substr(0, cut)), grpc::Slice(all.substr(cut))};
    const auto frame = ReceivedFrame::Read(grpc::ByteBuffer(parts, 2));
    ASSERT_TRUE(frame.ok()) << frame.status();
    EXPECT_EQ(frame->header().fragment, FragmentId(2));
    EXPECT_EQ(frame->bytes(), 496);
    EXPECT_TRUE(PayloadIntact(frame->header(), frame->payload()));
    EXPECT_EQ(Payload(*frame), all.substr(96));
  }
}

TEST(OutgoingQueueTest, FirstLayersFirst_AndAFragmentBegunIsFinished) {
  const int64_t two_parts = (kMaxPayloadBytes + 400) / 4;
  OutgoingQueue queue;
  queue.Add(Push(1, 9, Numbers(two_parts)));
  std::vector<std::pair<int, int64_t>> order;  // fragment, offset
  const auto next = [&] {
    const auto frame = ReceivedFrame::Read(queue.Next().message);
    ASSERT_TRUE(frame.ok()) << frame.status();
    ASSERT_TRUE(PayloadIntact(frame->header(), frame->payload()));
    order.emplace_back(frame->header().fragment.value(), frame->header().offset);
  };
  next();
  queue.Add(Push(2, 0, Numbers(10)));
  queue.Add(Push(1, 5, Numbers(10)));
  queue.Add(Push(1, 3, nullptr));
  while (!queue.empty()) next();
  EXPECT_EQ(order, (std::vector<std::pair<int, int64_t>>{
                       {9, 0}, {9, kMaxPayloadBytes}, {3, 0}, {5, 0}, {0, 0}}));
}

TEST(OutgoingQueueTest, OfValues_TheVersionAskedForLastWaits) {
  OutgoingQueue queue;
  const SharedValue older = Numbers(10), newer = Numbers(10, 5);
  RequestKey key;
  for (const auto& [step, numbers] : {std::pair(Step{3}, older), std::pair(Step{4}, newer)}) {
    key.step = step;
    queue.Add({ValueHeader(key, FragmentId(1), 10, WireType::kF32), nullptr, numbers, ""});
  }
  EXPECT_EQ(older.use_count(), 1);  // not kept alive any more
  EXPECT_EQ(ReceivedFrame::Read(queue.Next().message)->header().step, 4);
  EXPECT_TRUE(queue.empty());
}

TEST(OutgoingQueueTest, WantsOfOneStep_JoinInOrder) {
  OutgoingQueue queue;
  RequestKey key;
  const auto want = [&](Step step, int fragment) {
    key.step = step;
    const FragmentId id(fragment);
    queue.Add({WantHeader(key, 1, WireType::kF32), nullptr, nullptr, WantPayload({&id, 1})});
  };
  want(1, 7), want(1, 2), want(2, 3);
  const EncodedFrame sent = queue.Next();
  const auto first = ReceivedFrame::Read(sent.message);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(PayloadIntact(first->header(), first->payload()));
  EXPECT_EQ(ReadWantPayload(first->payload()), (std::vector{FragmentId(7), FragmentId(2)}));
  EXPECT_EQ(ReceivedFrame::Read(queue.Next().message)->header().step, 2);
  EXPECT_TRUE(queue.empty());
}

TEST(OutgoingQueueTest, WhatIsOnlyCompared_GoesAfterItsStepsTraining) {
  OutgoingQueue queue;
  for (const Step step : {2, 1}) {
    for (const Purpose purpose : {Purpose::kDense, Purpose::kTrain}) {
      for (const int fragment : {1, 0}) {
        Outgoing push = Push(step, fragment, Numbers(10));
        push.header.purpose = purpose;
        queue.Add(std::move(push));
      }
    }
  }
  std::vector<std::tuple<Step, Purpose, int>> order;
  while (!queue.empty()) {
    const auto frame = ReceivedFrame::Read(queue.Next().message);
    order.emplace_back(frame->header().step, frame->header().purpose,
                       frame->header().fragment.value());
  }
  EXPECT_EQ(order.size(), 8u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST(OutgoingQueueTest, TextGoesFirst) {
  OutgoingQueue queue;
  queue.Add(Push(1, 1, Numbers(10)));
  Outgoing text;
  text.header = AnswerHeader({Incarnation(1), 1, FragmentId(4), Answer::kInvalid, "why"});
  text.text = "why";
  queue.Add(text);
  const auto frame = ReceivedFrame::Read(queue.Next().message);
  EXPECT_EQ(frame->header().kind, FrameKind::kPushAnswer);
  EXPECT_EQ(frame->Text(), "why");
}

TEST(OutgoingQueueTest, F32IsNotCopied_AndLivesUntilTheFrameIsGone) {
  OutgoingQueue queue;
  SharedValue numbers = Numbers(100'000);
  queue.Add(Push(1, 1, numbers));
  {
    const EncodedFrame frame = queue.Next();
    std::vector<grpc::Slice> slices;
    ASSERT_TRUE(frame.message.Dump(&slices).ok());
    ASSERT_EQ(slices.size(), 2u);
    EXPECT_EQ(static_cast<const void*>(slices[1].begin()),
              static_cast<const void*>(numbers->data()));
    EXPECT_TRUE(queue.empty());
    EXPECT_EQ(numbers.use_count(), 2);
  }
  EXPECT_EQ(numbers.use_count(), 1);
}

TEST(OutgoingQueueTest, Bf16_HalvesTheBytes) {
  OutgoingQueue queue;
  queue.Add(Push(1, 1, Numbers(1001), WireType::kBf16));
  const EncodedFrame frame = queue.Next();
  EXPECT_EQ(FrameBytes(frame.header), 96 + 2002);
  const auto received = ReceivedFrame::Read(frame.message);
  std::vector<uint16_t> bits(1001);
  std::memcpy(bits.data(), Payload(*received).data(), 2002);
  std::vector<float> back(1001);
  FromBf16(bits, absl::MakeSpan(back));
  EXPECT_EQ(back[100], 100.0f);
}

}  // namespace
}  // namespace sdp
