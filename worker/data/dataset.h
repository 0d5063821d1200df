#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace sdp {

class ImageDataset;
class TokenDataset;

// Samples to learn from, of one kind; what they are is said by the class for each kind. Threads:
// immutable; samples may be read on many threads at once. Lifetime: keeps its files mapped.
class Dataset {
 public:
  virtual ~Dataset() = default;

  virtual int64_t samples() const = 0;           // At least 1.
  virtual int64_t terms_per_sample() const = 0;  // Targets, each a term of the loss.
  // Of the content (protocol.md section 4): equal on all workers that read the same samples.
  virtual uint64_t checksum() const = 0;

  // Itself as what it is; null: it is something else.
  virtual const TokenDataset* tokens() const { return nullptr; }
  virtual const ImageDataset* images() const { return nullptr; }
};

// Samples of text for a model that predicts the next token. A sample is seq_len + 1 tokens: all but
// the last are the input, all but the first the targets. Sample k begins at token k * seq_len, so
// neighbours share one token and a rest is left out.
class TokenDataset : public Dataset {
 public:
  virtual int64_t seq_len() const = 0;
  // `tokens` [seq_len + 1]. Precondition: 0 <= sample < samples().
  virtual void Read(int64_t sample, absl::Span<int32_t> tokens) const = 0;
  virtual int64_t max_token() const = 0;  // The largest that occurs.

  int64_t terms_per_sample() const final { return seq_len(); }
  const TokenDataset* tokens() const final { return this; }
};

// The files' bytes, joined in this order; a token is a byte.
// Errors name the file, and the value with what is allowed: NotFound - no such file.
// InvalidArgument - a folder, an empty file, fewer than seq_len + 1 tokens in all, a token >=
// vocab.
absl::StatusOr<std::unique_ptr<TokenDataset>> OpenText(absl::Span<const std::string> paths,
                                                       int64_t seq_len, int64_t vocab = 256);

// Shards of GPT-2 tokens as llm.c writes them, joined in this order: 256 little-endian int32
// (20240520, version 1, number of tokens, unused), then the tokens as uint16. All tokens are
// checked here. Errors: as above; InvalidArgument - another magic number or version, a size that is
// not the header's.
absl::StatusOr<std::unique_ptr<TokenDataset>> OpenTokens(absl::Span<const std::string> paths,
                                                         int64_t seq_len, int64_t vocab);

// Whether a file begins as such a shard does, which no text can. False too if it cannot be read.
bool IsTokenShard(const std::string& path);

}  // namespace sdp
