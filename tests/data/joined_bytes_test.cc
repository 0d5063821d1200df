#include "worker/data/joined_bytes.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/data/files.h"

namespace sdp {
namespace {

JoinedBytes Join(const std::vector<std::string>& contents, int64_t begin = 0) {
  JoinedBytes joined;
  for (size_t i = 0; i < contents.size(); ++i) {
    const std::string path = WriteFile(absl::StrCat("part", i), contents[i]);
    auto file = MappedFile::Open(path);
    EXPECT_TRUE(file.ok()) << file.status();
    joined.Append(*std::move(file), begin);
  }
  return joined;
}

std::string Read(const JoinedBytes& joined, int64_t offset, size_t count) {
  std::string out(count, '?');
  joined.Read(offset, absl::MakeSpan(out));
  return out;
}

TEST(JoinedBytesTest, Read_CrossesFileBoundaries) {
  const JoinedBytes joined = Join({"abc", "d", "efgh"});
  ASSERT_EQ(joined.size(), 8);
  const std::string all = "abcdefgh";
  for (size_t begin = 0; begin <= all.size(); ++begin) {
    for (size_t count = 0; begin + count <= all.size(); ++count) {
      EXPECT_EQ(Read(joined, static_cast<int64_t>(begin), count), all.substr(begin, count));
    }
  }
}

TEST(JoinedBytesTest, Begin_IsLeftOutOfEachFile) {
  const JoinedBytes joined = Join({"12ab", "34", "56c"}, 2);
  ASSERT_EQ(joined.size(), 3);
  EXPECT_EQ(Read(joined, 0, 3), "abc");
}

TEST(JoinedBytesTest, Checksum_IsOfTheContentNotOfItsFiles) {
  EXPECT_EQ(Join({"abc", "defgh"}).Checksum(), Join({"abcdefgh"}).Checksum());
  EXPECT_NE(Join({"defgh", "abc"}).Checksum(), Join({"abcdefgh"}).Checksum());
  EXPECT_NE(Join({"abcdefgx"}).Checksum(), Join({"abcdefgh"}).Checksum());
  EXPECT_NE(Join({std::string(5, '\0')}).Checksum(), Join({std::string(6, '\0')}).Checksum());
}

// 10,000 bytes in 64 pieces of 16: every 158 or 159 bytes one begins, the last ends with the last
// byte.
TEST(JoinedBytesTest, Checksum_OfMuch_TakesSizeAndSpreadPieces) {
  const std::string bytes(10000, 'x');
  const auto checksum = [](const std::string& content) {
    return Join({content}).Checksum(9999, 16);
  };
  const uint64_t before = checksum(bytes);
  const auto changed = [&](size_t at) {
    std::string other = bytes;
    other[at] = 'y';
    return checksum(other) != before;
  };
  EXPECT_TRUE(changed(0));
  EXPECT_TRUE(changed(15));
  EXPECT_FALSE(changed(16));
  EXPECT_FALSE(changed(157));
  EXPECT_TRUE(changed(158));
  EXPECT_TRUE(changed(9984 * 31 / 63));
  EXPECT_FALSE(changed(9983));
  EXPECT_TRUE(changed(9984));
  EXPECT_TRUE(changed(9999));
  EXPECT_NE(checksum(bytes + "x"), before);
}

TEST(JoinedBytesTest, Checksum_UpToTheLimit_TakesEveryByte) {
  const std::string bytes(1000, 'x');
  const uint64_t before = Join({bytes}).Checksum(1000, 16);
  for (size_t at = 0; at < bytes.size(); at += 37) {
    std::string other = bytes;
    other[at] = 'y';
    EXPECT_NE(Join({other}).Checksum(1000, 16), before) << at;
  }
}

TEST(MappedFileTest, Move_KeepsTheBytes) {
  auto file = MappedFile::Open(WriteFile("moved", "hello"));
  ASSERT_TRUE(file.ok());
  const MappedFile moved = *std::move(file);
  EXPECT_EQ(moved.bytes(), "hello");
}

}  // namespace
}  // namespace sdp
