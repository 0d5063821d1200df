#include "common/wire/assembler.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace sdp {
namespace {

// A peer that keeps to the protocol has one fragment open per stream; more open or refused ones
// than this only come from a broken one.
constexpr size_t kMaxBrokenOff = 4096;

// Whether two parts belong to one contribution (or value).
bool SameFragment(const FrameHeader& a, const FrameHeader& b) {
  return a.kind == b.kind && a.wire_type == b.wire_type && a.generation == b.generation &&
         a.view == b.view && a.term == b.term && a.worker == b.worker && a.terms == b.terms &&
         a.total == b.total;
}

std::tuple<Step, Purpose, FragmentId> KeyOf(const FrameHeader& header) {
  return {header.step, header.purpose, header.fragment};
}

}  // namespace

absl::StatusOr<Assembler::Result> Assembler::Add(const FrameHeader& header, Chunks payload) {
  const Key key = KeyOf(header);
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
    open_.erase(part);
    return Refusal(header, Answer::kInvalid,
                   absl::StrCat("the part at byte ", header.offset,
                                " does not continue the one that ended at byte ", expected));
  }
  if (first) {
    if (open_.size() >= kMaxBrokenOff)
      return absl::ResourceExhaustedError("too many fragments begun and not finished");
    Result begun = Begin(header);
    if (begun.kind == Result::Kind::kRefused)
      return Refusal(header, begun.answer, std::move(begun.detail));
    part = open_.find(key);
  }
  Part& open = part->second;
  if (!Copy(header, payload, &open.value)) {
    open_.erase(part);
    return Refusal(header, Answer::kBadChecksum, absl::StrCat("the part at byte ", header.offset));
  }
  open.received += header.payload_bytes;
  open.wire_bytes += header.payload_bytes + static_cast<int64_t>(kFrameHeaderBytes);
  Result result;
  result.kind = last ? Result::Kind::kComplete : first ? Result::Kind::kBegun : Result::Kind::kMore;
  if (last) {
    result.value = std::move(open.value);
    result.hold = std::move(open.hold);
    result.wire_bytes = open.wire_bytes;
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
  ByteBudget::Hold hold;
  if (bytes > 0) hold = budget_->Take(bytes);
  if (bytes > 0 && !hold) {
    result.answer = Answer::kRetryAfter;
    result.detail = absl::StrCat("what has come and waits holds ", budget_->used(), " of ",
                                 budget_->limit(), " bytes already");
    return result;
  }
  Part& part = open_[KeyOf(header)];
  part.first = header;
  if (elements > 0) part.value = WireBuffer(header.wire_type, elements);
  part.hold = std::move(hold);
  result.kind = Result::Kind::kBegun;
  return result;
}

// False: the payload is not the one the checksum was made of; the part of the value is then spoilt.
bool Assembler::Copy(const FrameHeader& header, Chunks payload, WireBuffer* value) {
  if (header.payload_bytes == 0) return PayloadIntact(header, payload);
  return CopyChecked(header, payload, value->data() + header.offset);
}

absl::StatusOr<Assembler::Result> Assembler::Refusal(const FrameHeader& header, Answer answer,
                                                     std::string detail) {
  const int64_t next = header.offset + header.payload_bytes;
  if (next < header.total) {
    if (refused_.size() >= kMaxBrokenOff)
      return absl::ResourceExhaustedError("too many fragments broken off");
    refused_[KeyOf(header)] = next;
  }
  Result result;
  result.kind = Result::Kind::kRefused;
  result.answer = answer;
  result.detail = std::move(detail);
  return result;
}

void Assembler::Refuse(const PushKey& push) {
  const Key key(push.step, push.purpose, push.fragment);
  const auto part = open_.find(key);
  if (part == open_.end()) return;
  refused_[key] = part->second.received;
  open_.erase(part);
}

}  // namespace sdp
