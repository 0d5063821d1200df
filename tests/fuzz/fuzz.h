#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

// What the fuzzers of this folder share. libFuzzer calls LLVMFuzzerTestOneInput with one input
// after the other and prefers those that reach new branches.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace sdp {

// An input that should not be possible to make: libFuzzer keeps it.
#define SDP_FUZZ_CHECK(condition)                                          \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: " #condition "\n", __FILE__, __LINE__); \
      std::abort();                                                        \
    }                                                                      \
  } while (false)

inline absl::string_view Text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// A file in memory, with a path by which readers open it.
class MemoryFile {
 public:
  explicit MemoryFile(absl::string_view bytes) : file_(memfd_create("fuzz", MFD_CLOEXEC)) {
    const bool written = file_ >= 0 && write(file_, bytes.data(), bytes.size()) ==
                                           static_cast<ssize_t>(bytes.size());
    SDP_FUZZ_CHECK(written);
  }
  ~MemoryFile() { close(file_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return absl::StrCat("/proc/self/fd/", file_); }

 private:
  const int file_;
};

// Sometimes begins anew from a good input, which no mutation of an empty one would find: the body
// of LLVMFuzzerCustomMutator.
inline size_t MutateOr(absl::string_view good, uint8_t* data, size_t size, size_t max_size,
                       unsigned seed) {
  if (size < 8 || seed % 64 == 0) {
    size = std::min(good.size(), max_size);
    std::copy_n(good.data(), size, reinterpret_cast<char*>(data));
  }
  return LLVMFuzzerMutate(data, size, max_size);
}

}  // namespace sdp
