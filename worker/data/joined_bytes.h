#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "worker/data/mapped_file.h"

namespace sdp {

// Parts of files, one after the other, as one sequence of bytes.   Threads: reads may run on many
// at once.
class JoinedBytes {
 public:
  // Adds all bytes of `file` from `begin` on. Precondition: begin <= the file's size.
  void Append(MappedFile file, int64_t begin);

  int64_t size() const { return size_; }
  // Precondition: [offset, offset + out.size()) lies inside.
  void Read(int64_t offset, absl::Span<char> out) const;

  // Of the content, wherever file boundaries lie. Up to `whole_bytes` every byte counts; above, the
  // size and 64 pieces, spread evenly from the first byte to the last.
  // Precondition: 1 <= piece_bytes <= whole_bytes.
  uint64_t Checksum(int64_t whole_bytes = int64_t{1} << 30,
                    int64_t piece_bytes = int64_t{1} << 20) const;

 private:
  struct Part {
    MappedFile file;
    absl::string_view bytes;
    int64_t begin;  // Of `bytes` in the sequence.
  };
  std::vector<Part> parts_;  // Non-empty ones, by begin.
  int64_t size_ = 0;
};

}  // namespace sdp
