#pragma once

#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/outgoing.h"
#include "common/rpc/status_code.h"
#include "common/rpc/stream_name.h"
#include "tests/shard_service/fixture.h"

namespace sdp {

// A stream whose frames a test writes itself, byte by byte, and waits for one after the other.
class RawStream {
 public:
  RawStream(const std::string& address, const std::string& method)
      : RawStream(address, method, TestName(1)) {}
  RawStream(const std::string& address, const std::string& method, const StreamName& name,
            absl::Duration life = kTestDeadline)
      : RawStream(address, method, StreamNameText(name), life) {}
  // Connections are shared as gRPC likes.
  RawStream(const std::string& address, const std::string& method, const std::string& name,
            absl::Duration life = kTestDeadline)
      : stub_(MakeChannel(address, {}).value()) {
    if (!name.empty()) context_.AddMetadata(kStreamNameKey, name);
    context_.set_deadline(std::chrono::system_clock::now() + absl::ToChronoSeconds(life));
    stream_ = stub_.PrepareCall(&context_, "/sdp.proto.Shard/" + method, &queue_);
    stream_->StartCall(this);
    Next();
  }
  ~RawStream() {
    context_.TryCancel();
    if (!ended_) (void)AwaitClosed();
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) continue;
  }

  // False: the stream has ended.
  bool SendBytes(const std::string& bytes) {
    const grpc::Slice slice(bytes);
    stream_->Write(grpc::ByteBuffer(&slice, 1), this);
    return Next();
  }
  // Fills in the payload's size and checksum.
  bool Send(FrameHeader header, const std::string& payload) {
    const absl::string_view view = payload;
    header.payload_bytes = static_cast<int64_t>(payload.size());
    header.checksum = PayloadChecksum({&view, 1});
    return SendAsIs(header, payload);
  }
  bool SendAsIs(const FrameHeader& header, const std::string& payload) {
    const FrameHeaderBytes bytes = EncodeHeader(header);
    return SendBytes(std::string(bytes.data(), bytes.size()) + payload);
  }
  void SendFragment(const PushKey& key, const std::vector<float>& numbers) {
    FrameHeader header = PushHeader(key, static_cast<int64_t>(numbers.size()), WireType::kF32);
    const std::string all(reinterpret_cast<const char*>(numbers.data()), 4 * numbers.size());
    do {
      const std::string part = all.substr(static_cast<size_t>(header.offset), kMaxPayloadBytes);
      Send(header, part);
      header.offset += static_cast<int64_t>(part.size());
    } while (header.offset < header.total);
  }
  bool SendWant(const RequestKey& key, const std::vector<FragmentId>& fragments) {
    return Send(WantHeader(key, fragments.size(), WireType::kF32), WantPayload(fragments));
  }
  using Frame = std::pair<FrameHeader, std::string>;
  // The next frame, or with what status the stream has ended (OutOfRange instead of OK).
  absl::StatusOr<Frame> NextFrame() {
    grpc::ByteBuffer message;
    stream_->Read(&message, this);
    if (!Next()) {
      const absl::Status end = AwaitClosed();
      return end.ok() ? absl::OutOfRangeError("the stream ended") : end;
    }
    SDP_ASSIGN_OR_RETURN(const auto frame, ReceivedFrame::Read(message));
    return Frame(frame.header(), frame.Text());
  }
  Frame AwaitFrame() {
    absl::StatusOr<Frame> frame = NextFrame();
    if (frame.ok()) return *std::move(frame);
    ADD_FAILURE() << "no frame; " << frame.status();
    return {};
  }
  absl::Status AwaitClosed() {
    grpc::Status status;
    stream_->Finish(&status, this);
    Next();
    ended_ = true;
    return FromGrpc(status);
  }

 private:
  bool Next() {
    void* tag;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::CompletionQueue queue_;
  grpc::ClientContext context_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  bool ended_ = false;
};

inline std::vector<float> Filled(int64_t size, float value) {
  return std::vector<float>(static_cast<size_t>(size), value);
}

}  // namespace sdp
