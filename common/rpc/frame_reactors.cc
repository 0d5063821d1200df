// The two kinds of gRPC reactor that a FrameStream drives.
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/client_callback.h>

#include <memory>
#include <string>
#include <utility>

#include "common/rpc/frame_stream.h"
#include "common/rpc/status_code.h"

namespace sdp {
namespace {

using ClientBidi = grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;
using ServerBidi = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

grpc::WriteOptions WithHint(bool more) {
  grpc::WriteOptions options;
  if (more) options.set_buffer_hint();
  return options;
}

class ClientReactor final : public ClientBidi, public FrameStream::Reactor {
 public:
  ClientReactor(const std::shared_ptr<grpc::Channel>& channel, const StreamName& name,
                EventLoop* frames, FrameStream::Events events)
      : stub_(channel),
        stream_(
            std::make_shared<FrameStream>(frames, this, std::move(events), FrameStream::Limits())) {
    context_.AddMetadata(kStreamNameKey, StreamNameText(name));
  }

  std::shared_ptr<FrameStream> Start(const std::string& path) {
    const std::shared_ptr<FrameStream> stream = stream_;
    stub_.PrepareBidiStreamingCall(&context_, path, grpc::StubOptions(), this);
    AddHold();  // until Finish: reads and writes begin outside of reactions too
    StartCall();
    stream->Pump();
    return stream;
  }

  bool is_client() const override { return true; }
  void BeginRead(grpc::ByteBuffer* message) override { StartRead(message); }
  void BeginWrite(const grpc::ByteBuffer* message, bool more) override {
    StartWrite(message, WithHint(more));
  }
  void Cancel() override { context_.TryCancel(); }
  void Finish(const absl::Status&) override { RemoveHold(); }

  void OnReadInitialMetadataDone(bool ok) override {
    if (ok) stream_->OnOpened();
  }
  void OnReadDone(bool ok) override { stream_->OnRead(ok); }
  void OnWriteDone(bool ok) override { stream_->OnWritten(ok); }
  // The stream's owner keeps the channel until it hears of the end. It must not go with us: gRPC
  // would join its threads from one of them.
  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<FrameStream> stream = stream_;
    const absl::Status result = FromGrpc(status);
    delete this;
    stream->OnDone(result);
  }

 private:
  grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub_;
  grpc::ClientContext context_;
  const std::shared_ptr<FrameStream> stream_;
};

class ServerReactor final : public ServerBidi, public FrameStream::Reactor {
 public:
  ServerReactor(grpc::CallbackServerContext* context, EventLoop* frames, FrameStream::Events events,
                FrameStream::Limits limits)
      : context_(context),
        stream_(std::make_shared<FrameStream>(frames, this, std::move(events), limits)) {}

  void Start() {
    StartSendInitialMetadata();  // tells the client that the stream is open
    stream_->OnOpened();
    stream_->Pump();
  }

  bool is_client() const override { return false; }
  void BeginRead(grpc::ByteBuffer* message) override { StartRead(message); }
  void BeginWrite(const grpc::ByteBuffer* message, bool more) override {
    StartWrite(message, WithHint(more));
  }
  void Cancel() override { context_->TryCancel(); }
  void Finish(const absl::Status& why) override { ServerBidi::Finish(ToGrpc(why)); }

  void OnReadDone(bool ok) override { stream_->OnRead(ok); }
  void OnWriteDone(bool ok) override { stream_->OnWritten(ok); }
  void OnDone() override {
    stream_->OnDone(
        absl::OkStatus());  // why a client went, or that it was cut off, gRPC does not tell
    delete this;
  }

 private:
  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<FrameStream> stream_;
};

}  // namespace

std::shared_ptr<FrameStream> FrameStream::Call(const std::shared_ptr<grpc::Channel>& channel,
                                               const std::string& path, const StreamName& name,
                                               EventLoop* frames, Events events) {
  return (new ClientReactor(channel, name, frames, std::move(events)))->Start(path);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* FrameStream::Serve(
    grpc::CallbackServerContext* context, EventLoop* frames, Events events, Limits limits) {
  auto* reactor = new ServerReactor(context, frames, std::move(events), limits);
  reactor->Start();
  return reactor;
}

}  // namespace sdp
