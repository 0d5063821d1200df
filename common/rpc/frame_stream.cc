#include "common/rpc/frame_stream.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace sdp {
namespace {

// Messages read ahead of the executor, and encoded ahead of the socket: enough that neither waits
// for the other.
constexpr size_t kReadAhead = 4;
constexpr size_t kEncodeAhead = 4;
// How long a server that ends a stream waits for a write that the client does not take.
constexpr absl::Duration kLastWriteTimeout = absl::Seconds(1);

}  // namespace

void FrameStream::Send(Outgoing outgoing) {
  MutexLock lock(&mutex_);
  if (over()) return;
  added_.push_back(std::move(outgoing));
  PostWork();
}

void FrameStream::Close(const absl::Status& why) {
  {
    MutexLock lock(&mutex_);
    if (over()) return;
    closing_ = true;
    why_ = why;
    LimitLastWrite();
  }
  Pump();
}

// gRPC may call back from inside of what is begun here, so the lock is free meanwhile; `pumping_`
// keeps other threads, and the call back itself, from beginning anything at the same time. That
// matters at the end: nothing may follow Finish.
void FrameStream::Pump() {
  const std::shared_ptr<FrameStream> self =
      shared_from_this();  // Finish may free the reactor, which owns us
  for (bool first = true;; first = false) {
    Next next;
    absl::Status why;
    {
      MutexLock lock(&mutex_);
      if (first && pumping_) return;  // the other one looks again before it leaves
      next = Choose();
      pumping_ = next != Next::kNothing;
      why = why_;
    }
    switch (next) {
      case Next::kNothing:
        return;
      case Next::kRead:
        reactor_->BeginRead(&read_message_);
        break;
      case Next::kWrite:
        reactor_->BeginWrite(&written_frame_.message, more_follow_);
        break;
      case Next::kCancel:
        reactor_->Cancel();
        break;
      case Next::kFinish:
        reactor_->Finish(why);
        break;
    }
  }
}

// What can be begun now, marked as begun.
FrameStream::Next FrameStream::Choose() {
  if (finished_) return Next::kNothing;
  if (over()) {
    // A client ends its call by cancelling it. A server's Finish does that, and says why, which
    // cancelling would not.
    const bool cancel = reactor_->is_client() ? closing_ && !ended_ : writing_ && overdue_;
    if (cancel && !cancelled_) {
      cancelled_ = true;
      return Next::kCancel;
    }
    if (writing_) return Next::kNothing;
    finished_ = true;
    return Next::kFinish;
  }
  if (!reading_ && received_.size() < kReadAhead) {
    reading_ = true;
    return Next::kRead;
  }
  if (!writing_ && !encoded_.empty()) {
    writing_ = true;
    written_frame_ = std::move(encoded_.front());
    encoded_.pop_front();
    more_follow_ = !encoded_.empty();
    // Not once it is written: gRPC may bring the peer's answer before it says that the frame is
    // out.
    sent_.push_back(written_frame_.header);
    PostWork();
    WatchWrite();
    return Next::kWrite;
  }
  return Next::kNothing;
}

void FrameStream::LimitLastWrite() {
  if (!writing_ || reactor_->is_client()) return;
  frames_->PostAt(absl::Now() + kLastWriteTimeout, [self = shared_from_this()] {
    {
      MutexLock lock(&self->mutex_);
      self->overdue_ = true;
    }
    self->Pump();
  });
}

// One timer a stream, which looks again as long as writes are under way.
void FrameStream::WatchWrite() {
  if (limits_.stalled_write == absl::InfiniteDuration()) return;
  write_began_ = absl::Now();
  if (watching_) return;
  watching_ = true;
  frames_->PostAt(write_began_ + limits_.stalled_write,
                  [self = shared_from_this()] { self->CheckWrite(); });
}

