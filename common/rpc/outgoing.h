#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/float_buffer.h"
#include "common/base/ids.h"
#include "common/base/wire_buffer.h"
#include "common/wire/frame.h"

namespace sdp {

// A whole fragment, or a message of one frame, on its way out: `header` without what differs by
// part.
struct Outgoing {
  FrameHeader header;
  // Of a push or value, [n]: what is sent as it is, or f32 numbers to be written in the header's
  // type. Neither: the payload is `text`.
  SharedWire encoded;
  SharedValue numbers;
  std::string text;
};

// One frame, ready to be written.
struct EncodedFrame {
  grpc::ByteBuffer message;
  FrameHeader header;
};

// OutgoingQueue orders what a stream sends and cuts it into frames. Frames of text first, in order;
// then fragments by (step, purpose, fragment), so first layers first. A fragment that was begun is
// finished first: the receiver has one open at a time. A payload that has its type already is not
// copied: the frames refer to the numbers and keep them alive. Same fragment and step twice: the
// newer one replaces the one that waits; of values, one version of a fragment waits, the one added
// last, so that a peer that takes nothing keeps no more than one model's worth alive. Threads:
// confined to one; frames may be used anywhere.
class OutgoingQueue {
 public:
  // A want that follows another one of the same step joins it.
  void Add(Outgoing outgoing);
  bool empty() const { return texts_.empty() && waiting_.empty() && current_ == nullptr; }
  size_t texts() const { return texts_.size(); }
  // Computes checksums, and bf16. Precondition: not empty.
  EncodedFrame Next();

 private:
  struct Current {
    Outgoing outgoing;
    int64_t sent = 0;  // payload bytes
  };
  bool JoinWant(const Outgoing& outgoing);
  void BeginNext();

  std::deque<Outgoing> texts_;
  std::map<std::tuple<Step, Purpose, FragmentId>, Outgoing> waiting_;
  absl::flat_hash_map<FragmentId, Step> last_value_;  // the version added last, sent or not
  std::unique_ptr<Current> current_;                  // begun; null: none
};

// The pieces of a received message, valid as long as this object.
class ReceivedFrame {
 public:
  // InvalidArgument, DataLoss - DecodeHeader's.
  static absl::StatusOr<ReceivedFrame> Read(const grpc::ByteBuffer& message);

  const FrameHeader& header() const { return header_; }
  Chunks payload() const { return payload_; }
  std::string Text() const;  // the payload of an answer or refusal
  int64_t bytes() const { return FrameBytes(header_); }

 private:
  FrameHeader header_;
  std::vector<grpc::Slice> slices_;
  std::vector<absl::string_view> payload_;  // in slices_
};

}  // namespace sdp
