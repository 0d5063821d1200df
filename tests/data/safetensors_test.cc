#include "common/data/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "common/base/random.h"
#include "tests/data/files.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;
using Result = absl::StatusOr<std::unique_ptr<SafetensorsReader>>;

Result OpenBytes(absl::string_view bytes) {
  return SafetensorsReader::Open(WriteFile("t.safetensors", bytes));
}

Result OpenHeader(const std::string& header, absl::string_view data) {
  return OpenBytes(SafetensorsBytes(header, data));
}

void ExpectError(const Result& result, absl::StatusCode code, const std::string& part) {
  ASSERT_FALSE(result.ok()) << part;
  EXPECT_EQ(result.status().code(), code) << result.status();
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(part));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("t.safetensors"));
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kLoss = absl::StatusCode::kDataLoss;

TEST(SafetensorsTest, NotAFile_IsRefused) {
  EXPECT_EQ(SafetensorsReader::Open("no/such.file").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(SafetensorsReader::Open(::testing::TempDir()).status().code(), kInvalid);
}

TEST(SafetensorsTest, BadLength_IsRefused) {
  ExpectError(OpenBytes(""), kInvalid, "0 bytes");
  ExpectError(OpenBytes("1234567"), kInvalid, "7 bytes");
  ExpectError(OpenBytes("PK\x03\x04garbage of a zip file"), kInvalid, "header length");
  ExpectError(OpenBytes(std::string(8, '\xff')), kInvalid, "header length");
  ExpectError(OpenBytes(std::string("\x40\0\0\0\0\0\0\0{}", 10)), kLoss, "cut off");
}

TEST(SafetensorsTest, BadJson_IsRefused) {
  for (const std::string header : {"", "{", "[]", "null", "{\"a\":1,}", "{\"a\":\"\xff\xfe\"}"}) {
    ExpectError(OpenHeader(header, ""), kInvalid, "no JSON object");
  }
  // Deep nesting must neither overflow the stack nor pass.
  ExpectError(OpenHeader("{\"a\":" + std::string(1000000, '['), ""), kInvalid, "no JSON object");
  ExpectError(OpenHeader("{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}", ""),
              kInvalid, "must be an object");
}

TEST(SafetensorsTest, BadEntry_IsRefused) {
  const struct {
    std::string entry, part;
  } kCases[] = {
      {"7", "must be an object"},
      {R"({"dtype":"F32","shape":[1]})", "must be an object with"},
      {R"({"dtype":4,"shape":[1],"data_offsets":[0,4]})", "dtype"},
      {R"({"dtype":"F33","shape":[1],"data_offsets":[0,4]})", "dtype"},
      {R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})", "shape"},
      {R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})", "shape"},
      {R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})", "shape"},
      {R"({"dtype":"F32","shape":["1"],"data_offsets":[0,4]})", "shape"},
      {R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]})", "shape"},
      {R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]})", "too large"},
      {R"({"dtype":"F32","shape":[4294967296,4294967297],"data_offsets":[0,4]})", "too large"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":4})", "data_offsets"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0]})", "data_offsets"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})", "data_offsets"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]})", "data_offsets"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})", "do not span"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})", "do not span"},
      {R"({"dtype":"F16","shape":[1],"data_offsets":[0,4]})", "do not span"},
  };
  for (const auto& [entry, part] : kCases) {
    ExpectError(OpenHeader("{\"a\":" + entry + "}", "0000"), kInvalid, part);
  }
}

TEST(SafetensorsTest, DataThatDoesNotFit_IsRefused) {
  const auto entry = [](int64_t begin, int64_t end) {
    return absl::StrCat(R"({"dtype":"F32","shape":[)", (end - begin) / 4, R"(],"data_offsets":[)",
                        begin, ",", end, "]}");
  };
  const auto two = [&](const std::string& a, const std::string& b) {
    return absl::StrCat("{\"a\":", a, ",\"b\":", b, "}");
  };
  ExpectError(OpenHeader("{\"a\":" + entry(0, 8) + "}", "0000"), kLoss, "of which there are 4");
  ExpectError(OpenHeader(two(entry(0, 8), entry(4, 12)), std::string(12, '0')), kInvalid,
              "begins at byte 4");
  ExpectError(OpenHeader(two(entry(0, 8), entry(0, 8)), std::string(8, '0')), kInvalid,
              "begins at byte 0");
  ExpectError(OpenHeader(two(entry(0, 4), entry(8, 12)), std::string(12, '0')), kInvalid,
              "begins at byte 8");
  ExpectError(OpenHeader("{\"a\":" + entry(0, 4) + "}", "000000"), kInvalid, "4 of 6 bytes");
  ExpectError(OpenHeader(absl::StrCat("{\"a\":", entry(0, 4), ",\"a\":", entry(0, 4), "}"), "0000"),
              kInvalid, "twice");
}

