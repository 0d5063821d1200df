#include "common/wire/assembler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace sdp {
namespace {

using ::testing::HasSubstr;
using Kind = Assembler::Result::Kind;

// One unit of 250 parameters in fragments of 100: sizes 100, 100, 50.
Catalog SmallCatalog() {
  Catalog catalog;
  catalog.tensors.push_back({"w", {250}, {}, true});
  UnitSpec unit;
  unit.name = "u";
  unit.slices = {{0, -1, 0, 0}};
  unit.params = 250;
  catalog.units.push_back(unit);
  return catalog;
}

// A part of a push, with its payload.
struct Part {
  FrameHeader header;
  std::string payload;

  Chunks chunks() {
    view = payload;
    return {&view, 1};
  }
  absl::string_view view;
};

class AssemblerTest : public ::testing::Test {
 protected:
  Part Push(int fragment, int64_t offset, int64_t size, WireType type = WireType::kF32,
            Step step = 0) {
    PushKey key;
    key.step = step;
    key.worker = Incarnation(1);
    key.fragment = FragmentId(fragment);
    key.terms = 8;
    Part part;
    part.header = PushHeader(key, fragment < 2 ? 100 : 50, type);
    part.header.offset = offset;
    part.header.payload_bytes = size;
    for (int64_t i = offset / 4; i < (offset + size) / 4; ++i) {
      const float value = static_cast<float>(i);
      part.payload.append(reinterpret_cast<const char*>(&value), 4);
    }
    Seal(part);
    return part;
  }
  static void Seal(Part& part) { part.header.checksum = PayloadChecksum(part.chunks()); }
  Assembler::Result Add(Part part) { return assembler_.Add(part.header, part.chunks()).value(); }

