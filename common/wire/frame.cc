#include "common/wire/frame.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/hash.h"

namespace sdp {
namespace {

static_assert(std::endian::native == std::endian::little,
              "frames are written as they lie in memory");

constexpr absl::string_view kMagic = "SDPF";
constexpr int64_t kMaxTotalBytes = int64_t{1} << 40;  // keeps sums of sizes far from overflow

template <typename T>
void Put(FrameHeaderBytes* bytes, size_t at, T value) {
  std::memcpy(bytes->data() + at, &value, sizeof(value));
}

template <typename T>
T Get(absl::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

uint32_t HeaderChecksum(absl::string_view bytes) {
  return static_cast<uint32_t>(Hash64(bytes.substr(0, 92)));
}

absl::Status Invalid(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("frame: ", what));
}

// Sizes of numbers in parts: push and value.
absl::Status CheckNumbers(const FrameHeader& header) {
  const int64_t element = BytesPerElement(header.wire_type);
  if (header.total % element != 0 || header.offset % element != 0 ||
      header.payload_bytes % element != 0) {
    return Invalid(absl::StrCat("total ", header.total, ", offset ", header.offset, ", payload ",
                                header.payload_bytes, " are not multiples of ", element));
  }
  if (header.payload_bytes == 0 && header.total > 0) return Invalid("a part without payload");
  return absl::OkStatus();
}

// What is particular to the kind, after sizes and signs.
absl::Status CheckKind(const FrameHeader& header) {
  const bool whole = header.offset == 0 && header.payload_bytes == header.total;
  switch (header.kind) {
    case FrameKind::kPushPart:
      if ((header.terms == 0) != (header.total == 0)) {
        return Invalid(
            absl::StrCat("a push of ", header.total, " bytes over ", header.terms, " terms"));
      }
      return CheckNumbers(header);
    case FrameKind::kValuePart:
      if (header.total == 0) return Invalid("a value of 0 bytes");
      return CheckNumbers(header);
    case FrameKind::kPullWant:
      if (!whole || header.total == 0 || header.total % 4 != 0)
        return Invalid("the list of a pull");
      return absl::OkStatus();
    case FrameKind::kPushAnswer:
    case FrameKind::kRefusal:
      if (!whole || header.total > static_cast<int64_t>(kMaxDetailBytes))
        return Invalid("the detail of an answer");
      return absl::OkStatus();
    case FrameKind::kReadsDone:
      if (!whole || header.total != 0) return Invalid("reads done with a payload");
      return absl::OkStatus();
  }
  return Invalid("unknown kind");
}

absl::Status CheckHeader(const FrameHeader& header) {
  if (header.kind != FrameKind::kPushPart && header.terms != 0)
    return Invalid("terms outside of a push");
  if (header.kind != FrameKind::kPushPart && header.kind != FrameKind::kPushAnswer &&
      header.purpose != Purpose::kTrain) {
    return Invalid("a purpose outside of pushes and their answers");
  }
  if (header.generation.value() < 0 || header.view.value() < 0 || header.term.value() < 0 ||
      header.step < 0 || header.worker.value() < 0 || header.terms < 0 || header.offset < 0 ||
      header.total < 0 || header.fragment.value() < 0) {
    return Invalid("a negative number");
  }
  if (header.payload_bytes > kMaxPayloadBytes) {
    return Invalid(
        absl::StrCat("payload of ", header.payload_bytes, " bytes, more than ", kMaxPayloadBytes));
  }
  if (header.total > kMaxTotalBytes || header.offset > header.total - header.payload_bytes) {
    return Invalid(
        absl::StrCat("bytes ", header.offset, " + ", header.payload_bytes, " of ", header.total));
  }
  return CheckKind(header);
}

FrameHeader HeaderOf(FrameKind kind, const RequestKey& key) {
  FrameHeader header;
  header.kind = kind;
  header.generation = key.generation;
  header.view = key.view;
  header.term = key.term;
  header.step = key.step;
  header.worker = key.worker;
  return header;
}

FrameHeader TextHeader(FrameKind kind, Incarnation worker, Step step, FragmentId fragment,
                       Answer answer, const std::string& detail) {
  FrameHeader header;
  header.kind = kind;
  header.worker = worker;
  header.step = step;
  header.fragment = fragment;
  header.answer = answer;
  header.total = static_cast<int64_t>(std::min(detail.size(), kMaxDetailBytes));
  return header;
}

}  // namespace

FrameHeaderBytes EncodeHeader(const FrameHeader& header) {
  FrameHeaderBytes bytes{};
  std::memcpy(bytes.data(), kMagic.data(), kMagic.size());
  Put<uint16_t>(&bytes, 4, kFrameVersion);
  Put<uint8_t>(&bytes, 6, static_cast<uint8_t>(header.kind));
  Put<uint8_t>(&bytes, 7, static_cast<uint8_t>(header.wire_type));
  Put<int64_t>(&bytes, 8, header.generation.value());
  Put<int64_t>(&bytes, 16, header.view.value());
  Put<int64_t>(&bytes, 24, header.term.value());
  Put<int64_t>(&bytes, 32, header.step);
  Put<int64_t>(&bytes, 40, header.worker.value());
  Put<int64_t>(&bytes, 48, header.terms);
  Put<int64_t>(&bytes, 56, header.offset);
  Put<int64_t>(&bytes, 64, header.total);
  Put<uint64_t>(&bytes, 72, header.checksum);
  Put<int32_t>(&bytes, 80, header.fragment.value());
  Put<uint32_t>(&bytes, 84, static_cast<uint32_t>(header.payload_bytes));
  Put<uint8_t>(&bytes, 88, static_cast<uint8_t>(header.answer));
  Put<uint8_t>(&bytes, 89, static_cast<uint8_t>(header.purpose));
  Put<uint32_t>(&bytes, 92, HeaderChecksum({bytes.data(), bytes.size()}));
  return bytes;
}

absl::StatusOr<FrameHeader> DecodeHeader(absl::string_view bytes, size_t message_bytes) {
  if (bytes.size() < kFrameHeaderBytes || message_bytes < kFrameHeaderBytes) {
    return Invalid(absl::StrCat(message_bytes, " bytes are no header"));
  }
  if (bytes.substr(0, 4) != kMagic) return Invalid("wrong magic");
  if (const auto version = Get<uint16_t>(bytes, 4); version != kFrameVersion) {
    return Invalid(absl::StrCat("version ", version, ", not ", kFrameVersion));
  }
  if (Get<uint32_t>(bytes, 92) != HeaderChecksum(bytes))
    return absl::DataLossError("frame: damaged header");

  const auto kind = Get<uint8_t>(bytes, 6);
  const auto wire_type = Get<uint8_t>(bytes, 7);
  const auto answer = Get<uint8_t>(bytes, 88);
  const auto purpose = Get<uint8_t>(bytes, 89);
  if (kind > static_cast<uint8_t>(FrameKind::kReadsDone))
    return Invalid(absl::StrCat("kind ", kind));
  if (wire_type > static_cast<uint8_t>(WireType::kBf16))
    return Invalid(absl::StrCat("wire type ", wire_type));
  if (answer > static_cast<uint8_t>(Answer::kInvalid))
    return Invalid(absl::StrCat("answer ", answer));
  if (purpose > static_cast<uint8_t>(Purpose::kDense))
    return Invalid(absl::StrCat("purpose ", purpose));
  if (bytes[90] != 0 || bytes[91] != 0) return Invalid("bytes 90..91 are not zero");

  FrameHeader header;
  header.kind = static_cast<FrameKind>(kind);
  header.wire_type = static_cast<WireType>(wire_type);
  header.generation = Generation(Get<int64_t>(bytes, 8));
  header.view = ViewId(Get<int64_t>(bytes, 16));
  header.term = Term(Get<int64_t>(bytes, 24));
  header.step = Get<int64_t>(bytes, 32);
  header.worker = Incarnation(Get<int64_t>(bytes, 40));
  header.terms = Get<int64_t>(bytes, 48);
  header.offset = Get<int64_t>(bytes, 56);
  header.total = Get<int64_t>(bytes, 64);
  header.checksum = Get<uint64_t>(bytes, 72);
  header.fragment = FragmentId(Get<int32_t>(bytes, 80));
  header.payload_bytes = Get<uint32_t>(bytes, 84);
  header.answer = static_cast<Answer>(answer);
  header.purpose = static_cast<Purpose>(purpose);
  if (static_cast<size_t>(header.payload_bytes) != message_bytes - kFrameHeaderBytes) {
    return Invalid(absl::StrCat("payload of ", header.payload_bytes, " bytes in a message of ",
                                message_bytes));
  }
  if (absl::Status status = CheckHeader(header); !status.ok()) return status;
  return header;
}

uint64_t PayloadChecksum(Chunks payload) {
  if (payload.size() == 1) return Hash64(payload[0]);  // the same bits; no state to set up
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  for (absl::string_view chunk : payload) XXH3_64bits_update(&state, chunk.data(), chunk.size());
  return XXH3_64bits_digest(&state);
}

bool PayloadIntact(const FrameHeader& header, Chunks payload) {
  return PayloadChecksum(payload) == header.checksum;
}

bool CopyChecked(const FrameHeader& header, Chunks payload, char* to) {
  // Small enough that the copy finds in the cache what the checksum has read.
  constexpr size_t kPiece = 16 << 10;
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  for (absl::string_view chunk : payload) {
    while (!chunk.empty()) {
      const absl::string_view piece = chunk.substr(0, kPiece);
      XXH3_64bits_update(&state, piece.data(), piece.size());
      std::memcpy(to, piece.data(), piece.size());
      to += piece.size();
      chunk.remove_prefix(piece.size());
    }
  }
  return XXH3_64bits_digest(&state) == header.checksum;
}

FrameHeader PushHeader(const PushKey& key, int64_t elements, WireType wire_type) {
  FrameHeader header = HeaderOf(FrameKind::kPushPart, key);
  header.wire_type = wire_type;
  header.fragment = key.fragment;
  header.terms = key.terms;
  header.purpose = key.purpose;
  header.total = elements * BytesPerElement(wire_type);
  return header;
}

FrameHeader ValueHeader(const RequestKey& key, FragmentId fragment, int64_t elements,
                        WireType wire_type) {
  FrameHeader header = HeaderOf(FrameKind::kValuePart, key);
  header.wire_type = wire_type;
  header.fragment = fragment;
  header.total = elements * BytesPerElement(wire_type);
  return header;
}

FrameHeader AnswerHeader(const PushAnswer& answer) {
  FrameHeader header = TextHeader(FrameKind::kPushAnswer, answer.worker, answer.step,
                                  answer.fragment, answer.answer, answer.detail);
  header.purpose = answer.purpose;
  return header;
}

FrameHeader RefusalHeader(const Delivery& refusal) {
  return TextHeader(FrameKind::kRefusal, refusal.worker, refusal.step, refusal.fragment,
                    refusal.answer, refusal.detail);
}

FrameHeader WantHeader(const RequestKey& key, size_t fragments, WireType wire_type) {
  FrameHeader header = HeaderOf(FrameKind::kPullWant, key);
  header.wire_type = wire_type;
  header.total = static_cast<int64_t>(4 * fragments);
  return header;
}

FrameHeader ReadsDoneHeader(const ReadsDone& done) { return HeaderOf(FrameKind::kReadsDone, done); }

std::string WantPayload(absl::Span<const FragmentId> fragments) {
  std::string payload(4 * fragments.size(), '\0');
  for (size_t i = 0; i < fragments.size(); ++i) {
    const int32_t number = fragments[i].value();
    std::memcpy(payload.data() + 4 * i, &number, 4);
  }
  return payload;
}

std::vector<FragmentId> ReadWantPayload(Chunks payload) {
  std::string bytes;
  for (absl::string_view chunk : payload) absl::StrAppend(&bytes, chunk);
  std::vector<FragmentId> fragments;
  fragments.reserve(bytes.size() / 4);
  for (size_t at = 0; at + 4 <= bytes.size(); at += 4)
    fragments.emplace_back(Get<int32_t>(bytes, at));
  return fragments;
}

RequestKey RequestKeyOf(const FrameHeader& header) {
  RequestKey key;
  key.generation = header.generation;
  key.view = header.view;
  key.term = header.term;
  key.step = header.step;
  key.worker = header.worker;
  return key;
}

PushKey PushKeyOf(const FrameHeader& header) {
  PushKey key;
  static_cast<RequestKey&>(key) = RequestKeyOf(header);
  key.fragment = header.fragment;
  key.terms = header.terms;
  key.purpose = header.purpose;
  return key;
}

}  // namespace sdp
