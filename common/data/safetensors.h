#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sdp {

// Bytes of one element of a type as the format names it ("F32", "BF16", "I64", ...); 0: unknown.
int64_t SafetensorsTypeBytes(absl::string_view dtype);

// Reads tensors out of a safetensors file: 8 bytes little-endian header length, a JSON header
// {name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": {...}}, then the data. Opening
// reads and checks the header alone, so a process pays for no more than the elements it asks for.
// Threads: immutable after Open; Read may run on many at once.
class SafetensorsReader {
 public:
  struct Tensor {
    std::string name;
    std::string dtype;           // As in the file: "F32", "BF16", "I64", ...
    std::vector<int64_t> shape;  // Row-major.
    int64_t elements = 0;
    int64_t offset_bytes = 0;  // Of its first element, from the file's begin.
  };

  // NotFound, InvalidArgument - no such file; not one in this format (lengths, types, offsets,
  // overlaps and gaps are checked). DataLoss - the file is shorter than its header says.
  static absl::StatusOr<std::unique_ptr<SafetensorsReader>> Open(const std::string& path);

  ~SafetensorsReader();
  SafetensorsReader(const SafetensorsReader&) = delete;
  SafetensorsReader& operator=(const SafetensorsReader&) = delete;

  const std::string& path() const { return path_; }
  // In the order of their data in the file.
  const std::vector<Tensor>& tensors() const { return tensors_; }
  // Null if there is none of this name.
  const Tensor* Find(absl::string_view name) const;

  // Elements [element_offset, element_offset + out.size()) of a tensor of type F32, F16 or BF16, as
  // f32. NotFound - no such tensor. InvalidArgument - another type, or elements beyond its end.
  // DataLoss - the file was cut.
  absl::Status Read(absl::string_view name, int64_t element_offset, absl::Span<float> out) const;

 private:
  SafetensorsReader(std::string path, int file) : path_(std::move(path)), file_(file) {}
  absl::Status ReadHeader();
  absl::Status ReadBytes(int64_t offset, absl::Span<char> out) const;

  const std::string path_;
  const int file_;  // Owned descriptor.
  std::vector<Tensor> tensors_;
  absl::flat_hash_map<std::string, size_t> index_;  // Into tensors_.
};

}  // namespace sdp
