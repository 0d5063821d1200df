#include "worker/data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/data/files.h"
#include "tests/places/places.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Result = absl::StatusOr<std::unique_ptr<TokenDataset>>;

std::string Shard(const std::vector<uint16_t>& tokens, int32_t magic = 20240520,
                  int32_t version = 1, int32_t count = -1) {
  std::vector<int32_t> header(256);
  header[0] = magic;
  header[1] = version;
  header[2] = count >= 0 ? count : static_cast<int32_t>(tokens.size());
  return AsBytes(header) + AsBytes(tokens);
}

std::vector<int32_t> Sample(const TokenDataset& dataset, int64_t sample) {
  std::vector<int32_t> tokens(static_cast<size_t>(dataset.seq_len()) + 1);
  dataset.Read(sample, absl::MakeSpan(tokens));
  return tokens;
}

// The error's code, and that its message has the path and the other parts.
void ExpectInvalid(const Result& result, const std::vector<std::string>& parts) {
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
  for (const std::string& part : parts) {
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(part));
  }
}

TEST(DatasetTest, MissingFile_IsNotFound) {
  for (const Result& result :
       {OpenText({"no/such.txt"}, 4), OpenTokens({"no/such.txt"}, 4, 50257)}) {
    EXPECT_EQ(result.status().code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("no/such.txt"));
  }
}

TEST(DatasetTest, FolderPipeOrEmptyFile_IsRefused) {
  const std::string folder = ::testing::TempDir(), empty = WriteFile("empty", "");
  const std::string pipe = absl::StrCat(::testing::TempDir(), "sdp_pipe_", getpid());
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  ExpectInvalid(OpenText({folder}, 4), {folder, "folder"});
  ExpectInvalid(OpenTokens({folder}, 4, 50257), {folder, "folder"});
  ExpectInvalid(OpenText({empty}, 4), {empty, "empty"});
  ExpectInvalid(OpenTokens({empty}, 4, 50257), {empty, "empty"});
  ExpectInvalid(OpenText({pipe}, 4), {pipe, "not a regular file"});
  std::filesystem::remove(pipe);
  // One bad file among good ones is named, not them.
  const std::string good = WriteFile("good", "0123456789");
  ExpectInvalid(OpenText({good, empty}, 4), {empty});
}

TEST(DatasetTest, TooShort_SaysHowMuchIsNeeded) {
  const std::string text = WriteFile("short.txt", "1234"),
                    shard = WriteFile("short.bin", Shard({1, 2, 3, 4}));
  ExpectInvalid(OpenText({text}, 4), {text, "4 tokens", "at least 5"});
  ExpectInvalid(OpenTokens({shard}, 4, 10), {shard, "4 tokens", "at least 5"});
  EXPECT_EQ((*OpenText({text}, 3))->samples(), 1);
  EXPECT_EQ((*OpenTokens({shard}, 3, 10))->samples(), 1);
}

TEST(DatasetTest, Text_ByteOutsideVocab_IsNamedWithItsPlace) {
  const std::string path = WriteFile("vocab.txt", "abcz{a");
  ExpectInvalid(OpenText({path}, 2, 123), {path, "token 123 at position 4", "vocab = 123"});
  EXPECT_TRUE(OpenText({path}, 2, 124).ok());
}

TEST(DatasetTest, Tokens_BadHeader_IsRefused) {
  const std::string tiny = WriteFile("tiny.bin", std::string(1023, 'x'));
  ExpectInvalid(OpenTokens({tiny}, 2, 10), {tiny, "1023 bytes", "1024"});
  const std::string magic = WriteFile("magic.bin", Shard({1, 2, 3}, 20240521));
  ExpectInvalid(OpenTokens({magic}, 2, 10), {magic, "20240521", "expected 20240520"});
  const std::string version = WriteFile("version.bin", Shard({1, 2, 3}, 20240520, 2));
  ExpectInvalid(OpenTokens({version}, 2, 10), {version, "version 2", "only 1"});
  const std::string none = WriteFile("none.bin", Shard({}));
  ExpectInvalid(OpenTokens({none}, 2, 10), {none, "0 tokens"});
  std::string negative = Shard({1, 2, 3});
  negative[11] = '\x80';
  ExpectInvalid(OpenTokens({WriteFile("negative.bin", negative)}, 2, 10), {"at least 1"});
}

