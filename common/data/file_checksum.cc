#include "common/data/file_checksum.h"

#include <algorithm>
#include <fstream>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/hash.h"

namespace sdp {

absl::StatusOr<uint64_t> FileChecksum(const std::string& path) {
  constexpr int64_t kPiece = int64_t{1} << 20, kWhole = int64_t{1} << 30, kPieces = 64;
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const int64_t size = file ? static_cast<int64_t>(file.tellg()) : -1;
  if (size < 0) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  const int64_t stride = size <= kWhole ? kPiece : (size - kPiece) / (kPieces - 1);
  uint64_t hash = Hash64({reinterpret_cast<const char*>(&size), sizeof(size)});
  std::string piece;
  for (int64_t at = 0; at < size; at += stride) {
    piece.resize(static_cast<size_t>(std::min(kPiece, size - at)));
    file.seekg(at);
    if (!file.read(piece.data(), static_cast<std::streamsize>(piece.size())))
      return absl::UnavailableError(absl::StrCat("read ", path, " at byte ", at));
    hash = Hash64(piece, hash);
  }
  return hash;
}

}  // namespace sdp