void FrameStream::CheckWrite() {
  {
    MutexLock lock(&mutex_);
    watching_ = false;
    if (over() || !writing_) return;
    const absl::Time due = write_began_ + limits_.stalled_write;
    if (absl::Now() < due) {
      watching_ = true;
      frames_->PostAt(due, [self = shared_from_this()] { self->CheckWrite(); });
      return;
    }
  }
  Close(absl::ResourceExhaustedError(
      absl::StrCat("the peer has taken nothing of what it is sent for ",
                   absl::FormatDuration(limits_.stalled_write))));
}

void FrameStream::PostWork() {
  if (working_) return;
  working_ = true;
  frames_->Post([self = shared_from_this()] { self->Work(); });
}

void FrameStream::OnOpened() {
  frames_->Post([self = shared_from_this()] {
    if (self->events_.opened) self->events_.opened(*self);
  });
}

void FrameStream::OnRead(bool ok) {
  {
    MutexLock lock(&mutex_);
    reading_ = false;
    if (ok) {
      received_.push_back(std::move(read_message_));
      read_message_ = grpc::ByteBuffer();
      PostWork();
    } else {
      ended_ = true;
      LimitLastWrite();
    }
  }
  Pump();
}

void FrameStream::OnWritten(bool ok) {
  EncodedFrame written;  // freed without the lock: it may be the last reference to a large buffer
  {
    MutexLock lock(&mutex_);
    writing_ = false;
    written = std::move(written_frame_);
    written_frame_ = EncodedFrame();
    if (!ok) ended_ = true;
  }
  Pump();
}

void FrameStream::OnDone(const absl::Status& status) {
  absl::Status why = status;
  {
    MutexLock lock(&mutex_);
    if (closing_) why = why_;
    ended_ = true;
    finished_ = true;
  }
  frames_->Post([self = shared_from_this(), why] {
    self->events_.closed(*self, why);
    self->Clear();
  });
}

// Timers may keep a stream a little longer; what it was to send must not stay with it.
void FrameStream::Clear() {
  events_ = Events();
  outgoing_ = OutgoingQueue();
  std::deque<Outgoing> added;
  std::deque<EncodedFrame> encoded;
  std::deque<grpc::ByteBuffer> received;
  MutexLock lock(&mutex_);
  added.swap(added_);
  encoded.swap(encoded_);
  received.swap(received_);
}

void FrameStream::Work() {
  std::deque<Outgoing> added;
  std::deque<grpc::ByteBuffer> received;
  std::deque<FrameHeader> sent;
  {
    MutexLock lock(&mutex_);
    working_ = false;
    added.swap(added_);
    received.swap(received_);
    sent.swap(sent_);
  }
  Pump();  // there is room to read ahead again
  for (const FrameHeader& header : sent) {
    if (events_.sent) events_.sent(header);
  }
  for (const grpc::ByteBuffer& message : received) Receive(message);
  for (Outgoing& outgoing : added) outgoing_.Add(std::move(outgoing));
  if (outgoing_.texts() > limits_.queued_texts) {
    Close(absl::ResourceExhaustedError(
        absl::StrCat("the peer does not take its answers: ", outgoing_.texts(), " wait")));
  }
  Encode();
}

void FrameStream::Receive(const grpc::ByteBuffer& message) {
  {
    MutexLock lock(&mutex_);
    if (closing_) return;
  }
  if (!events_.received) return;  // closed
  const absl::StatusOr<ReceivedFrame> frame = ReceivedFrame::Read(message);
  const absl::Status status = frame.ok() ? events_.received(*this, *frame) : frame.status();
  if (!status.ok()) Close(status);
}

void FrameStream::Encode() {
  for (;;) {
    {
      MutexLock lock(&mutex_);
      if (outgoing_.empty() || over() || encoded_.size() >= kEncodeAhead) break;
    }
    EncodedFrame frame = outgoing_.Next();
    {
      MutexLock lock(&mutex_);
      encoded_.push_back(std::move(frame));
    }
    Pump();
  }
}

}  // namespace sdp