TEST(DatasetTest, Tokens_SizeOtherThanTheHeaders_IsRefused) {
  const std::string cut = WriteFile("cut.bin", Shard({1, 2, 3}, 20240520, 1, 4));
  ExpectInvalid(OpenTokens({cut}, 2, 10), {cut, "cut off", "1030 bytes", "1032"});
  const std::string odd = WriteFile("odd.bin", Shard({1, 2, 3}) + "x");
  ExpectInvalid(OpenTokens({odd}, 2, 10), {odd, "too long", "1031 bytes", "1030"});
  const std::string huge = WriteFile("huge.bin", Shard({1, 2, 3}, 20240520, 1, 2147483647));
  ExpectInvalid(OpenTokens({huge}, 2, 10), {huge, "cut off"});
}

TEST(DatasetTest, Tokens_IdOutsideVocab_IsNamedWithItsPlace) {
  const std::string good = WriteFile("in.bin", Shard({1, 2, 3}));
  const std::string bad = WriteFile("out.bin", Shard({1, 2, 65535, 10, 3}));
  ExpectInvalid(OpenTokens({good, bad}, 2, 10), {bad, "token 65535 at position 2", "vocab = 10"});
}

TEST(DatasetTest, Text_SamplesShareTheirBoundaryToken) {
  const auto dataset = OpenText({WriteFile("ten.txt", "abcdefghij")}, 4);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ((*dataset)->samples(), 2);  // 9 steps from byte to byte: two of 4, and a rest of 1.
  EXPECT_EQ(Sample(**dataset, 0), (std::vector<int32_t>{'a', 'b', 'c', 'd', 'e'}));
  EXPECT_EQ(Sample(**dataset, 1), (std::vector<int32_t>{'e', 'f', 'g', 'h', 'i'}));
  EXPECT_EQ((*dataset)->max_token(), 'j');
  EXPECT_EQ((*dataset)->seq_len(), 4);
}

TEST(DatasetTest, Text_FilesAreJoinedInOrder) {
  const std::string a = WriteFile("a.txt", "ab"), b = WriteFile("b.txt", "c\xff");
  const auto dataset = OpenText({a, b}, 3);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(Sample(**dataset, 0), (std::vector<int32_t>{'a', 'b', 'c', 255}));
  EXPECT_EQ((*dataset)->max_token(), 255);
  EXPECT_EQ(Sample(**OpenText({b, a}, 3), 0), (std::vector<int32_t>{'c', 255, 'a', 'b'}));
}

TEST(DatasetTest, Tokens_ShardsAreJoinedInOrder) {
  const std::string a = WriteFile("a.bin", Shard({1, 2, 50256})),
                    b = WriteFile("b.bin", Shard({4, 65535}));
  const auto dataset = OpenTokens({a, b}, 2, 65536);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ((*dataset)->samples(), 2);
  EXPECT_EQ(Sample(**dataset, 0), (std::vector<int32_t>{1, 2, 50256}));
  EXPECT_EQ(Sample(**dataset, 1), (std::vector<int32_t>{50256, 4, 65535}));
  EXPECT_EQ((*dataset)->max_token(), 65535);
}

TEST(DatasetTest, Checksum_IsOfTheTokens) {
  const std::string one = WriteFile("one.bin", Shard({1, 2, 3, 4}));
  const std::string a = WriteFile("c1.bin", Shard({1, 2})), b = WriteFile("c2.bin", Shard({3, 4}));
  EXPECT_EQ((*OpenTokens({one}, 2, 10))->checksum(), (*OpenTokens({a, b}, 1, 10))->checksum());
  EXPECT_NE((*OpenTokens({one}, 2, 10))->checksum(), (*OpenTokens({b, a}, 2, 10))->checksum());
}

TEST(DatasetTest, RealShard_Opens) {
  const std::string path = TestDataFolder() / "tokens" / "linux_doc_gpt2_val_000000.bin";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "no " << path << "; set SDP_TEST_DATA to a folder with the shared test data";
  }
  const auto dataset = OpenTokens({path}, 1024, 50257);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ((*dataset)->samples(), (390145 - 1) / 1024);
  EXPECT_LT((*dataset)->max_token(), 50257);
}

}  // namespace
}  // namespace sdp
