#include "common/wire/assembler.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace sdp {
namespace {

// A peer that keeps to the protocol has one fragment open per stream; more refused ones than this
// only come from a broken one.
constexpr size_t kMaxRefused = 4096;

// Whether two parts belong to one contribution (or value).
bool SameFragment(const FrameHeader& a, const FrameHeader& b) {
  return a.kind == b.kind && a.wire_type == b.wire_type && a.generation == b.generation &&
         a.view == b.view && a.term == b.term && a.worker == b.worker && a.terms == b.terms &&
         a.total == b.total;
}

}  // namespace

absl::StatusOr<Assembler::Result> Assembler::Add(const FrameHeader& header, Chunks payload) {
  const Key key(header.step, header.fragment);
  const bool last = header.offset + header.payload_bytes == header.total;
  if (const auto refused = refused_.find(key); refused != refused_.end()) {
    if (header.offset > 0 && header.offset == refused->second) {
      refused->second += header.payload_bytes;
      if (last) refused_.erase(refused);
      return Result();
    }
    refused_.erase(refused);  // the contribution is sent again, or makes no sense
  }

  auto part = open_.find(key);
  const bool first = part == open_.end();
  if (first && header.offset > 0) {
    return Refusal(header, Answer::kInvalid,
                   absl::StrCat("the first part begins at byte ", header.offset));
  }
  if (!first &&
      (header.offset != part->second.received || !SameFragment(header, part->second.first))) {
    const int64_t expected = part->second.received;
    Drop(key);
    return Refusal(header, Answer::kInvalid,
                   absl::StrCat("the part at byte ", header.offset,
                                " does not continue the one that ended at byte ", expected));
  }
  if (first) {
    Result begun = Begin(header);
    if (begun.kind == Result::Kind::kRefused)
      return Refusal(header, begun.answer, std::move(begun.detail));
    part = open_.find(key);
  }
  if (!PayloadIntact(header, payload)) {
    Drop(key);
    return Refusal(header, Answer::kBadChecksum, absl::StrCat("the part at byte ", header.offset));
  }
  Part& open = part->second;
  char* to = open.value.data() + header.offset;
  for (const absl::string_view chunk : payload) {
    std::memcpy(to, chunk.data(), chunk.size());
    to += chunk.size();
  }
  open.received += header.payload_bytes;
  open.wire_bytes += header.payload_bytes + static_cast<int64_t>(kFrameHeaderBytes);
  Result result;
  result.kind = last ? Result::Kind::kComplete : first ? Result::Kind::kBegun : Result::Kind::kMore;
  if (last) {
    result.value = std::move(open.value);
    result.wire_bytes = open.wire_bytes;
    bytes_ -= result.value.bytes();
    open_.erase(part);
  }
  return result;
}

// Opens a fragment, or says in the result why not.
Assembler::Result Assembler::Begin(const FrameHeader& header) {
  Result result;
  result.kind = Result::Kind::kRefused;
  result.answer = Answer::kInvalid;
  if (header.fragment.value() >= layout_->fragments()) {
    result.detail =
        absl::StrCat("fragment ", header.fragment.value(), " of ", layout_->fragments());
    return result;
  }
  const int64_t elements = header.total / BytesPerElement(header.wire_type);
  if (const int64_t size = layout_->fragment(header.fragment).size;
      elements != 0 && elements != size) {
    result.detail = absl::StrCat("fragment ", header.fragment.value(), " has ", size,
                                 " elements, not ", elements);
    return result;
  }
  const int64_t bytes = header.total;
  if (bytes_ > 0 && bytes_ + bytes > max_bytes_) {
    result.answer = Answer::kRetryAfter;
    result.detail = absl::StrCat("fragments begun on this stream hold ", bytes_, " bytes already");
    return result;
  }
  Part& part = open_[{header.step, header.fragment}];
  part.first = header;
  if (elements > 0) part.value = WireBuffer(header.wire_type, elements);
  bytes_ += bytes;
  result.kind = Result::Kind::kBegun;
  return result;
}

absl::StatusOr<Assembler::Result> Assembler::Refusal(const FrameHeader& header, Answer answer,
                                                     std::string detail) {
  const int64_t next = header.offset + header.payload_bytes;
  if (next < header.total) {
    if (refused_.size() >= kMaxRefused)
      return absl::ResourceExhaustedError("too many fragments broken off");
    refused_[{header.step, header.fragment}] = next;
  }
  Result result;
  result.kind = Result::Kind::kRefused;
  result.answer = answer;
  result.detail = std::move(detail);
  return result;
}

void Assembler::Refuse(Step step, FragmentId fragment) {
  const Key key(step, fragment);
  const auto part = open_.find(key);
  if (part == open_.end()) return;
  refused_[key] = part->second.received;
  Drop(key);
}

void Assembler::Drop(const Key& key) {
  const auto part = open_.find(key);
  bytes_ -= part->second.value.bytes();
  open_.erase(part);
}

}  // namespace sdp
