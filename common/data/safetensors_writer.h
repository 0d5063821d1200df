#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sdp {

// Writes a safetensors file front to back, without ever holding more of it than the caller gives:
// names, types and shapes first, then the tensors' bytes in that order. The bytes of the file
// depend on these alone. Threads: confined to one.
// Errors name the file; ResourceExhausted - the disk is full. After an error the object is dead.
class SafetensorsWriter {
 public:
  struct Tensor {
    std::string name;            // not empty, UTF-8, each once
    std::string dtype;           // "F32", "BF16", "F16", "I64", ...
    std::vector<int64_t> shape;  // row-major
  };
  using Metadata = std::vector<std::pair<std::string, std::string>>;  // in this order

  // Makes or replaces `path`. InvalidArgument - a name that comes twice, an unknown type.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, const std::vector<Tensor>& tensors, const Metadata& metadata);
  // A file that was not finished is removed.
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The next bytes of data, little-endian; a tensor's may come in several calls.
  absl::Status Append(absl::string_view bytes);
  // The file is complete and on the disk (fsync). Internal - bytes are missing.
  absl::Status Finish();

  int64_t file_bytes() const { return header_bytes_ + data_bytes_; }

 private:
  SafetensorsWriter(std::string path, std::FILE* file, int64_t header_bytes, int64_t data_bytes);
  absl::Status Fail(const char* doing);

  const std::string path_;
  std::FILE* file_;  // null once finished
  const int64_t header_bytes_;
  const int64_t data_bytes_;
  int64_t written_ = 0;   // of the data
  int64_t unsynced_ = 0;  // written since the last wait for the disk
};

}  // namespace sdp
