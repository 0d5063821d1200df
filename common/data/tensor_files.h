#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/data/safetensors.h"

namespace sdp {

// Named tensors that lie in one safetensors file or are spread over several, each an open file of
// which only the header is in memory. Threads: immutable, any.
class TensorFiles {
 public:
  // `name` is what errors call all of them: the file, or its folder. Errors:
  // SafetensorsReader::Open's; InvalidArgument - a tensor is in two files.
  static absl::StatusOr<std::unique_ptr<const TensorFiles>> Open(
      std::string name, absl::Span<const std::string> paths);

  const std::string& name() const { return name_; }
  // The file that has the tensor; null: none has.
  const SafetensorsReader* Find(absl::string_view tensor) const;
  const std::vector<std::unique_ptr<SafetensorsReader>>& files() const { return files_; }

 private:
  explicit TensorFiles(std::string name) : name_(std::move(name)) {}

  const std::string name_;
  std::vector<std::unique_ptr<SafetensorsReader>> files_;
  absl::flat_hash_map<std::string, const SafetensorsReader*> of_;  // by tensor
};

}  // namespace sdp
