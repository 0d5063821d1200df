#include "common/rpc/frame_stream.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tests/base/signal.h"

namespace sdp {
namespace {

// A connection of which the test says what happens on it, and when.
class ScriptedReactor : public FrameStream::Reactor {
 public:
  bool is_client() const override { return true; }
  void BeginRead(grpc::ByteBuffer* message) override { read_ = message; }
  void BeginWrite(const grpc::ByteBuffer*, bool) override { write_begun_.Set(); }
  void Cancel() override {}
  void Finish(const absl::Status&) override {}

  bool AwaitWrite() { return write_begun_.Wait(); }
  grpc::ByteBuffer* read() { return read_; }

 private:
  grpc::ByteBuffer* read_ = nullptr;
  Signal write_begun_;
};

Outgoing Push(FragmentId fragment) {
  PushKey key;
  key.worker = Incarnation(1);
  key.step = 7;
  key.fragment = fragment;
  Outgoing outgoing;
  outgoing.header = PushHeader(key, 0, WireType::kF32);
  return outgoing;
}

EncodedFrame AnswerTo(FragmentId fragment) {
  OutgoingQueue queue;
  Outgoing answer;
  answer.header = AnswerHeader({Incarnation(1), 7, fragment, Answer::kReceived, ""});
  queue.Add(std::move(answer));
  return queue.Next();
}

// gRPC says that a message was written on one thread and brings the peer's messages on another: the
// answer may come first. A step's bytes are complete once all its pushes are answered.
TEST(FrameStreamTest, AnswerBeforeTheWriteEnds_SentIsToldFirst) {
  std::vector<std::string> told;
  Signal answered, closed;
  EventLoop frames("frames");
  ScriptedReactor reactor;
  FrameStream::Events events;
  events.sent = [&](const FrameHeader& header) {
    told.push_back(absl::StrCat("sent ", header.step, ": ", FrameBytes(header)));
  };
  events.received = [&](FrameStream&, const ReceivedFrame& frame) {
    told.push_back(absl::StrCat("answer ", frame.header().step));
    answered.Set();
    return absl::OkStatus();
  };
  events.closed = [&](FrameStream&, const absl::Status&) { closed.Set(); };
  const auto stream =
      std::make_shared<FrameStream>(&frames, &reactor, std::move(events), FrameStream::Limits());

  stream->Send(Push(FragmentId(3)));
  ASSERT_TRUE(reactor.AwaitWrite());
  ASSERT_NE(reactor.read(), nullptr);
  *reactor.read() = AnswerTo(FragmentId(3)).message;
  stream->OnRead(true);
  ASSERT_TRUE(answered.Wait());
  stream->OnWritten(true);
  stream->OnDone(absl::OkStatus());
  ASSERT_TRUE(closed.Wait());
  EXPECT_EQ(told, (std::vector<std::string>{"sent 7: 96", "answer 7"}));
}

}  // namespace
}  // namespace sdp
