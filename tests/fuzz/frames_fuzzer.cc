// Frames and their reassembly: a script of parts, some good, some not, some cut anywhere. What is
// held stays within the budget, what is complete has its fragment's size, and headers that decode
// are written as they were.
#include <memory>
#include <string>
#include <vector>

#include "common/base/hash.h"
#include "common/wire/assembler.h"
#include "common/wire/frame.h"
#include "tests/fuzz/fuzz.h"

namespace sdp {
namespace {

constexpr int64_t kBudget = 4096;

const Layout& TestLayout() {
  static const Catalog catalog = [] {
    Catalog c;
    c.tensors = {{"a", {250}, {}, true}, {"b", {40}, {}, true}};
    for (int t = 0; t < 2; ++t) {
      UnitSpec unit;
      unit.name = unit.kind = t == 0 ? "a" : "b";
      unit.slices = {{t, -1, 0, 0}};
      unit.params = t == 0 ? 250 : 40;
      c.units.push_back(unit);
    }
    return c;
  }();
  static const Layout layout(catalog, 100);
  return layout;
}

// Takes numbers off the input; zeros when it is used up.
struct Script {
  absl::string_view left;
  uint8_t Byte() {
    if (left.empty()) return 0;
    const auto byte = static_cast<uint8_t>(left[0]);
    left.remove_prefix(1);
    return byte;
  }
};

FrameHeader NextHeader(Script& script, std::string* payload) {
  FrameHeader header;
  const uint8_t flags = script.Byte();
  header.kind = flags & 1 ? FrameKind::kValuePart : FrameKind::kPushPart;
  header.wire_type = flags & 2 ? WireType::kBf16 : WireType::kF32;
  header.step = script.Byte() % 4;
  header.fragment = FragmentId(script.Byte() % 6);
  header.worker = Incarnation(1 + (flags & 4 ? 1 : 0));
  const int64_t element = BytesPerElement(header.wire_type);
  const int64_t elements = flags & 8 ? script.Byte()
                           : header.fragment.value() < TestLayout().fragments()
                               ? TestLayout().fragment(header.fragment).size
                               : 100;
  header.total = elements * element;
  header.terms = header.kind == FrameKind::kPushPart && elements > 0 ? 1 + flags % 3 : 0;
  header.offset = script.Byte() * element;
  *payload = std::string(static_cast<size_t>(script.Byte() * element), static_cast<char>(flags));
  header.payload_bytes = static_cast<int64_t>(payload->size());
  const absl::string_view whole = *payload;
  header.checksum = PayloadChecksum({&whole, 1}) + (flags & 16 ? 1 : 0);
  return header;
}

void RunScript(Script script) {
  const auto budget = ByteBudget::Make(kBudget);
  Assembler assembler(&TestLayout(), budget);
  std::vector<ByteBudget::Hold> kept;
  while (!script.left.empty()) {
    std::string payload;
    const FrameHeader header = NextHeader(script, &payload);
    const FrameHeaderBytes bytes = EncodeHeader(header);
    const auto decoded = DecodeHeader({bytes.data(), bytes.size()}, bytes.size() + payload.size());
    if (!decoded.ok()) continue;
    SDP_FUZZ_CHECK(*decoded == header);
    const size_t cut = payload.empty() ? 0 : script.Byte() % payload.size();
    const absl::string_view whole = payload;
    const absl::string_view chunks[] = {whole.substr(0, cut), whole.substr(cut)};
    auto result = assembler.Add(header, chunks);
    SDP_FUZZ_CHECK(budget->used() <= kBudget);
    if (!result.ok()) return;
    if (result->kind == Assembler::Result::Kind::kComplete) {
      const int64_t size = header.total / BytesPerElement(header.wire_type);
      SDP_FUZZ_CHECK(result->value.size() == size);
      SDP_FUZZ_CHECK(size == 0 || size == TestLayout().fragment(header.fragment).size);
      kept.push_back(std::move(result->hold));
    }
    const uint8_t what = script.Byte();
    if (what == 0) kept.clear();
    if (what == 1) assembler.Refuse(PushKeyOf(header));
  }
}

}  // namespace
}  // namespace sdp

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text = sdp::Text(data, size);
  // As a message, too: nearly always damaged, sometimes not.
  if (const auto header = sdp::DecodeHeader(text.substr(0, 200), size); header.ok()) {
    const sdp::FrameHeaderBytes bytes = sdp::EncodeHeader(*header);
    SDP_FUZZ_CHECK(text.substr(0, bytes.size()) == absl::string_view(bytes.data(), bytes.size()));
    const absl::string_view payload = text.substr(bytes.size());
    if (header->kind == sdp::FrameKind::kPullWant)
      SDP_FUZZ_CHECK(sdp::ReadWantPayload({&payload, 1}).size() * 4 == payload.size());
  }
  sdp::RunScript({text});
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  sdp::RequestKey key;
  key.worker = sdp::Incarnation(1);
  sdp::FrameHeader want = sdp::WantHeader(key, 2, sdp::WireType::kF32);
  want.payload_bytes = 8;
  const sdp::FrameHeaderBytes bytes = sdp::EncodeHeader(want);
  const std::string good = std::string(bytes.data(), bytes.size()) + std::string(8, '\1');
  size = sdp::MutateOr(good, data, size, max_size, seed);
  // The header's own checksum is no secret: an enemy writes it too.
  if (seed % 3 == 0 && size >= sdp::kFrameHeaderBytes && data[0] == 'S') {
    const absl::string_view head = sdp::Text(data, 92);
    const auto sum = static_cast<uint32_t>(sdp::Hash64(head));
    std::copy_n(reinterpret_cast<const uint8_t*>(&sum), 4, data + 92);
  }
  return size;
}
