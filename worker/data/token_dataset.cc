#include <array>
#include <bit>
#include <cassert>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "worker/data/check_tokens.h"
#include "worker/data/dataset.h"
#include "worker/data/joined_bytes.h"

namespace sdp {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr int32_t kMagic = 20240520;
constexpr int32_t kVersion = 1;
using Header = std::array<int32_t, 256>;
constexpr int64_t kTokenBytes = sizeof(uint16_t);

class TokenShards : public TokenDataset {
 public:
  TokenShards(JoinedBytes bytes, int64_t seq_len, int64_t max_token)
      : bytes_(std::move(bytes)),
        seq_len_(seq_len),
        max_token_(max_token),
        checksum_(bytes_.Checksum()) {}

  int64_t samples() const override { return (bytes_.size() / kTokenBytes - 1) / seq_len_; }
  int64_t seq_len() const override { return seq_len_; }
  uint64_t checksum() const override { return checksum_; }
  int64_t max_token() const override { return max_token_; }

  void Read(int64_t sample, absl::Span<int32_t> tokens) const override {
    assert(sample >= 0 && sample < samples());
    assert(static_cast<int64_t>(tokens.size()) == seq_len_ + 1);
    std::vector<uint16_t> narrow(tokens.size());
    bytes_.Read(sample * seq_len_ * kTokenBytes,
                {reinterpret_cast<char*>(narrow.data()), narrow.size() * kTokenBytes});
    std::copy(narrow.begin(), narrow.end(), tokens.begin());
  }

 private:
  const JoinedBytes bytes_;  // The tokens alone, without headers.
  const int64_t seq_len_;
  const int64_t max_token_;
  const uint64_t checksum_;
};

// The tokens of a shard whose header holds.
absl::StatusOr<absl::Span<const uint16_t>> ShardTokens(const MappedFile& file) {
  const auto bad = [&](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", what...));
  };
  const int64_t file_bytes = static_cast<int64_t>(file.bytes().size());
  Header header;
  if (file_bytes < static_cast<int64_t>(sizeof(header))) {
    return bad("not a token shard: ", file_bytes, " bytes, its header alone has ", sizeof(header));
  }
  std::memcpy(header.data(), file.bytes().data(), sizeof(header));
  if (header[0] != kMagic) {
    return bad("not a token shard: magic number ", header[0], ", expected ", kMagic);
  }
  if (header[1] != kVersion) {
    return bad("token shard version ", header[1], "; only ", kVersion, " (uint16 tokens) is known");
  }
  if (header[2] < 1) return bad("its header says ", header[2], " tokens; at least 1 is needed");
  const int64_t expected = static_cast<int64_t>(sizeof(header)) + header[2] * kTokenBytes;
  if (file_bytes != expected) {
    return bad(file_bytes < expected ? "cut off: " : "too long: ", file_bytes, " bytes; the ",
               header[2], " tokens of its header make ", expected);
  }
  // The mapping begins at a page and the header is a multiple of two bytes: aligned.
  return absl::Span<const uint16_t>(
      reinterpret_cast<const uint16_t*>(file.bytes().data() + sizeof(header)),
      static_cast<size_t>(header[2]));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TokenDataset>> OpenTokens(absl::Span<const std::string> paths,
                                                         int64_t seq_len, int64_t vocab) {
  JoinedBytes bytes;
  int64_t max_token = 0;
  for (const std::string& path : paths) {
    SDP_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
    SDP_ASSIGN_OR_RETURN(const absl::Span<const uint16_t> tokens, ShardTokens(file));
    SDP_ASSIGN_OR_RETURN(const int64_t largest, LargestToken(path, tokens, vocab));
    max_token = std::max(max_token, largest);
    bytes.Append(std::move(file), sizeof(Header));
  }
  SDP_RETURN_IF_ERROR(CheckLength(paths, bytes.size() / kTokenBytes, seq_len));
  return std::make_unique<TokenShards>(std::move(bytes), seq_len, max_token);
}

bool IsTokenShard(const std::string& path) {
  int32_t start[2] = {};
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(start), sizeof(start));
  return file.gcount() == sizeof(start) && start[0] == kMagic && start[1] == kVersion;
}

}  // namespace sdp
