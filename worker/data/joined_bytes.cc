#include "worker/data/joined_bytes.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "common/base/hash.h"

namespace sdp {

void JoinedBytes::Append(MappedFile file, int64_t begin) {
  const absl::string_view bytes = file.bytes().substr(static_cast<size_t>(begin));
  if (bytes.empty()) return;
  parts_.push_back({std::move(file), bytes, size_});
  size_ += static_cast<int64_t>(bytes.size());
}

void JoinedBytes::Read(int64_t offset, absl::Span<char> out) const {
  assert(offset >= 0 && static_cast<int64_t>(out.size()) <= size_ - offset);
  if (out.empty()) return;
  auto part = std::upper_bound(parts_.begin(), parts_.end(), offset,
                               [](int64_t value, const Part& p) { return value < p.begin; });
  for (--part; !out.empty(); ++part) {
    const size_t from = static_cast<size_t>(offset - part->begin);
    const size_t count = std::min(out.size(), part->bytes.size() - from);
    std::memcpy(out.data(), part->bytes.data() + from, count);
    offset += static_cast<int64_t>(count);
    out.remove_prefix(count);
  }
}

uint64_t JoinedBytes::Checksum(int64_t whole_bytes, int64_t piece_bytes) const {
  assert(piece_bytes >= 1 && piece_bytes <= whole_bytes);
  // Each piece's hash is the seed of the next one's; the first seed is the size.
  uint64_t hash = static_cast<uint64_t>(size_);
  std::vector<char> buffer(static_cast<size_t>(piece_bytes));
  const auto add = [&](int64_t offset) {
    const absl::Span<char> piece =
        absl::MakeSpan(buffer).first(static_cast<size_t>(std::min(piece_bytes, size_ - offset)));
    Read(offset, piece);
    hash = Hash64({piece.data(), piece.size()}, hash);
  };
  if (size_ <= whole_bytes) {
    for (int64_t offset = 0; offset < size_; offset += piece_bytes) add(offset);
  } else {
    constexpr int64_t kLast = 63;
    for (int64_t i = 0; i <= kLast; ++i) add((size_ - piece_bytes) * i / kLast);
  }
  return hash;
}

}  // namespace sdp
