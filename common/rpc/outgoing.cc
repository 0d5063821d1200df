#include "common/rpc/outgoing.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sdp {
namespace {

absl::string_view View(const grpc::Slice& slice) {
  return {reinterpret_cast<const char*>(slice.begin()), slice.size()};
}

// A slice of memory that `owner` keeps alive.
template <typename Owner>
grpc::Slice Borrow(absl::string_view bytes, const std::shared_ptr<Owner>& owner) {
  const auto release = [](void* held) { delete static_cast<std::shared_ptr<Owner>*>(held); };
  return grpc::Slice(const_cast<char*>(bytes.data()), bytes.size(), release,
                     new std::shared_ptr<Owner>(owner));
}

grpc::Slice Copy(absl::string_view bytes) { return grpc::Slice(bytes.data(), bytes.size()); }

// Fills in what depends on the payload.
EncodedFrame Encode(FrameHeader header, absl::string_view payload, const grpc::Slice* slice) {
  header.payload_bytes = static_cast<int64_t>(payload.size());
  header.checksum = PayloadChecksum({&payload, 1});
  const FrameHeaderBytes bytes = EncodeHeader(header);
  const grpc::Slice slices[] = {Copy({bytes.data(), bytes.size()}),
                                slice == nullptr ? grpc::Slice() : *slice};
  EncodedFrame frame;
  frame.message = grpc::ByteBuffer(slices, payload.empty() ? 1 : 2);
  frame.header = header;
  return frame;
}

}  // namespace

void OutgoingQueue::Add(Outgoing outgoing) {
  const bool parts =
      outgoing.header.kind == FrameKind::kPushPart || outgoing.header.kind == FrameKind::kValuePart;
  if (parts) {
    const Step step = outgoing.header.step;
    const FragmentId fragment = outgoing.header.fragment;
    const std::tuple key(step, outgoing.header.purpose, fragment);
    if (outgoing.header.kind == FrameKind::kValuePart) {
      Step& last = last_value_.try_emplace(fragment, step).first->second;
      if (last != step) waiting_.erase({std::exchange(last, step), Purpose::kTrain, fragment});
    }
    waiting_.insert_or_assign(key, std::move(outgoing));
  } else {
    if (!JoinWant(outgoing)) texts_.push_back(std::move(outgoing));
  }
}

// A worker asks for fragment after fragment as its buffers become free; one frame carries many.
bool OutgoingQueue::JoinWant(const Outgoing& outgoing) {
  if (outgoing.header.kind != FrameKind::kPullWant || texts_.empty()) return false;
  Outgoing& last = texts_.back();
  FrameHeader header = last.header;
  header.total = outgoing.header.total;
  if (header != outgoing.header || last.header.total + outgoing.header.total > kMaxPayloadBytes) {
    return false;
  }
  last.header.total += outgoing.header.total;
  last.text += outgoing.text;
  return true;
}

void OutgoingQueue::BeginNext() {
  current_ = std::make_unique<Current>();
  current_->outgoing = std::move(waiting_.begin()->second);
  waiting_.erase(waiting_.begin());
  Outgoing& outgoing = current_->outgoing;
  if (outgoing.header.wire_type == WireType::kBf16 && outgoing.numbers != nullptr) {
    outgoing.encoded = std::make_shared<const WireBuffer>(
        WireBuffer::Rounded(WireType::kBf16, outgoing.numbers->span()));
    outgoing.numbers = nullptr;
  }
}

EncodedFrame OutgoingQueue::Next() {
  if (!texts_.empty()) {
    const Outgoing text = std::move(texts_.front());
    texts_.pop_front();
    // The header's total is what fits.
    const absl::string_view payload =
        absl::string_view(text.text).substr(0, static_cast<size_t>(text.header.total));
    const grpc::Slice slice = Copy(payload);
    return Encode(text.header, payload, &slice);
  }
  if (current_ == nullptr) BeginNext();
  FrameHeader header = current_->outgoing.header;
  header.offset = current_->sent;
  const int64_t size = std::min(kMaxPayloadBytes, header.total - current_->sent);
  current_->sent += size;
  const auto range = [&](const void* data) {
    return absl::string_view(static_cast<const char*>(data) + header.offset,
                             static_cast<size_t>(size));
  };
  EncodedFrame frame;
  if (size == 0) {
    frame = Encode(header, "", nullptr);
  } else if (current_->outgoing.encoded != nullptr) {
    const absl::string_view payload = range(current_->outgoing.encoded->data());
    const grpc::Slice slice = Borrow(payload, current_->outgoing.encoded);
    frame = Encode(header, payload, &slice);
  } else {
    const absl::string_view payload = range(current_->outgoing.numbers->data());
    const grpc::Slice slice = Borrow(payload, current_->outgoing.numbers);
    frame = Encode(header, payload, &slice);
  }
  if (current_->sent == header.total) current_ = nullptr;
  return frame;
}

absl::StatusOr<ReceivedFrame> ReceivedFrame::Read(const grpc::ByteBuffer& message) {
  ReceivedFrame frame;
  const size_t total = message.Length();
  if (total > 0) {
    if (grpc::Status status = message.Dump(&frame.slices_); !status.ok()) {
      return absl::InternalError("frame: gRPC cannot uncompress the message");
    }
  }
  std::string head;  // only if it is cut
  absl::string_view header;
  size_t skip = kFrameHeaderBytes;
  if (!frame.slices_.empty() && frame.slices_[0].size() >= kFrameHeaderBytes) {
    header = View(frame.slices_[0]);
  } else {
    for (const grpc::Slice& slice : frame.slices_) {
      absl::StrAppend(&head, View(slice).substr(0, kFrameHeaderBytes - head.size()));
    }
    header = head;
  }
  SDP_ASSIGN_OR_RETURN(frame.header_, DecodeHeader(header, total));
  for (const grpc::Slice& slice : frame.slices_) {
    const absl::string_view bytes = View(slice);
    if (bytes.size() > skip) frame.payload_.push_back(bytes.substr(skip));
    skip -= std::min(skip, bytes.size());
  }
  return frame;
}

std::string ReceivedFrame::Text() const {
  std::string text;
  for (const absl::string_view chunk : payload_) absl::StrAppend(&text, chunk);
  return text;
}

}  // namespace sdp