  const Catalog catalog_ = SmallCatalog();
  const Layout layout_{catalog_, 100};
  const std::shared_ptr<ByteBudget> budget_ = ByteBudget::Make(1000);
  Assembler assembler_{&layout_, budget_};
};

TEST_F(AssemblerTest, BadChecksum_RefusesTheFragmentAndIgnoresItsRest) {
  Part damaged = Push(0, 0, 100);
  damaged.payload[5] ^= 1;
  const auto refused = Add(damaged);
  EXPECT_EQ(refused.kind, Kind::kRefused);
  EXPECT_EQ(refused.answer, Answer::kBadChecksum);
  EXPECT_EQ(budget_->used(), 0);
  EXPECT_EQ(Add(Push(0, 100, 200)).kind, Kind::kIgnored);
  EXPECT_EQ(Add(Push(0, 300, 100)).kind, Kind::kIgnored);
  // Sent again, it is fine.
  EXPECT_EQ(Add(Push(0, 0, 400)).kind, Kind::kComplete);
}

TEST_F(AssemblerTest, BadChecksum_HarmsNoOtherFragment) {
  EXPECT_EQ(Add(Push(1, 0, 200)).kind, Kind::kBegun);
  Part damaged = Push(0, 0, 100);
  damaged.header.checksum ^= 1;
  EXPECT_EQ(Add(damaged).kind, Kind::kRefused);
  EXPECT_EQ(Add(Push(1, 200, 200)).kind, Kind::kComplete);
}

TEST_F(AssemblerTest, PartsOutOfPlace_Invalid) {
  EXPECT_EQ(Add(Push(0, 100, 100)).answer, Answer::kInvalid);  // no first part
  for (const int64_t offset : {0, 96, 104, 200}) {             // again, overlapping, with a gap
    EXPECT_EQ(Add(Push(1, 0, 100)).kind, Kind::kBegun);
    const auto result = Add(Push(1, offset, 100));
    EXPECT_EQ(result.kind, Kind::kRefused) << offset;
    EXPECT_EQ(result.answer, Answer::kInvalid);
    EXPECT_THAT(result.detail, HasSubstr("does not continue"));
    EXPECT_EQ(budget_->used(), 0);
  }
}

TEST_F(AssemblerTest, PartsOfDifferentContributions_Invalid) {
  const auto changes = std::vector<void (*)(FrameHeader&)>{
      [](FrameHeader& h) { h.terms = 9; },
      [](FrameHeader& h) { h.view = ViewId(9); },
      [](FrameHeader& h) { h.term = Term(9); },
      [](FrameHeader& h) { h.generation = Generation(9); },
      [](FrameHeader& h) { h.worker = Incarnation(9); },
      [](FrameHeader& h) { h.wire_type = WireType::kBf16; },
      [](FrameHeader& h) { h.total = 404; },
  };
  for (const auto change : changes) {
    EXPECT_EQ(Add(Push(0, 0, 100)).kind, Kind::kBegun);
    Part other = Push(0, 100, 100);
    change(other.header);
    EXPECT_EQ(Add(other).answer, Answer::kInvalid);
  }
}

TEST_F(AssemblerTest, WrongFragmentOrSize_Invalid) {
  Part part = Push(2, 0, 200);
  part.header.fragment = FragmentId(3);
  EXPECT_THAT(Add(part).detail, HasSubstr("fragment 3 of 3"));
  part = Push(0, 0, 200);
  part.header.fragment = FragmentId(2);
  EXPECT_THAT(Add(part).detail, HasSubstr("has 50 elements, not 100"));
}

TEST_F(AssemblerTest, OverBudget_RetryAfterWithoutHarmToOthers) {
  EXPECT_EQ(Add(Push(0, 0, 100)).kind, Kind::kBegun);
  EXPECT_EQ(Add(Push(1, 0, 100)).kind, Kind::kBegun);
  EXPECT_EQ(budget_->used(), 800);
  const auto refused = Add(Push(0, 0, 100, WireType::kF32, 1));
  EXPECT_EQ(refused.kind, Kind::kRefused);
  EXPECT_EQ(refused.answer, Answer::kRetryAfter);
  EXPECT_EQ(Add(Push(0, 100, 300)).kind, Kind::kComplete);
  EXPECT_EQ(budget_->used(), 400);
}

TEST_F(AssemblerTest, OverBudgetAlone_IsAdmitted) {
  Assembler small(&layout_, ByteBudget::Make(100));
  Part part = Push(0, 0, 400);
  EXPECT_EQ(small.Add(part.header, part.chunks())->kind, Kind::kComplete);
}

TEST_F(AssemblerTest, EndlessRefusals_EndTheStream) {
  absl::Status status;
  for (Step step = 0; step < 10'000 && status.ok(); ++step) {
    Part part = Push(0, 100, 100, WireType::kF32, step);
    status = assembler_.Add(part.header, part.chunks()).status();
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST_F(AssemblerTest, EndlessBeginnings_EndTheStream) {
  Assembler assembler(&layout_, ByteBudget::Make(int64_t{1} << 30));
  absl::Status status;
  for (Step step = 0; step < 10'000 && status.ok(); ++step) {
    Part part = Push(0, 0, 100, WireType::kF32, step);
    status = assembler.Add(part.header, part.chunks()).status();
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST_F(AssemblerTest, Complete_HoldsItsBytesUntilTheyAreGivenBack) {
  auto result = Add(Push(0, 0, 400));
  EXPECT_EQ(budget_->used(), 400);
  result.hold = ByteBudget::Hold();
  EXPECT_EQ(budget_->used(), 0);
}

TEST_F(AssemblerTest, Refuse_FreesAndIgnoresTheRest) {
  assembler_.Refuse(PushKeyOf(Push(0, 0, 100).header));  // not begun: nothing
  EXPECT_EQ(Add(Push(0, 0, 100)).kind, Kind::kBegun);
  assembler_.Refuse(PushKeyOf(Push(0, 0, 100).header));
  EXPECT_EQ(budget_->used(), 0);
  EXPECT_EQ(Add(Push(0, 100, 300)).kind, Kind::kIgnored);
  EXPECT_EQ(Add(Push(0, 0, 400)).kind, Kind::kComplete);
}

TEST_F(AssemblerTest, InterleavedFragments_Complete) {
  EXPECT_EQ(Add(Push(0, 0, 100)).kind, Kind::kBegun);
  EXPECT_EQ(Add(Push(2, 0, 100)).kind, Kind::kBegun);
  EXPECT_EQ(Add(Push(0, 100, 200)).kind, Kind::kMore);
  EXPECT_EQ(Add(Push(2, 100, 100)).kind, Kind::kComplete);
  const auto result = Add(Push(0, 300, 100));
  ASSERT_EQ(result.kind, Kind::kComplete);
  EXPECT_EQ(result.wire_bytes, 400 + 3 * 96);
  ASSERT_EQ(result.value.size(), 100);
  for (int i = 0; i < 100; ++i)
    EXPECT_EQ(result.value.floats()[static_cast<size_t>(i)], static_cast<float>(i));
  EXPECT_EQ(budget_->used(), 400);  // the result's own hold
}

TEST_F(AssemblerTest, Bf16_IsKept_WhereverTheMessageIsCut) {
  std::vector<float> values(100);
  for (size_t i = 0; i < 100; ++i) values[i] = static_cast<float>(i) - 50;
  std::vector<uint16_t> bits(100);
  ToBf16(values, absl::MakeSpan(bits));
  Part part = Push(0, 0, 200, WireType::kBf16);
  part.payload.assign(reinterpret_cast<const char*>(bits.data()), 200);
  Seal(part);
  const absl::string_view whole = part.payload;
  const absl::string_view cut[] = {whole.substr(0, 33), whole.substr(33, 2), whole.substr(35)};
  const auto result = assembler_.Add(part.header, cut);
  ASSERT_EQ(result->kind, Kind::kComplete);
  ASSERT_EQ(result->value.type(), WireType::kBf16);
  EXPECT_EQ(result->value.bf16(), absl::MakeConstSpan(bits));
}

TEST_F(AssemblerTest, HeaderOnlyPush_IsCompleteAndEmpty) {
  PushKey key;
  key.fragment = FragmentId(1);
  Part part;
  part.header = PushHeader(key, 0, WireType::kF32);
  Seal(part);
  const auto result = Add(part);
  EXPECT_EQ(result.kind, Kind::kComplete);
  EXPECT_TRUE(result.value.empty());
  EXPECT_EQ(result.wire_bytes, 96);
}

// Gradients to train with and to compare with come for the same fragment of the same step.
TEST_F(AssemblerTest, Purposes_AreContributionsOfTheirOwn) {
  const auto dense = [&](int64_t offset, int64_t bytes) {
    Part part = Push(0, offset, bytes);
    part.header.purpose = Purpose::kDense;
    return part;
  };
  EXPECT_EQ(Add(dense(0, 100)).kind, Kind::kBegun);
  EXPECT_EQ(Add(Push(0, 0, 300)).kind, Kind::kBegun);
  assembler_.Refuse(PushKeyOf(Push(0, 0, 100).header));
  EXPECT_EQ(Add(dense(100, 300)).kind, Kind::kComplete);
  EXPECT_EQ(Add(Push(0, 300, 100)).kind, Kind::kIgnored);
}

}  // namespace
}  // namespace sdp
