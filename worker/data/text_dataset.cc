#include <cassert>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "worker/data/check_tokens.h"
#include "worker/data/dataset.h"
#include "worker/data/joined_bytes.h"

namespace sdp {
namespace {

class TextBytes : public TokenDataset {
 public:
  TextBytes(JoinedBytes bytes, int64_t seq_len, int64_t max_token)
      : bytes_(std::move(bytes)),
        seq_len_(seq_len),
        max_token_(max_token),
        checksum_(bytes_.Checksum()) {}

  int64_t samples() const override { return (bytes_.size() - 1) / seq_len_; }
  int64_t seq_len() const override { return seq_len_; }
  uint64_t checksum() const override { return checksum_; }
  int64_t max_token() const override { return max_token_; }

  void Read(int64_t sample, absl::Span<int32_t> tokens) const override {
    assert(sample >= 0 && sample < samples());
    assert(static_cast<int64_t>(tokens.size()) == seq_len_ + 1);
    std::vector<char> bytes(tokens.size());
    bytes_.Read(sample * seq_len_, absl::MakeSpan(bytes));
    for (size_t i = 0; i < bytes.size(); ++i) tokens[i] = static_cast<unsigned char>(bytes[i]);
  }

 private:
  const JoinedBytes bytes_;
  const int64_t seq_len_;
  const int64_t max_token_;
  const uint64_t checksum_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TokenDataset>> OpenText(absl::Span<const std::string> paths,
                                                       int64_t seq_len, int64_t vocab) {
  JoinedBytes bytes;
  int64_t max_token = 0;
  for (const std::string& path : paths) {
    SDP_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
    const absl::Span<const uint8_t> tokens(reinterpret_cast<const uint8_t*>(file.bytes().data()),
                                           file.bytes().size());
    SDP_ASSIGN_OR_RETURN(const int64_t largest, LargestToken(path, tokens, vocab));
    max_token = std::max(max_token, largest);
    bytes.Append(std::move(file), 0);
  }
  SDP_RETURN_IF_ERROR(CheckLength(paths, bytes.size(), seq_len));
  return std::make_unique<TextBytes>(std::move(bytes), seq_len, max_token);
}

}  // namespace sdp
