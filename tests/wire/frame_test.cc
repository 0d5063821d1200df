#include "common/wire/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "common/base/hash.h"

namespace sdp {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

FrameHeader PushPart() {
  PushKey key;
  key.generation = Generation(2);
  key.view = ViewId(3);
  key.term = Term(4);
  key.step = 5;
  key.worker = Incarnation(6);
  key.fragment = FragmentId(7);
  key.terms = 1024;
  FrameHeader header = PushHeader(key, 1000, WireType::kF32);
  header.offset = 400;
  header.payload_bytes = 80;
  header.checksum = 0x0123456789abcdef;
  return header;
}

std::string Bytes(const FrameHeader& header) {
  const FrameHeaderBytes bytes = EncodeHeader(header);
  return std::string(bytes.data(), bytes.size());
}

// Makes the header's checksum hold again, as a hostile peer would.
std::string Sealed(std::string bytes) {
  const auto sum = static_cast<uint32_t>(Hash64(absl::string_view(bytes).substr(0, 92)));
  std::memcpy(bytes.data() + 92, &sum, 4);
  return bytes;
}

absl::Status DecodeChanged(const std::function<void(FrameHeader&)>& change) {
  FrameHeader header = PushPart();
  change(header);
  const size_t size = kFrameHeaderBytes + static_cast<size_t>(header.payload_bytes);
  return DecodeHeader(Bytes(header), size).status();
}

TEST(FrameTest, Decode_ShortMessage_Invalid) {
  const std::string bytes = Bytes(PushPart());
  for (size_t size = 0; size < kFrameHeaderBytes; ++size) {
    EXPECT_TRUE(absl::IsInvalidArgument(DecodeHeader(bytes.substr(0, size), size).status()))
        << size;
  }
}

TEST(FrameTest, Decode_AnyBitFlipped_IsNoticed) {
  const std::string bytes = Bytes(PushPart());
  for (size_t bit = 0; bit < 8 * kFrameHeaderBytes; ++bit) {
    std::string damaged = bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_FALSE(DecodeHeader(damaged, kFrameHeaderBytes + 80).ok()) << "bit " << bit;
  }
}

// Whatever a peer seals with the right checksum is read without a crash, and satisfies what the
// header file says.
TEST(FrameTest, Decode_SealedFlipsAndRandomBytes_ObeyTheRulesOrFail) {
  std::mt19937_64 random(1);
  const std::string good = Bytes(PushPart());
  int accepted = 0;
  for (int i = 0; i < 200'000; ++i) {
    std::string bytes = good;
    for (int flips = 1 + static_cast<int>(random() % 3); flips > 0; --flips) {
      bytes[6 + random() % 86] = static_cast<char>(random());
    }
    const size_t size = kFrameHeaderBytes + random() % 200;
    const auto header = DecodeHeader(Sealed(bytes), size);
    if (!header.ok()) continue;
    ++accepted;
    EXPECT_EQ(kFrameHeaderBytes + static_cast<size_t>(header->payload_bytes), size);
    EXPECT_GE(header->offset, 0);
    EXPECT_LE(header->offset + header->payload_bytes, header->total);
    EXPECT_GE(header->step, 0);
    EXPECT_GE(header->fragment.value(), 0);
  }
  EXPECT_GT(accepted, 0);
}

TEST(FrameTest, Decode_NotAFrame_Invalid) {
  std::string bytes = Bytes(PushPart());
  bytes[0] = 'X';
  EXPECT_THAT(DecodeHeader(Sealed(bytes), 176).status().message(), HasSubstr("magic"));
  bytes = Bytes(PushPart());
  bytes[4] = 9;
  EXPECT_THAT(DecodeHeader(Sealed(bytes), 176).status().message(), HasSubstr("version 9"));
  bytes = Bytes(PushPart());
  bytes[90] = 1;
  EXPECT_THAT(DecodeHeader(Sealed(bytes), 176).status().message(), HasSubstr("not zero"));
}

TEST(FrameTest, Decode_BrokenRules_Invalid) {
  const std::vector<std::pair<std::string, std::function<void(FrameHeader&)>>> changes = {
      {"kind", [](FrameHeader& h) { h.kind = static_cast<FrameKind>(6); }},
      {"wire type", [](FrameHeader& h) { h.wire_type = static_cast<WireType>(2); }},
      {"answer", [](FrameHeader& h) { h.answer = static_cast<Answer>(10); }},
      {"purpose", [](FrameHeader& h) { h.purpose = static_cast<Purpose>(2); }},
      {"negative step", [](FrameHeader& h) { h.step = -1; }},
      {"negative generation", [](FrameHeader& h) { h.generation = Generation(-1); }},
      {"negative worker", [](FrameHeader& h) { h.worker = Incarnation(-1); }},
      {"negative fragment", [](FrameHeader& h) { h.fragment = FragmentId(-1); }},
      {"negative terms", [](FrameHeader& h) { h.terms = -1; }},
      {"negative offset", [](FrameHeader& h) { h.offset = -4; }},
      {"offset beyond total", [](FrameHeader& h) { h.offset = 3924; }},
      {"offset near overflow",
       [](FrameHeader& h) { h.offset = std::numeric_limits<int64_t>::max() - 3; }},
      {"huge total", [](FrameHeader& h) { h.total = std::numeric_limits<int64_t>::max() - 3; }},
      {"negative total", [](FrameHeader& h) { h.total = std::numeric_limits<int64_t>::min(); }},
      {"total between elements", [](FrameHeader& h) { h.total = 4002; }},
      {"payload between elements", [](FrameHeader& h) { h.payload_bytes = 81; }},
      {"offset between elements", [](FrameHeader& h) { h.offset = 402; }},
      {"bf16 between elements",
       [](FrameHeader& h) { h.wire_type = WireType::kBf16, h.offset = 401; }},
      {"payload over 1 MiB",
       [](FrameHeader& h) { h.total = 8 << 20, h.payload_bytes = (1 << 20) + 4; }},
      {"part without payload", [](FrameHeader& h) { h.payload_bytes = 0; }},
      {"payload over no terms", [](FrameHeader& h) { h.terms = 0; }},
      {"terms without payload", [](FrameHeader& h) { h.total = h.offset = h.payload_bytes = 0; }},
      {"value of nothing",
       [](FrameHeader& h) {
         h.kind = FrameKind::kValuePart, h.terms = h.total = h.offset = h.payload_bytes = 0;
       }},
      {"value with terms", [](FrameHeader& h) { h.kind = FrameKind::kValuePart; }},
      {"cut list", [](FrameHeader& h) { h.kind = FrameKind::kPullWant, h.terms = 0; }},
      {"empty list",
       [](FrameHeader& h) {
         h.kind = FrameKind::kPullWant, h.terms = h.total = h.offset = h.payload_bytes = 0;
       }},
      {"reads done with a payload",
       [](FrameHeader& h) { h.kind = FrameKind::kReadsDone, h.terms = h.offset = 0; }},
      {"reads done with a total",
       [](FrameHeader& h) {
         h.kind = FrameKind::kReadsDone, h.terms = h.offset = h.payload_bytes = 0;
       }},
      {"long detail",
       [](FrameHeader& h) {
         h.kind = FrameKind::kRefusal, h.terms = h.offset = 0, h.total = h.payload_bytes = 5000;
       }},
  };
  for (const auto& [name, change] : changes) {
    EXPECT_TRUE(absl::IsInvalidArgument(DecodeChanged(change))) << name;
  }
  EXPECT_TRUE(DecodeChanged([](FrameHeader&) {}).ok());
}

TEST(FrameTest, Decode_PayloadNotThatOfTheMessage_Invalid) {
  EXPECT_TRUE(
      absl::IsInvalidArgument(DecodeHeader(Bytes(PushPart()), kFrameHeaderBytes + 79).status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(DecodeHeader(Bytes(PushPart()), kFrameHeaderBytes + 81).status()));
}

TEST(FrameTest, RoundTrip_AllFields) {
  const FrameHeader push = PushPart();
  const auto decoded = DecodeHeader(Bytes(push), kFrameHeaderBytes + 80);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, push);
  const PushKey key = PushKeyOf(*decoded);
  EXPECT_EQ(key.generation, Generation(2));
  EXPECT_EQ(key.view, ViewId(3));
  EXPECT_EQ(key.term, Term(4));
  EXPECT_EQ(key.step, 5);
  EXPECT_EQ(key.worker, Incarnation(6));
  EXPECT_EQ(key.fragment, FragmentId(7));
  EXPECT_EQ(key.terms, 1024);
}

TEST(FrameTest, RoundTrip_AnswerRefusalWantAndHeaderOnly) {
  FrameHeader answer =
      AnswerHeader({Incarnation(6), 5, FragmentId(7), Answer::kBadChecksum, "part 3"});
  answer.payload_bytes = answer.total;
  EXPECT_EQ(DecodeHeader(Bytes(answer), kFrameHeaderBytes + 6).value(), answer);

  FrameHeader refusal = RefusalHeader(
      {Incarnation(6), 5, FragmentId(7), nullptr, Answer::kInvalid, std::string(9999, 'x')});
  refusal.payload_bytes = refusal.total;
  EXPECT_EQ(refusal.total, static_cast<int64_t>(kMaxDetailBytes));
  EXPECT_EQ(DecodeHeader(Bytes(refusal), kFrameHeaderBytes + kMaxDetailBytes).value(), refusal);

  const std::vector<FragmentId> wanted = {FragmentId(9), FragmentId(1), FragmentId(1 << 20)};
  FrameHeader want = WantHeader(RequestKeyOf(PushPart()), wanted.size(), WireType::kBf16);
  want.payload_bytes = want.total;
  EXPECT_EQ(DecodeHeader(Bytes(want), kFrameHeaderBytes + 12).value(), want);
  const std::string list = WantPayload(wanted);
  const absl::string_view cut[] = {absl::string_view(list).substr(0, 5),
                                   absl::string_view(list).substr(5)};
  EXPECT_THAT(ReadWantPayload(cut), ElementsAre(FragmentId(9), FragmentId(1), FragmentId(1 << 20)));

  PushKey key = PushKeyOf(PushPart());
  key.terms = 0;
  const FrameHeader header_only = PushHeader(key, 0, WireType::kF32);
  EXPECT_EQ(DecodeHeader(Bytes(header_only), kFrameHeaderBytes).value(), header_only);

  key.purpose = Purpose::kDense;
  const FrameHeader dense = PushHeader(key, 0, WireType::kF32);
  EXPECT_EQ(PushKeyOf(DecodeHeader(Bytes(dense), kFrameHeaderBytes).value()).purpose,
            Purpose::kDense);
  const FrameHeader received =
      AnswerHeader({Incarnation(6), 5, FragmentId(7), Answer::kReceived, "", Purpose::kDense});
  EXPECT_EQ(DecodeHeader(Bytes(received), kFrameHeaderBytes).value().purpose, Purpose::kDense);

  const FrameHeader done = ReadsDoneHeader({RequestKeyOf(PushPart())});
  EXPECT_EQ(done.step, 5);
  EXPECT_EQ(DecodeHeader(Bytes(done), kFrameHeaderBytes).value(), done);
}

// The offsets that the table in frame.h and proto/shard.proto promises to other implementations.
TEST(FrameTest, Encode_FieldsLieWhereTheTableSays) {
  const std::string bytes = Bytes(PushPart());
  const auto number = [&](size_t at, size_t size) {
    uint64_t value = 0;
    for (size_t i = size; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
    return value;
  };
  EXPECT_EQ(bytes.substr(0, 4), "SDPF");
  EXPECT_EQ(number(4, 2), 1u);
  EXPECT_EQ(number(6, 1), 0u);
  EXPECT_EQ(number(7, 1), 0u);
  EXPECT_EQ(number(8, 8), 2u);
  EXPECT_EQ(number(16, 8), 3u);
  EXPECT_EQ(number(24, 8), 4u);
  EXPECT_EQ(number(32, 8), 5u);
  EXPECT_EQ(number(40, 8), 6u);
  EXPECT_EQ(number(48, 8), 1024u);
  EXPECT_EQ(number(56, 8), 400u);
  EXPECT_EQ(number(64, 8), 4000u);
  EXPECT_EQ(number(72, 8), 0x0123456789abcdefu);
  EXPECT_EQ(number(80, 4), 7u);
  EXPECT_EQ(number(84, 4), 80u);
  EXPECT_EQ(number(88, 4), 0u);
  EXPECT_EQ(number(92, 4), Hash64(absl::string_view(bytes).substr(0, 92)) & 0xffffffff);
}

TEST(FrameTest, PayloadChecksum_DoesNotDependOnTheCuts) {
  const std::string payload(1000, 'p');
  const absl::string_view whole[] = {payload};
  const absl::string_view cut[] = {absl::string_view(payload).substr(0, 1), "",
                                   absl::string_view(payload).substr(1, 600),
                                   absl::string_view(payload).substr(601)};
  EXPECT_EQ(PayloadChecksum(whole), PayloadChecksum(cut));
  const absl::string_view empty[] = {""};
  EXPECT_EQ(PayloadChecksum({}), PayloadChecksum(empty));
}

}  // namespace
}  // namespace sdp