// No change of one byte of a good file, and no cut, may do worse than an error.
TEST(SafetensorsTest, DamagedFiles_NeverCrash) {
  const std::string good = SafetensorsBytes(
      {{"a", "F32", {2, 2}, std::string(16, 'a')}, {"b", "BF16", {3}, std::string(6, 'b')}});
  RandomStream random(1, 2);
  for (size_t i = 0; i < good.size(); ++i) {
    (void)OpenBytes(good.substr(0, i));
    std::string bad = good;
    bad[i] = static_cast<char>(random.Below(256));
    const Result result = OpenBytes(bad);
    if (!result.ok()) continue;
    for (const SafetensorsReader::Tensor& tensor : (*result)->tensors()) {
      ASSERT_LE(tensor.elements, 22);
      std::vector<float> values(static_cast<size_t>(tensor.elements));
      (void)(*result)->Read(tensor.name, 0, absl::MakeSpan(values));
    }
  }
}

TEST(SafetensorsTest, Read_OutsideOrOfAnotherType_IsRefused) {
  const Result reader = OpenBytes(SafetensorsBytes(
      {{"a", "F32", {2, 2}, std::string(16, '\0')}, {"i", "I64", {1}, std::string(8, '\0')}}));
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::vector<float> out(3);
  const auto read = [&](const std::string& name, int64_t offset) {
    return (*reader)->Read(name, offset, absl::MakeSpan(out)).code();
  };
  EXPECT_EQ(read("x", 0), absl::StatusCode::kNotFound);
  EXPECT_EQ(read("a", -1), kInvalid);
  EXPECT_EQ(read("a", 2), kInvalid);
  EXPECT_EQ(read("a", std::numeric_limits<int64_t>::max()), kInvalid);
  EXPECT_EQ(read("i", 0), kInvalid);
  EXPECT_EQ(read("a", 1), absl::StatusCode::kOk);
}

TEST(SafetensorsTest, FileCutAfterOpen_IsDataLoss) {
  const std::string path =
      WriteFile("cut.safetensors", SafetensorsBytes({{"a", "F32", {4}, std::string(16, '\0')}}));
  const Result reader = SafetensorsReader::Open(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 6);
  std::vector<float> out(4);
  EXPECT_EQ((*reader)->Read("a", 0, absl::MakeSpan(out)).code(), kLoss);
}

TEST(SafetensorsTest, Tensors_HaveNamesAndShapesInFileOrder) {
  const Result reader = OpenBytes(SafetensorsBytes({{"z", "F32", {2, 3}, std::string(24, '\0')},
                                                    {"empty", "F32", {0, 5}, ""},
                                                    {"a", "BF16", {}, std::string(2, '\0')}}));
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto& tensors = (*reader)->tensors();
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].name, "z");
  EXPECT_EQ(tensors[0].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ((*reader)->Find("a")->elements, 1);
  EXPECT_EQ((*reader)->Find("empty")->elements, 0);
  EXPECT_EQ((*reader)->Find("b"), nullptr);
}

TEST(SafetensorsTest, NoTensors_IsFine) {
  const Result reader = OpenHeader("{}    ", "");
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_TRUE((*reader)->tensors().empty());
}

TEST(SafetensorsTest, Read_GivesAnyPartOfEachType) {
  const std::vector<float> f32 = {1.5f, -2.25f, 3e-20f, 0, 1e38f};
  const std::vector<uint16_t> f16 = {0x3C00, 0xC000, 0x0001, 0x03FF,
                                     0x0400, 0x7BFF, 0x8000, 0x7C00};
  const std::vector<uint16_t> bf16 = {0x3F80, 0xC000, 0x0001, 0x7F80};
  const Result reader = OpenBytes(SafetensorsBytes({{"half", "F16", {8}, AsBytes(f16)},
                                                    {"brain", "BF16", {4}, AsBytes(bf16)},
                                                    {"full", "F32", {5}, AsBytes(f32)}}));
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto read = [&](const std::string& name, int64_t offset, size_t count) {
    std::vector<float> out(count);
    EXPECT_TRUE((*reader)->Read(name, offset, absl::MakeSpan(out)).ok());
    return out;
  };
  EXPECT_EQ(read("full", 0, 5), f32);
  EXPECT_EQ(read("full", 1, 2), (std::vector<float>{-2.25f, 3e-20f}));
  EXPECT_EQ(read("full", 5, 0), std::vector<float>());
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(read("half", 0, 8),
            (std::vector<float>{1, -2, 0x1p-24f, 1023 * 0x1p-24f, 0x1p-14f, 65504, -0.0f, inf}));
  EXPECT_TRUE(std::signbit(read("half", 6, 1)[0]));
  EXPECT_EQ(read("brain", 0, 4), (std::vector<float>{1, -2, 0x1p-133f, inf}));
}

// More elements than one read's buffer, at an odd offset.
TEST(SafetensorsTest, Read_LargeBfloat16_IsContiguous) {
  std::vector<uint16_t> values(200000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(i % 0x7F00);
  const Result reader = OpenBytes(SafetensorsBytes({{"a", "BF16", {400, 500}, AsBytes(values)}}));
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::vector<float> out(190001);
  ASSERT_TRUE((*reader)->Read("a", 777, absl::MakeSpan(out)).ok());
  for (size_t i = 0; i < out.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(out[i]), uint32_t{values[777 + i]} << 16) << i;
  }
}

}  // namespace
}  // namespace sdp
