#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/protocol/messages.h"

// The messages of the streams Push and Pull between workers and shards: a fixed header and a
// payload.
//
// Header, 96 bytes, little-endian (proto/shard.proto has the same table; a change raises
// kFrameVersion):
//   byte size field
//      0    4 magic "SDPF"
//      4    2 version of this format: 1
//      6    1 kind: 0 push part, 1 push answer, 2 pull want, 3 value part, 4 refusal (of a pull),
//           5 reads done: of versions up to `step`
//      7    1 wire type of the payload's numbers: 0 f32, 1 bf16. In a pull want: the type wanted
//      8    8 generation
//     16    8 view
//     24    8 term
//     32    8 step
//     40    8 worker incarnation
//     48    8 terms n (push part; otherwise 0)
//     56    8 offset of this part's payload in the fragment, in bytes as written
//     64    8 total bytes of the fragment as written, all parts together
//     72    8 checksum of the payload: XXH3, 64 bits
//     80    4 fragment (pull want: 0)
//     84    4 payload bytes: at most 1 MiB, and all of the message behind the header
//     88    1 answer code (push answer, refusal): the order of enum Answer
//     89    1 purpose (push part, push answer; otherwise 0): 0 train, 1 dense
//     90    2 zero
//     92    4 checksum of bytes 0..91: XXH3, its low 32 bits
// Payload: push and value parts: numbers; a fragment's parts follow each other in order of offset,
// possibly with frames of other fragments between. A push with n = 0 is one frame with total 0.
// Pull want: fragments as 4-byte integers, most urgent first. Push answer and refusal: the detail,
// UTF-8. Reads done: none.
//
// Kind 5 came later, with backward masking; a process that does not know it refuses the
// configuration of a run that has it, so the version stays.
//
// A damaged header leaves nothing to answer to: the stream is closed. A damaged payload harms only
// its fragment.
namespace sdp {

inline constexpr size_t kFrameHeaderBytes = 96;
inline constexpr int64_t kMaxPayloadBytes = int64_t{1} << 20;
inline constexpr size_t kMaxDetailBytes = 4096;
inline constexpr uint16_t kFrameVersion = 1;

enum class FrameKind : uint8_t {
  kPushPart,
  kPushAnswer,
  kPullWant,
  kValuePart,
  kRefusal,
  kReadsDone
};

struct FrameHeader {
  FrameKind kind = FrameKind::kPushPart;
  WireType wire_type = WireType::kF32;
  Generation generation;
  ViewId view;
  Term term;
  Step step = 0;
  Incarnation worker;
  int64_t terms = 0;
  int64_t offset = 0;
  int64_t total = 0;
  uint64_t checksum = 0;
  FragmentId fragment;
  int64_t payload_bytes = 0;
  Answer answer = Answer::kReceived;
  Purpose purpose = Purpose::kTrain;

  friend bool operator==(const FrameHeader&, const FrameHeader&) = default;
};

// Of a frame with this header: header and payload.
inline int64_t FrameBytes(const FrameHeader& header) {
  return header.payload_bytes + static_cast<int64_t>(kFrameHeaderBytes);
}

using FrameHeaderBytes = std::array<char, kFrameHeaderBytes>;

// A payload as it lies in memory: pieces in order, since transports cut messages anywhere.
using Chunks = absl::Span<const absl::string_view>;

FrameHeaderBytes EncodeHeader(const FrameHeader& header);

// Reads the header of a message of `message_bytes` bytes, of which `bytes` are the first (at least
// the header's, if the message has them). What it returns satisfies every rule above but the
// payload's checksum, so nothing behind it checks again. DataLoss - damaged header. InvalidArgument
// - not a frame, another version, or a rule is broken.
absl::StatusOr<FrameHeader> DecodeHeader(absl::string_view bytes, size_t message_bytes);

uint64_t PayloadChecksum(Chunks payload);
// Whether the payload is the one the header's checksum was made of.
bool PayloadIntact(const FrameHeader& header, Chunks payload);
// The same in one pass with a copy to `to` (payload_bytes, no overlap), which is made in any case.
bool CopyChecked(const FrameHeader& header, Chunks payload, char* to);

// ---- Headers of the six kinds ----

// Of a whole contribution of `elements` numbers; the sender fills in each part (offset, payload
// bytes, checksum).
FrameHeader PushHeader(const PushKey& key, int64_t elements, WireType wire_type);
FrameHeader ValueHeader(const RequestKey& key, FragmentId fragment, int64_t elements,
                        WireType wire_type);
// The payload is `answer.detail`, cut to kMaxDetailBytes.
FrameHeader AnswerHeader(const PushAnswer& answer);
FrameHeader RefusalHeader(const Delivery& refusal);
// The payload is WantPayload(fragments). At most kMaxPayloadBytes / 4 fragments fit.
FrameHeader WantHeader(const RequestKey& key, size_t fragments, WireType wire_type);

FrameHeader ReadsDoneHeader(const ReadsDone& done);

std::string WantPayload(absl::Span<const FragmentId> fragments);
// Precondition: a decoded header of a pull want.
std::vector<FragmentId> ReadWantPayload(Chunks payload);

RequestKey RequestKeyOf(const FrameHeader& header);
PushKey PushKeyOf(const FrameHeader& header);

}  // namespace sdp
